"""A directory with a TPM in it. pyfuse3 and trio are imported only where [fuse] is configured."""
