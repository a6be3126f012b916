"""What a classic command is to serve, as values: a `Config`, as an instance's file gives it, and what no file can say.

That is what belongs to the caller: descriptors, the process' end with a connection, its file of the pid, its root.
"""

from swtpm_svc.config.schema import Config
from swtpm_svc.state.encryption import NO_KEYS, Keys
from swtpm_svc.wire.hints import Optional
from swtpm_svc.wire.values import NamedTuple

SOCKET, CHARDEV, CUSE = "socket", "chardev", "cuse"
#: What a socket file may, where nothing else is said.
SOCKET_MODE = 0o770


class Endpoint(NamedTuple):
    """Where the clients of one channel come from.

    A UNIX `path`, or a TCP `port` of `host` (with an `interface` for a link-local address), or the descriptor `fd`,
    which listens or (`is_connected`) is the one connection. `uid` and `gid`: of the socket file; None: as it is made.
    """

    path: str = ""
    host: str = ""
    port: int = 0
    interface: str = ""
    fd: int = -1
    is_connected: bool = False
    mode: int = SOCKET_MODE
    uid: Optional[int] = None
    gid: Optional[int] = None


class PidFile(NamedTuple):
    """Where the pid is written: a path, or an open file."""

    path: str = ""
    fd: int = -1


class Emulation(NamedTuple):
    """One run of swtpm."""

    config: Config
    interface: str
    keys: Keys = NO_KEYS
    #: State files that are there keep their permission bits: the mode in `config` is for those that are made.
    keeps_modes: bool = False
    data: Optional[Endpoint] = None
    control: Optional[Endpoint] = None
    #: A data connection is closed after each response.
    disconnects: bool = False
    #: The end of the data connection is that of the process; and so is that of a control connection.
    ends_with_data: bool = False
    ends_with_control: bool = False
    #: The open character device that is served (chardev); -1: one of the kernel's driver vtpm_proxy is made.
    character_device: int = -1
    is_background: bool = False
    pid_file: Optional[PidFile] = None
    #: The user that the process becomes when the device is there (cuse); "": it stays.
    later_user: str = ""
    #: What happens at a forbidden system call: kill, log, none.
    seccomp: str = "kill"
    max_locality: int = 4
    obeys_set_locality: bool = False
    #: The open file that commands are captured in; -1: none.
    capture_fd: int = -1
    captures_checksums: bool = False
