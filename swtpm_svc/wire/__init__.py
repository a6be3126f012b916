"""Bytes <-> values: the protocols, codes and structures of TPM, control protocol, CUSE and mssim.

The rule: no I/O, no state, no logging, and nothing of ours is imported. What a number means is said here and nowhere
else.
"""
