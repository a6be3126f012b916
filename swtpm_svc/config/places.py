"""Where an instance is found and what it keeps: its ports, paths and directories, and which stand in each other's way.
No I/O.

Two on one address would end with "address in use" at the start, again and again; a file system mounted over a socket or
over the state hides it. So this is said of the file, before anything is started.
"""

import os
from collections.abc import Iterator
from typing import Callable, NamedTuple

from swtpm_svc.config.schema import Config
from swtpm_svc.errors import Code, VtpmError

_TCP = "tcp:"
_NETWORKS = (_TCP, "vsock:")
#: What listens on such an address is reached at every other one of the machine.
_ANY = (b"\0" * 4, b"\0" * 16, b"any")


class Place(NamedTuple):
    """`what` the configuration calls it; `where`: a path, tcp:[HOST:]PORT or vsock:CID:PORT.

    `code`: the error if another one has it.
    """

    what: str
    where: str
    code: Code

    @property
    def is_directory(self) -> bool:
        return self.code is not Code.SOCKET_UNAVAILABLE


def places(config: Config, resolve: Callable[[str], str] = str) -> "list[Place]":
    """All of one instance; `resolve` is what is done with each path, for example to follow symbolic links."""
    run = f"/run/vtpm/{config.instance}"
    found = [("[socket] control", config.socket.control), ("[socket] data", config.socket.data)]
    mssim = config.socket.mssim
    if mssim != "none":
        head, _, port = mssim.rpartition(":")
        found += [("[socket] mssim", mssim), ("the second port of [socket] mssim", f"{head}:{int(port) + 1}")]
    found.append(("the status socket", f"{run}/status"))
    result = [Place(what, where, Code.SOCKET_UNAVAILABLE) for what, where in found if where != "none"]
    result.append(Place("[state] directory", config.state.directory, Code.STATE_LOCKED))
    if config.fuse.enabled:
        result.append(Place("[fuse] directory", config.fuse.directory, Code.MOUNT_FAILED))
    return [
        place if place.where.startswith(_NETWORKS) else place._replace(where=resolve(place.where)) for place in result
    ]


def clashes(mine: "list[Place]", others: "list[Place]") -> "Iterator[tuple[Place, Place]]":
    """The pairs that cannot both be."""
    for place in mine:
        for other in others:
            if place is not other and _clash(place, other):
                yield place, other


def refuse_contradictions(config: Config) -> None:
    """
    Raises:
        VtpmError CONFIG_INVALID: two places of this instance cannot both be.
    """
    own = places(config)
    for one, other in clashes(own, own):
        # said of the key that can be changed, and not of what is where it is
        said, rest = (other, one) if one.what.startswith("the ") and not other.what.startswith("the ") else (one, other)
        raise VtpmError(
            Code.CONFIG_INVALID,
            f'{config.path}: {said.what}: found "{said.where}", which {_relation(said, rest)} {rest.what}',
            remedy="give each a place of its own",
        )


def refuse_shared(config: Config, other: Config, resolve: Callable[[str], str]) -> None:
    """
    Raises:
        VtpmError SOCKET_UNAVAILABLE, STATE_LOCKED, MOUNT_FAILED: two instances have a place together.
    """
    for mine, theirs in clashes(places(config, resolve), places(other, resolve)):
        raise VtpmError(
            mine.code if mine.is_directory else theirs.code,
            f'{config.path}: {mine.what}: found "{mine.where}", '
            f"which {_relation(mine, theirs)} {theirs.what} in {other.path}",
            remedy="give each TPM a directory of its own"
            if mine.code is Code.STATE_LOCKED
            else "give one of them another place",
        )


def _relation(one: Place, other: Place) -> str:
    if one.where == other.where or one.where.startswith(_NETWORKS):
        return "is that of"
    return "lies within" if _within(one.where, other.where) else "has within it"


def _clash(one: Place, other: Place) -> bool:
    if one.where.startswith(_NETWORKS) or other.where.startswith(_NETWORKS):
        if one.where.partition(":")[0] != other.where.partition(":")[0]:
            return False
        first, second = _endpoint(one.where), _endpoint(other.where)
        return first[1] == second[1] and (first[0] == second[0] or first[0] in _ANY or second[0] in _ANY)
    if one.where == other.where:
        return True
    if one.is_directory and other.is_directory:
        return _within(one.where, other.where) or _within(other.where, one.where)
    # a socket may be beside the state, but not below a mount
    file, directory = (other, one) if one.is_directory else (one, other)
    return directory.code is Code.MOUNT_FAILED and _within(file.where, directory.where)


def _within(path: str, directory: str) -> bool:
    return path.startswith(directory.rstrip("/") + "/")


def _endpoint(address: str) -> "tuple[bytes, int]":
    """Host and port of a TCP address, CID and port of vsock; a name stays a name, except for the one that every machine
    has."""
    scheme, _, rest = address.partition(":")
    host, _, port = rest.rpartition(":")
    if f"{scheme}:" != _TCP:
        return host.encode(), int(port)
    host = host.strip("[]")
    if host in ("", "localhost"):
        host = "127.0.0.1"
    import socket  # most have no such address: the helper of udev that comes here would wait for it

    try:
        return socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host), int(port)
    except OSError:
        return os.fsencode(host.lower()), int(port)
