"""The service behind the classic commands: the parts of the daemon, put together as swtpm's callers know it.

One process that keeps its words, serves whoever the mode of a socket lets in, and knows nothing of systemd but its
READY. What it is to do is an `Emulation`; cli/classic makes that of a command line.
"""
