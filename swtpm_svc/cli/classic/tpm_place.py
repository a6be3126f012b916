"""Where swtpm_bios and the tools of 2014 find the TPM that takes their commands: by option, or by the environment.

Each command has an open file or a connection of its own, as a server may close it behind the response.
"""

import _socket
import errno
import os
import select
from collections.abc import Mapping

from swtpm_svc.cli.classic.c_numbers import unsigned
from swtpm_svc.cli.classic.tpm_addresses import AddressError, Unreachable, connect_tcp, connect_unix, open_device
from swtpm_svc.wire.protocol_error import ProtocolError
from swtpm_svc.wire.tpm_header import HEADER_SIZE, decode_header

DEFAULT_PORT = 6545
DEFAULT_DEVICE = "/dev/tpm0"

_CONNECT_S = 20.0
_RESPONSE_MAX_BYTES = 4096


class Place:
    def exchange(self, command: bytes, timeout_s: float) -> bytes:
        """Send a command; its response.

        Raises:
            AddressError: there is no way there. OSError: the way broke off. ProtocolError: what came is no response.
        """
        raise NotImplementedError


class DevicePlace(Place):
    """A command is one write, a response one read."""

    def __init__(self, path: str) -> None:
        self._path = path

    def exchange(self, command: bytes, timeout_s: float) -> bytes:
        descriptor = open_device(self._path)
        try:
            os.write(descriptor, command)
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            if not poll.poll(timeout_s * 1000):
                raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
            return os.read(descriptor, _RESPONSE_MAX_BYTES)
        finally:
            os.close(descriptor)


class _SocketPlace(Place):
    #: As what it is told that nobody listens.
    kind = ""

    def exchange(self, command: bytes, timeout_s: float) -> bytes:
        try:
            sock = self._connected()
        except Unreachable:
            raise AddressError(f"Could not connect using {self.kind} socket.") from None
        try:
            sock.settimeout(timeout_s)
            sock.sendall(command)
            return _response(sock)
        finally:
            sock.close()

    def _connected(self) -> "_socket.socket":
        raise NotImplementedError


class TcpPlace(_SocketPlace):
    kind = "TCP"

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port

    def _connected(self) -> "_socket.socket":
        return connect_tcp(self._host, self._port, _CONNECT_S)


class UnixPlace(_SocketPlace):
    kind = "UnixIO"

    def __init__(self, path: str) -> None:
        self._path = path

    def _connected(self) -> "_socket.socket":
        return connect_unix(self._path, _CONNECT_S)


def _response(sock: "_socket.socket") -> bytes:
    response, size = b"", HEADER_SIZE
    while len(response) < size:
        piece = sock.recv(size - len(response))
        if not piece:
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        response += piece
        if len(response) == HEADER_SIZE:
            size = decode_header(response).size
            if not HEADER_SIZE <= size <= _RESPONSE_MAX_BYTES:
                raise ProtocolError(f"it says that it has {size} octets")
    return response


def tcp_of_environment(variables: Mapping[str, str]) -> "tuple[str, int] | None":
    """Host and port, where TCSD_USE_TCP_DEVICE is set, to whatever value.

    Raises:
        AddressError: the port is none.
    """
    if "TCSD_USE_TCP_DEVICE" not in variables:
        return None
    port = variables.get("TCSD_TCP_DEVICE_PORT", str(DEFAULT_PORT))
    number, rest = unsigned(port, 10)
    if rest or not 0 < number <= 0xFFFF:
        raise AddressError(f"TCSD_TCP_DEVICE_PORT: '{port}' is no port.")
    return variables.get("TCSD_TCP_DEVICE_HOSTNAME", "localhost"), number


def named_by_environment(variables: Mapping[str, str]) -> Place:
    """That, or what TPM_DEVICE says; /dev/tpm0 if neither is there.

    Raises:
        AddressError: the port is none.
    """
    address = tcp_of_environment(variables)
    return DevicePlace(variables.get("TPM_DEVICE", DEFAULT_DEVICE)) if address is None else TcpPlace(*address)
