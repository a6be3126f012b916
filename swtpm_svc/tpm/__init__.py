"""The TPM itself: the binding to libtpms, power, execution of commands, locality, state blobs.

The rule: one process is one TPM, and libtpms does one thing at a time. It knows nothing of who asks, or how it was
asked.
"""
