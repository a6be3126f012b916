"""The options --server and --ctrl, -p and -f: where clients come from, as an `Endpoint`."""

import os
import stat

from swtpm_svc.cli.classic import comma_list
from swtpm_svc.cli.classic.comma_list import CommaListError
from swtpm_svc.cli.classic.swtpm_lists import number_of, parse, value_of
from swtpm_svc.cli.classic.swtpm_options import CommandError, c_number
from swtpm_svc.config.addresses import PORT_MAX, UNIX_PATH_MAX
from swtpm_svc.service.classic import user
from swtpm_svc.service.classic.emulation import SOCKET_MODE, Endpoint
from swtpm_svc.wire.hints import Optional
from swtpm_svc.wire.values import NamedTuple

_LOOPBACK = "127.0.0.1"
_OWNER = ("mode", "uid", "gid")
_NETWORK = ("port", "bindaddr", "ifname")


class DataChannel(NamedTuple):
    """--server, -p or -f. `ends`: with the connection the process ends."""

    endpoint: Endpoint
    disconnects: bool = False
    ends: bool = False


class ControlChannel(NamedTuple):
    """--ctrl."""

    endpoint: Endpoint
    ends: bool = False


def port(text: str) -> int:
    """-p. Raises: CommandError."""
    number = c_number(text)
    if number is None or number < 0:
        raise CommandError(f"Cannot parse socket port number '{text}'.")
    if number > PORT_MAX:
        raise CommandError("Port is outside valid range.")
    return number


def descriptor(text: str) -> int:
    """-f. Raises: CommandError."""
    number = c_number(text)
    if number is None:
        raise CommandError("Cannot parse socket file descriptor.")
    if number in (0, 1, 2):
        raise CommandError("Error: Cannot accept file descriptors with values 0, 1, or 2")
    return number


def check_descriptor(fd: int, named: str, *, takes_devices: bool) -> None:
    """What -f or -c names is open, and of a kind that can be talked over: a socket, or a device where that is served.

    Raises:
        CommandError
    """
    try:
        mode = os.fstat(fd).st_mode
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "Bad file descriptor"
        raise CommandError(f"Cannot stat file descriptor: {reason}") from None
    if stat.S_ISFIFO(mode):  # swtpm takes it; who writes there would read their own command as the response
        raise CommandError(f"Given file descriptor type is not supported: {named} is a pipe, which has one direction")
    if stat.S_ISCHR(mode) and not takes_devices:
        raise CommandError(f"Given file descriptor type is not supported: {named} is a device, and not a socket")
    if not (stat.S_ISCHR(mode) or stat.S_ISSOCK(mode)):
        raise CommandError("Given file descriptor type is not supported.")


def server(text: str) -> DataChannel:
    """--server. Raises: CommandError."""
    values = parse(text, "server", ("type", *_NETWORK, "fd", "path", *_OWNER, "disconnect"))
    kind = values.get("type", "tcp")
    disconnects = comma_list.boolean(values, "disconnect")
    fd = number_of(values, "fd", "server")
    owner = _owner(values, "server")
    port_number = number_of(values, "port", "server")
    if kind == "tcp":
        if "fd" in values:
            _check_socket(fd, "TCP socket")
            return DataChannel(Endpoint(fd=fd, is_connected=True), disconnects, ends=True)
        if "port" not in values:
            port_number = _port_of_environment()
        if not 0 <= port_number <= PORT_MAX:
            raise CommandError("TCP socket port outside valid range")
        return DataChannel(_network(values, port_number), disconnects)
    if kind != "unixio":
        raise CommandError(f"Unsupported socket type: {kind}")
    if "fd" in values:
        _check_socket(fd, "UnixIO socket")
        return DataChannel(Endpoint(fd=fd), disconnects)
    if "path" not in values:
        raise CommandError("Missing path and file descriptor option for UnixIO socket")
    return DataChannel(_unix(values["path"], owner), disconnects)


