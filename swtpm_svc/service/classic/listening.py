"""The sockets of a classic command: made where its `Endpoint` says, or taken from the caller's descriptors."""

import errno
import os
import stat

from swtpm_svc.frontends import plain_socket as socket
from swtpm_svc.frontends import socket_file
from swtpm_svc.service.classic.emulation import Endpoint
from swtpm_svc.wire.small_tools import suppress

#: Clients wait here while another one is served; swtpm has room for one.
_BACKLOG = 16


class Listening:
    """One channel's socket, and the file that goes with it. Whoever takes `sock` closes it."""

    def __init__(self, endpoint: Endpoint) -> None:
        """
        Raises:
            OSError: it cannot be listened there, or the descriptor is not that of such a socket.
        """
        self.is_connected = endpoint.is_connected
        self._path = ""
        if endpoint.fd >= 0:
            self.sock = socket.socket(fileno=endpoint.fd)
            self.sock.set_inheritable(False)
        elif endpoint.path:
            self.sock = _bind_unix(endpoint)
            self._path = endpoint.path
        else:
            self.sock = _bind_tcp(endpoint)
        if not self.is_connected:
            self.sock.listen(_BACKLOG)

    def remove_file(self) -> None:
        if self._path:
            with suppress(OSError):
                os.unlink(self._path)


def _bind_unix(endpoint: Endpoint) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    uid, gid = (-1 if number is None else number for number in (endpoint.uid, endpoint.gid))
    try:
        _make_room(endpoint.path)
        socket_file.bind(sock, endpoint.path, endpoint.mode, uid, gid)
    except OSError:
        sock.close()
        raise
    return sock


def _make_room(path: str) -> None:
    """Remove what is at the path, as swtpm does: a socket of an earlier run, a link, a file that mktemp(1) has made.

    Not what is somebody's content or device, though swtpm does that, too: the path is a mistake.

    Raises:
        OSError
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    is_content = stat.S_ISREG(found.st_mode) and found.st_size
    if is_content or stat.S_ISFIFO(found.st_mode) or stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode):
        raise OSError(errno.EEXIST, "A socket cannot be made where something else is", path)
    with suppress(FileNotFoundError):
        os.unlink(path)


def _bind_tcp(endpoint: Endpoint) -> socket.socket:
    is_v6 = ":" in endpoint.host
    sock = socket.socket(socket.AF_INET6 if is_v6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_v6:
            scope = socket.if_nametoindex(endpoint.interface) if endpoint.interface else 0
            sock.bind((endpoint.host, endpoint.port, 0, scope))
        else:
            sock.bind((endpoint.host, endpoint.port))
    except OSError:
        sock.close()
        raise
    return sock
