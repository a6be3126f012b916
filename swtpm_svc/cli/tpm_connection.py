"""The way of TPM commands from vtpmctl to a TPM: a device, a file of our FUSE front end, or a socket.

A socket can be one for commands or a control socket, which its path does not say. The first command finds out: to a
control socket it is a request that does not exist. What it is then asked for is a data connection (PTM_SET_DATAFD), as
QEMU does.
"""

import array
import errno
import os
import select
import socket
import stat
from types import TracebackType
from typing import NoReturn, Optional, Union

from swtpm_svc.cli.tpm_control import (
    ANSWER_TIME_S,
    Target,
    control_path,
    describe_result,
    is_root,
    refuse_open,
    resolve,
)
from swtpm_svc.config import loading
from swtpm_svc.config.addresses import parse_address
from swtpm_svc.config.loading import Config
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.frontends.fuse.mounts import TYPE as FUSE_TYPE
from swtpm_svc.frontends.sockets.channel import acknowledge, is_tcp
from swtpm_svc.provision.ownership import PROBE
from swtpm_svc.wire import ptm, ptm_socket
from swtpm_svc.wire.protocol_error import ProtocolError
from swtpm_svc.wire.tpm_header import HEADER_SIZE, decode_header

#: Bytes of the longest response of a TPM (the kernel's TPM_BUFSIZE, libtpms' buffer).
RESPONSE_MAX_BYTES = 4096

_NETWORKS = ("tcp:", "vsock:")


def find_tpm(name: str, directory: str = loading.CONFIG_DIRECTORY) -> Target:
    """Where the TPM takes commands: a path, `tcp:[HOST:]PORT`, `vsock:CID:PORT`, or what the configuration says.

    Raises:
        VtpmError CONFIG_MISSING, CONFIG_UNREADABLE, CONFIG_INVALID, USAGE.
    """
    if name.startswith(_NETWORKS):
        return Target(name, name, None, directory)
    return resolve(name, directory, _command_path)


def tcti(target: Target) -> str:
    """For -T of tpm2-tools, which without it speak to the host's own TPM; "TCTI" where that cannot be said."""
    is_file = os.path.exists(target.path) and not stat.S_ISSOCK(os.stat(target.path).st_mode)
    return f"device:{target.path}" if is_file else "TCTI"


def _command_path(loaded: Config) -> str:
    if loaded.device.enabled:
        return loaded.device.node
    if loaded.socket.data != "none":
        return loaded.socket.data
    if loaded.fuse.enabled:
        return f"{loaded.fuse.directory}/tpm"
    return control_path(loaded)


class TpmConnection:
    """A TPM that was opened; a context manager.

    When an exchange is cut short, by an interrupt or a timeout, its answer may still come, and would be taken for that
    to the next command. So that one goes another way.

    Raises:
        VtpmError DAEMON_UNREACHABLE, NOT_PERMITTED, USAGE, BUSY, LIBTPMS, PROTOCOL.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self._way: Optional[_Way] = _open(target)
        #: A device, or a control socket: vtpmctl's control operations take it, too.
        self.takes_control = self._way.takes_control

    def execute(self, command: bytes) -> bytes:
        """Send one command and return the response.

        Raises:
            VtpmError BUSY, DAEMON_UNREACHABLE, NOT_PERMITTED, LIBTPMS: what the kernel said.
            ProtocolError: what came is not a response.
        """
        way, self._way = self._way or _open(self.target), None
        try:
            response = way.exchange(command)
        except BaseException as error:
            way.close()
            if isinstance(error, OSError):  # a timeout is one too
                _refuse_exchange(self.target, error)
            raise
        self._way = way
        return response

    def close(self) -> None:
        if self._way is not None:
            self._way.close()

    def __enter__(self) -> "TpmConnection":
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()


class _Way:
    """One open file or socket."""

    takes_control = False

    def exchange(self, command: bytes) -> bytes:
        """Raises: OSError, ProtocolError."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class _File(_Way):
    """A command is one write, a response one read."""

    def __init__(self, descriptor: int, *, takes_control: bool) -> None:
        self.takes_control = takes_control
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)

    def close(self) -> None:
        os.close(self._descriptor)

    def exchange(self, command: bytes) -> bytes:
        os.write(self._descriptor, command)
        if not self._poll.poll(ANSWER_TIME_S * 1000):
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        return os.read(self._descriptor, RESPONSE_MAX_BYTES)


