"""The ways in: `cuse`, `sockets`, `fuse` and `kernel`, each in a folder that knows nothing of the others; and what they
share.

The rule: a front end receives, decodes, asks the dispatcher and replies. Who may do what, and whether now or later, is
the dispatcher's to say.
"""
