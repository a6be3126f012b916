"""The socket front end: QEMU's tpm-emulator protocol and that of swtpm's other clients, on UNIX, TCP and vsock sockets.

A control channel carries the control protocol, a data channel TPM commands. QEMU connects to the control channel and
hands a socket for data over it (SET_DATAFD); tpm2-tss connects to both, anew for each command; swtpm_ioctl to control
alone. The mssim protocol has two channels of its own. Any number of each may be open at the same time; the TPM is one.
"""

import errno
import os
import stat
import struct

from swtpm_svc.config.addresses import Address
from swtpm_svc.errors import Code, VtpmError, quote
from swtpm_svc.frontends import plain_socket as socket
from swtpm_svc.frontends import socket_file
from swtpm_svc.frontends.dispatch import Dispatcher
from swtpm_svc.frontends.shares import Shares, too_many
from swtpm_svc.frontends.sockets.channel import Channel
from swtpm_svc.frontends.sockets.control_channel import ControlChannel
from swtpm_svc.frontends.sockets.data_channel import DataChannel
from swtpm_svc.frontends.sockets.listener import Listener
from swtpm_svc.frontends.watcher import Watcher
from swtpm_svc.tpm.controller import Rights
from swtpm_svc.wire.caller import Caller
from swtpm_svc.wire.hints import Callable, Optional
from swtpm_svc.wire.small_tools import partial
from swtpm_svc.wire.values import NamedTuple

#: Connections of all users at a time, and of one (Shares); an account cannot keep the others out.
MAX_CONNECTIONS = 256
MAX_CONNECTIONS_OF_ONE = 64

_UCRED = struct.Struct("iII")  # pid, uid, gid (SO_PEERCRED, unix(7))
_SO_PEERGROUPS = 59  # asm-generic/socket.h
_GROUPS_BYTES = 1024  # what Python's getsockopt() takes at most

#: The kernel does not know who a client over TCP or vsock is. By configuring the port the administrator has let in
#: everybody who reaches it, but the keys stay in.
NETWORK_CALLER = Caller(uid=2**32 - 1, gid=2**32 - 1, pid=0)
NETWORK_RIGHTS = Rights(control=True, secrets=False)


_Add = Callable[[socket.socket, Caller, Optional[Rights]], bool]


class Manners(NamedTuple):
    """How connections are served, where it is not as QEMU wants it of a service."""

    #: Of a client over a network.
    network_rights: Rights = NETWORK_RIGHTS
    #: A data connection ends with a response; not one that came over control (SET_DATAFD).
    disconnects: bool = False
    #: A data channel takes the command of the kernel's driver that sets the locality.
    obeys_set_locality: bool = False
    #: Hears of all that goes over control channels: what it is, and the bytes.
    trace: Optional[Callable[[str, bytes], None]] = None
    #: Called with a service when its last connection has ended.
    on_last_closed: Callable[[str], None] = lambda _service: None


