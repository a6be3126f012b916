"""The kernel's own TPM driver as a client: a TPM of the kernel, /dev/tpmN, made by its driver vtpm_proxy."""
