"""Who asks, as a value: the same for every front end."""

from swtpm_svc.wire.values import NamedTuple


class Caller(NamedTuple):
    """Who made the system call, by the kernel's word.

    All zero in requests that the kernel makes for itself (RELEASE).
    """

    uid: int
    gid: int
    pid: int
    #: Supplementary groups, where the kernel tells them: of the peers of UNIX sockets.
    groups: "tuple[int, ...]" = ()
