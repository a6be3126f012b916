"""What survives power-off: blobs, durable files, locks, encryption.

The rule: a reply that says "stored" is stored (decisions/0020). It knows files and bytes, and no TPM: what is in
them is libtpms' own.
"""
