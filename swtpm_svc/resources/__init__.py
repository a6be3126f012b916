"""The resource manager of a TPM 2.0: many programs, each with objects and sessions of its own (decisions/0029).

The rule: pure logic over "execute these bytes at the TPM". It knows no front end, no clock and no file, and it has no
list of commands: which handles a command has, the TPM says. Where the specification makes an exception for a command,
`manager` has it.

Where the kernel's /dev/tpmrm0 (drivers/char/tpm/tpm2-space.c) has an answer, it is the same here.
"""