class _Stream(_Way):
    """Commands and responses follow one another on a socket; their headers say how long each is."""

    def __init__(self, sock: socket.socket, *, takes_control: bool = False) -> None:
        self.takes_control = takes_control
        self._socket = sock

    def close(self) -> None:
        self._socket.close()

    def exchange(self, command: bytes) -> bytes:
        self._socket.sendall(command)
        response, size = b"", HEADER_SIZE
        while len(response) < size:
            piece = self._socket.recv(size - len(response))
            if not piece:
                raise ConnectionAbortedError(errno.ECONNABORTED, "the connection was closed")
            response += piece
            if len(response) == HEADER_SIZE:
                size = decode_header(response).size
                if not HEADER_SIZE <= size <= RESPONSE_MAX_BYTES:
                    raise ProtocolError(f"a response says that it has {size} bytes")
            if len(response) < size and is_tcp(self._socket):
                acknowledge(self._socket)
        return response


def _open(target: Target) -> _Way:
    try:
        if target.path.startswith(_NETWORKS):
            return _Stream(_connect_network(target))
        # stat first: opening some other device can have an effect of its own (a watchdog, a tape)
        found = os.stat(target.path)
        if stat.S_ISSOCK(found.st_mode):
            return _open_socket(target)
        is_device = stat.S_ISCHR(found.st_mode)
        if is_device or (stat.S_ISREG(found.st_mode) and _is_on_our_mount(found.st_dev)):
            descriptor = os.open(target.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
            if not os.isatty(descriptor):
                return _File(descriptor, takes_control=is_device)
            os.close(descriptor)
    except OSError as error:
        refuse_open(target, error)
    raise VtpmError(
        Code.USAGE,
        f"{target.path} is neither a TPM's device nor a socket",
        remedy="name an instance, a /dev path or a socket: vtpmctl list",
    )


def _is_on_our_mount(device: int) -> bool:
    """Is this the number of a mount of the FUSE front end? Into any other regular file a command is not to be
    written."""
    number = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        # proc(5): the device's number is the third word, the type the first one behind the dash
        return any(line.split()[2] == number and line.partition(" - ")[2].split()[0] == FUSE_TYPE for line in file)


def _connect_network(target: Target) -> socket.socket:
    try:
        address = parse_address(target.path)
    except ValueError:
        address = None
    if address is None:
        raise VtpmError(
            Code.USAGE, f"{target.path} is not an address", remedy="give tcp:PORT, tcp:HOST:PORT or vsock:CID:PORT"
        )
    if address.cid is not None:
        return _connected(socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM), (address.cid, address.port))
    connected = socket.create_connection((address.host, address.port), ANSWER_TIME_S)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connected


def _connect(target: Target) -> socket.socket:
    return _connected(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), target.path)


def _connected(sock: socket.socket, where: "Union[str, tuple[int, int]]") -> socket.socket:
    """`sock`, which is closed if it cannot be connected."""
    sock.settimeout(ANSWER_TIME_S)
    try:
        sock.connect(where)
    except OSError:
        sock.close()
        raise
    return sock


def _open_socket(target: Target) -> _Stream:
    with _connect(target) as probe:
        probe.sendall(PROBE)
        is_control = not any(
            probe.recv(2, socket.MSG_WAITALL)
        )  # no response's tag is zero; a PTM result's first half is
    return _Stream(_ask_for_data(target) if is_control else _connect(target), takes_control=is_control)


def _ask_for_data(target: Target) -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with theirs, _connect(target) as control:
            passed = array.array("i", [theirs.fileno()])
            control.sendmsg([ptm_socket.pack(ptm.SetDataFd())], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)])
            answer = control.recv(4, socket.MSG_WAITALL)
            if len(answer) < 4 or any(answer):
                words = describe_result(int.from_bytes(answer, "big")) if answer else "nothing"
                raise VtpmError(
                    Code.PROTOCOL,
                    f"{target.path} gives no way to the TPM: PTM_SET_DATAFD gave {words}",
                    remedy="give the path of the socket that takes TPM commands",
                )
        ours.settimeout(ANSWER_TIME_S)
    except BaseException:
        ours.close()
        raise
    return ours


def _refuse_exchange(target: Target, error: OSError) -> NoReturn:
    what = f"{target.name}: the command was not answered ({error.strerror or error})"
    if error.errno == errno.EBUSY:
        raise VtpmError(Code.BUSY, what, remedy="try again when no other program uses the TPM") from error
    if error.errno in (errno.EPERM, errno.EACCES):
        remedy = "run this as root" if not is_root() else "see what denies it to root: ausearch -m avc -ts recent"
        raise VtpmError(Code.NOT_PERMITTED, what, remedy=remedy) from error
    if error.errno in (errno.ENODEV, errno.ENXIO, errno.ENOTCONN, errno.ECONNABORTED, errno.ECONNRESET, errno.EPIPE):
        raise VtpmError(Code.DAEMON_UNREACHABLE, what, remedy=target.start) from error
    raise VtpmError(Code.LIBTPMS, what, remedy=f"see what the service says: {target.journal}") from error
