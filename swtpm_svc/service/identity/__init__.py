"""Whether it is still the same TPM: its keys, the record of them, and copies on this host."""
