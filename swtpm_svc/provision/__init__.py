"""What a manufacturer does: endorsement keys, certificates, the local CA, ownership.

The rule: everything goes through "execute this command" and is the same for a TPM in this process and one behind a
device. cryptography is imported by what needs it, when it needs it.
"""