def control(text: str) -> ControlChannel:
    """--ctrl. Raises: CommandError."""
    values = parse(text, "ctrl", ("type", "path", *_NETWORK, "fd", "clientfd", *_OWNER, "terminate"))
    kind, ends = values.get("type"), comma_list.boolean(values, "terminate")
    fd, client_fd = number_of(values, "fd", "ctrl"), number_of(values, "clientfd", "ctrl")
    port_number = number_of(values, "port", "ctrl")
    owner = _owner(values, "ctrl")
    if kind is None:
        raise CommandError("Missing type parameter for control channel")
    if kind == "unixio":
        if "path" in values:
            return ControlChannel(_unix(values["path"], owner), ends)
        if "fd" in values:
            _check_socket(fd, "UnixIO control channel")
            return ControlChannel(Endpoint(fd=fd), ends)
        if "clientfd" in values:
            _check_socket(client_fd, "UnixIO client control channel")
            return ControlChannel(Endpoint(fd=client_fd, is_connected=True), ends)
        raise CommandError("Missing path and fd options for UnixIO control channel")
    if kind != "tcp":
        raise CommandError(f"Unsupported control channel type: {kind}")
    if "port" in values:
        if not 0 <= port_number <= PORT_MAX:
            raise CommandError("TCP control channel port outside valid range")
        return ControlChannel(_network(values, port_number), ends)
    if "fd" not in values:
        raise CommandError("Missing port and fd options for TCP control channel")
    _check_socket(fd, "TCP control channel")
    return ControlChannel(Endpoint(fd=fd), ends)


def tcp(number: int) -> DataChannel:
    """What -p asks for."""
    return DataChannel(Endpoint(host=_LOOPBACK, port=number), disconnects=True)


def _unix(path: str, owner: Endpoint) -> Endpoint:
    if len(os.fsencode(path)) > UNIX_PATH_MAX:
        raise CommandError("Path for UnixIO socket is too long")
    # as it was given: an absolute one may be longer than a socket's path can be
    return owner._replace(path=path)


def _network(values: "dict[str, str]", number: int) -> Endpoint:
    host = values.get("bindaddr", _LOOPBACK)
    if host != _LOOPBACK:
        import socket

        try:
            socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
        except (OSError, UnicodeError):
            raise CommandError(f"Could not parse the bind address '{host}'") from None
    return Endpoint(host=host, port=number, interface=values.get("ifname", ""))


def _port_of_environment() -> int:
    number = c_number(os.environ.get("TPM_PORT", ""))
    if number is None:
        raise CommandError("No valid port number provided for TCP socket.")
    return number


def _owner(values: "dict[str, str]", what: str) -> Endpoint:
    """An endpoint that has nothing yet but the rights of its socket file."""
    mode: Optional[int] = value_of(values, "mode", what, comma_list.mode)
    return Endpoint(
        mode=SOCKET_MODE if mode is None else mode,
        uid=value_of(values, "uid", what, _user_number),
        gid=value_of(values, "gid", what, _group_number),
    )


def _user_number(text: str) -> int:
    if text.isascii() and text.isdigit():
        return _account_number(text, "User")
    import pwd

    try:
        return pwd.getpwnam(text).pw_uid
    except KeyError:
        raise CommaListError(f"User '{text}' does not exist.") from None


def _group_number(text: str) -> int:
    if text.isascii() and text.isdigit():
        return _account_number(text, "Group")
    import grp

    try:
        return grp.getgrnam(text).gr_gid
    except KeyError:
        raise CommaListError(f"Group '{text}' does not exist.") from None


def _account_number(text: str, what: str) -> int:
    number = user.number(text)
    if number is None:
        raise CommaListError(f"{what} '{text}' does not exist.")
    return number


def _check_socket(fd: int, what: str) -> None:
    try:
        is_socket = stat.S_ISSOCK(os.fstat(fd).st_mode)
    except (OSError, OverflowError):
        is_socket = False
    if not is_socket:
        raise CommandError(f"Bad filedescriptor {fd} for {what}")
