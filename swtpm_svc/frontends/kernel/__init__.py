"""The kernel's own TPM driver as a client (vtpm_proxy)."""