class SocketFrontend:
    """Listens and serves; owns every socket. `close` ends all.

    What a listening socket is for is its service: `control`, `data`, `managed` (data, and each connection has a space),
    or `mssim` and `mssim-platform`, a port apart.
    """

    def __init__(self, watcher: Watcher, dispatcher: Dispatcher, manners: Manners = Manners()) -> None:  # noqa: B008
        self._watcher = watcher
        self._dispatcher = dispatcher
        self._manners = manners
        self._listeners: list[tuple[Listener, str]] = []  # and the file that goes with it
        #: Each with its service.
        self._channels: dict[Channel, str] = {}
        self._shares = Shares(MAX_CONNECTIONS, MAX_CONNECTIONS_OF_ONE)
        self._services: dict[str, _Add] = {
            "control": self._add_control,
            "data": self._add_data,
            "managed": partial(self._add_data, service="managed"),
            "mssim": partial(self._add_mssim, "mssim"),
            "mssim-platform": partial(self._add_mssim, "mssim-platform"),
        }

    # --- listening -----------------------------------------------------------------------------------------------

    def listen(
        self, address: Address, service: str, *, mode: int, gid: Optional[int], passed: Optional[socket.socket]
    ) -> int:
        """Accept connections at `address`, on the socket `passed` if there is one; the descriptor that listens.

        `mode` and `gid` are the new socket file's.

        Raises:
            VtpmError SOCKET_UNAVAILABLE
        """
        try:
            listener = passed or (_bind(address, mode, gid))
        except OSError as error:
            if error.errno == errno.EEXIST:
                remedy = (
                    f"see what it is: ls -ld {quote(address.path)}; move it away, or choose another [socket] address"
                )
            elif error.errno == errno.EADDRINUSE:
                remedy = "see who has it: ss -lpn; or choose another [socket] address"
            else:
                remedy = (
                    "let the service have that directory, or a network (vtpm@.service(8)), or choose another address"
                )
            cause = f"cannot listen on {address}: {error.strerror or error}"
            raise VtpmError(Code.SOCKET_UNAVAILABLE, cause, remedy=remedy) from error
        self._accept_connections(listener, service, address.path)
        return listener.fileno()

    def accept_on(self, listener: socket.socket, service: str) -> None:
        """Accept connections on a socket that systemd listens on (socket activation); its file is systemd's.

        Raises:
            VtpmError SOCKET_UNAVAILABLE: no connections can arrive on it.
        """
        if listener.type != socket.SOCK_STREAM or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            listener.close()
            raise VtpmError(
                Code.SOCKET_UNAVAILABLE,
                f"the socket that systemd passed as {service} is not a listening stream socket",
                remedy="use ListenStream= and Accept=no in the socket unit",
            )
        self._accept_connections(listener, service, "")

    def serve(self, sock: socket.socket, service: str) -> None:
        """Serve a connection that is there already."""
        self._accept(sock, self._services[service])

    def _accept_connections(self, listener: socket.socket, service: str, path: str) -> None:
        add = self._services[service]
        accept = Listener(listener, self._watcher, lambda sock: self._accept(sock, add), self._dispatcher.events.failed)
        self._listeners.append((accept, path))

    @property
    def addresses(self) -> "list[str]":
        """Where connections are accepted."""
        return [str(_address_of(listener.socket)) for listener, _path in self._listeners]

    def _accept(self, sock: socket.socket, add: _Add) -> None:
        rights = self._manners.network_rights
        if not (add(sock, _peer(sock), None) if sock.family == socket.AF_UNIX else add(sock, NETWORK_CALLER, rights)):
            sock.close()

    # --- connections ---------------------------------------------------------------------------------------------

    def _add(self, service: str, caller: Caller, make: Callable[[], Channel]) -> bool:
        """Make a channel, if there is room for it."""
        if not self._shares.has_room(caller.uid):
            self._dispatcher.events.refused(caller, too_many("connections", self._shares, caller.uid))
            return False
        self._channels[make()] = service
        self._shares.add(caller.uid)
        return True

    def _add_control(self, sock: socket.socket, caller: Caller, rights: Optional[Rights]) -> bool:
        def on_data_socket(data: socket.socket, sender: Caller) -> bool:
            return self._add_data(data, sender, rights, came_over_control=True)

        return self._add(
            "control",
            caller,
            lambda: ControlChannel(
                sock,
                caller,
                self._watcher,
                self._forget,
                self._dispatcher,
                on_data_socket,
                rights,
                self._manners.trace,
            ),
        )

    def _add_data(
        self,
        sock: socket.socket,
        caller: Caller,
        rights: Optional[Rights],
        *,
        came_over_control: bool = False,
        service: str = "data",
    ) -> bool:
        return self._add(
            service,
            caller,
            lambda: DataChannel(
                sock,
                caller,
                self._watcher,
                self._forget,
                self._dispatcher,
                rights,
                disconnects=self._manners.disconnects and not came_over_control,
                obeys_set_locality=self._manners.obeys_set_locality,
                is_managed=service == "managed",
            ),
        )

    def _add_mssim(self, service: str, sock: socket.socket, caller: Caller, rights: Optional[Rights]) -> bool:
        # few have these ports
        from swtpm_svc.frontends.sockets.mssim_channel import MssimChannel
        from swtpm_svc.wire.mssim import COMMAND_PORT, PLATFORM_PORT

        ordinals = COMMAND_PORT if service == "mssim" else PLATFORM_PORT
        return self._add(
            service,
            caller,
            lambda: MssimChannel(sock, caller, self._watcher, self._forget, self._dispatcher, ordinals, rights),
        )

    def _forget(self, channel: Channel) -> None:
        service = self._channels.pop(channel)
        self._shares.remove(channel.caller.uid)
        if service not in self._channels.values():
            self._manners.on_last_closed(service)

    @property
    def connections(self) -> int:
        return len(self._channels)

    def close(self, *, keep_files: bool) -> None:
        """End all connections; take the socket files away too, unless a successor is to listen on them."""
        for channel in list(self._channels):
            channel.close()
        for listener, path in self._listeners:
            listener.close()
            if path and not keep_files:
                try:
                    os.unlink(path)
                except OSError:
                    pass
        self._listeners.clear()


def adopt_listener(fds: "list[int]", address: Optional[Address]) -> Optional[socket.socket]:
    """The listening socket that systemd passed, if it listens at `address`; others are closed."""
    found: Optional[socket.socket] = None
    for fd in fds:
        passed = socket.socket(fileno=fd)
        if found is None and _address_of(passed) == address:
            found = passed
        else:
            passed.close()
    return found


def _peer(sock: socket.socket) -> Caller:
    """Who connected, with the groups that the process had then."""
    pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    try:
        groups = memoryview(sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES)).cast("I")
    except OSError:  # more than there is room for (ERANGE); the system's databases have them too
        return Caller(uid, gid, pid)
    return Caller(uid, gid, pid, tuple(groups))


def _address_of(listener: socket.socket) -> Address:
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return Address(os.fsdecode(name), "", 0)
    host, port = name[:2]
    return Address("", "", port, host) if listener.family == socket.AF_VSOCK else Address("", host, port)


def _bind(address: Address, mode: int, gid: Optional[int]) -> socket.socket:
    """Raises: OSError."""
    if address.path:
        return _bind_unix(address.path, mode, gid)
    return _bind_tcp(address) if address.cid is None else _bind_vsock(address.cid, address.port)


def _bind_tcp(address: Address) -> socket.socket:
    family, kind, protocol, _name, where = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(64)
    except OSError:
        listener.close()
        raise
    return listener


def _bind_vsock(cid: int, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    try:
        listener.bind((cid, port))
        listener.listen(64)
    except OSError:
        listener.close()
        raise
    return listener


def _bind_unix(path: str, mode: int, gid: Optional[int]) -> socket.socket:
    """The state's lock is held, so a socket file that nobody answers on is a dead predecessor's."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_dead_socket(path)
        socket_file.bind(listener, path, mode, gid=-1 if gid is None else gid)
        listener.listen(64)
    except OSError:
        listener.close()
        raise
    return listener


def _remove_dead_socket(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "there is a file of another kind")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        else:
            raise OSError(errno.EADDRINUSE, "somebody serves it")
