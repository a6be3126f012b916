"""Can somebody connect to a UNIX socket? Asked without connecting, which a server of one connection would notice."""

_LISTENS = "00010000"


def listens(path):
    """Its file is there from bind(2) on, but only listen(2) makes it take connections: the flags in /proc/net/unix
    (proc(5))."""
    with open("/proc/net/unix", encoding="utf-8") as file:
        return any(line.split()[3] == _LISTENS and line.rstrip("\n").endswith(f" {path}") for line in file)
