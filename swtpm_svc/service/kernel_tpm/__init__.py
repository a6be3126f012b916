"""The kernel's TPM of an instance: made by root, kept over restarts, noted for udev."""
