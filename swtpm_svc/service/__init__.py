"""The daemon: from the configuration to READY, signals, readiness, journal, who may do what, and how it ends.

The rule: it puts together what the floors below offer; what a client is answered is decided there.
"""
