"""Where the classic tools find a TPM: a device, `[HOST]:[PORT]`, or the path of a socket."""

import _socket
import os

from swtpm_svc.cli.classic.c_numbers import unsigned

DEFAULT_HOST = "127.0.0.1"
_PATH_MAX_BYTES = 107  # of a sockaddr_un, the zero at its end left out

#: Of st_mode; `stat` takes long to import.
_KIND, _CHARACTER = 0o170000, 0o020000


class AddressError(Exception):
    """There is no way there; the message is the classic tools' own."""


class Unreachable(AddressError):
    """It is a place, but nobody serves it."""


def split_tcp(text: str, default_port: int) -> "tuple[str, int]":
    """`[HOST]:[PORT]` or HOST, split at the last colon, so that ::1:2322 is port 2322 of ::1.

    Raises:
        AddressError: the port is none.
    """
    host, colon, port = text.rpartition(":")
    if not colon:
        return text, default_port
    host = host or DEFAULT_HOST
    if not port and text == ":":
        return host, default_port
    number, rest = unsigned(port, 10)
    if rest == port:  # an empty one is none either
        raise AddressError(f"Invalid port '{port}'")
    if number > 0xFFFF:
        raise AddressError(f"Port '{port}' outside valid range.")
    return host, number


def connect_tcp(host: str, port: int, timeout_s: float) -> "_socket.socket":
    """
    Raises:
        AddressError: the host is not known, or nobody listens there.
    """
    try:
        # as bytes: text would be encoded as an international name, whose tables take longer to import than all else
        found = _socket.getaddrinfo(os.fsencode(host), port, 0, _socket.SOCK_STREAM)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise AddressError(f"getaddrinfo failed on host '{host}': {reason}") from None
    failure: OSError | None = None
    for family, kind, protocol, _name, address in found:
        try:
            sock = _socket.socket(family, kind, protocol)
        except OSError as error:
            failure = error
            continue
        try:
            sock.settimeout(timeout_s)
            sock.connect(address)
            sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
            return sock
        except OSError as error:
            sock.close()
            failure = error
    reason = (failure and failure.strerror) or failure or "it has no address"
    raise Unreachable(f"Could not connect to host '{host}' on port '{port}' using TCP socket: {reason}")


def connect_unix(path: str, timeout_s: float) -> "_socket.socket":
    """
    Raises:
        AddressError: the path is too long, or nobody listens there.
    """
    name = os.fsencode(path)
    if len(name) > _PATH_MAX_BYTES:
        raise AddressError("Socket path is too long.")
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout_s)
        sock.connect(name)
    except OSError as error:
        sock.close()
        raise Unreachable(f"Connect failed: {error.strerror or error}") from None
    return sock


def open_device(path: str) -> int:
    """A descriptor for reading and writing.

    Raises:
        AddressError: it cannot be opened, or is a file, a disk or a pipe, which a command would be written into.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError):
        raise AddressError(f"Unable to open device '{path}'.") from None
    kind = os.fstat(descriptor).st_mode & _KIND
    if kind != _CHARACTER:
        os.close(descriptor)
        raise AddressError(f"Unable to open device '{path}': it is not a character device.")
    return descriptor
