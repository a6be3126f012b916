"""Where an instance is found and what it keeps: its ports, paths and directories, and which stand in each other's way.
No I/O.

Two on one address would end with "address in use" at the start, again and again; a file system mounted over a socket or
over the state hides it. So this is said of the file, before anything is started.
"""

from swtpm_svc.config.addresses import VSOCK_ANY, Address, parse_address
from swtpm_svc.config.schema import Config
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.wire.hints import Callable, Iterator, Optional
from swtpm_svc.wire.values import NamedTuple

_ANY_IPV4, _ANY_IPV6 = b"\0" * 4, b"\0" * 16
#: An IPv6 address that stands for an IPv4 address, which follows (RFC 4291, 2.5.5.2).
_IPV4_MAPPED = b"\0" * 10 + b"\xff" * 2


class Place(NamedTuple):
    """`what` the configuration calls it; `where`: a path, or the text of `network`, which is its address on a network.

    `code`: the error if another one has it.
    """

    what: str
    where: str
    code: Code
    network: Optional[Address] = None

    @property
    def is_directory(self) -> bool:
        return self.code is not Code.SOCKET_UNAVAILABLE and not self.is_state_file

    @property
    def is_state_file(self) -> bool:
        return self.what == "[state] file"


def places(config: Config, resolve: Callable[[str], str] = str) -> "list[Place]":
    """All of one instance; `resolve` is what is done with each path, for example to follow symbolic links."""
    names = ("control", "data", "managed")
    texts = [(f"[socket] {name}", getattr(config.socket, name)) for name in names]
    mssim = parse_address(config.socket.mssim)
    if mssim is not None:
        texts += [("[socket] mssim", config.socket.mssim), ("the second port of [socket] mssim", str(mssim.next_port))]
    texts.append(("the status socket", f"/run/vtpm/{config.instance}/status"))
    found = [_socket(what, text) for what, text in texts if text != "none"]
    kept = "[state] file" if config.state.is_file else "[state] directory"
    found.append(Place(kept, config.state.place, Code.STATE_LOCKED))
    if config.fuse.enabled:
        found.append(Place("[fuse] directory", config.fuse.directory, Code.MOUNT_FAILED))
    return [place if place.network else place._replace(where=resolve(place.where)) for place in found]


def _socket(what: str, text: str) -> Place:
    address = parse_address(text)
    return Place(what, text, Code.SOCKET_UNAVAILABLE, None if address is None or address.path else address)


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


def refuse_shared(config: Config, own: "list[Place]", other: Config, others: "list[Place]") -> None:
    """`own` and `others`: the places of each.

    Raises:
        VtpmError SOCKET_UNAVAILABLE, STATE_LOCKED, MOUNT_FAILED: two instances have a place together.
    """
    for mine, theirs in clashes(own, others):
        raise VtpmError(
            mine.code if mine.is_directory or mine.is_state_file else theirs.code,
            f'{config.path}: {mine.what}: found "{mine.where}", '
            f"which {_relation(mine, theirs)} {theirs.what} in {other.path}",
            remedy="give each TPM a place of its own"
            if mine.is_state_file
            else "give each TPM a directory of its own"
            if mine.code is Code.STATE_LOCKED
            else "give one of them another place",
        )


def _relation(one: Place, other: Place) -> str:
    if one.where == other.where or one.network:
        return "is that of"
    return "lies within" if _within(one.where, other.where) else "has within it"


def _clash(one: Place, other: Place) -> bool:
    if one.network or other.network:
        return bool(one.network and other.network and _overlap(one.network, other.network))
    if one.where == other.where:
        return True
    if one.is_directory and other.is_directory:
        return _within(one.where, other.where) or _within(other.where, one.where)
    # a socket may be beside the state, but not below a mount; nor another TPM's file, which is in the way there
    file, directory = (other, one) if one.is_directory else (one, other)
    is_in_the_way = directory.code is Code.MOUNT_FAILED or (file.is_state_file and directory.code is Code.STATE_LOCKED)
    return is_in_the_way and _within(file.where, directory.where)


def _within(path: str, directory: str) -> bool:
    return path.startswith(directory.rstrip("/") + "/")


def _overlap(one: Address, other: Address) -> bool:
    """Nobody can listen on one of them while somebody listens on the other."""
    if one.port != other.port or (one.cid is None) != (other.cid is None):
        return False
    if one.cid is not None:
        return one.cid == other.cid or VSOCK_ANY in (one.cid, other.cid)
    first, second = _host(one.host), _host(other.host)
    return first == second or _includes(first, second) or _includes(second, first)


def _includes(host: "tuple[bytes, str]", other: "tuple[bytes, str]") -> bool:
    """What listens on `host` is reached at `other` too; a name may lead to any address."""
    return host[0] == _ANY_IPV6 or (host[0] == _ANY_IPV4 and len(other[0]) != len(_ANY_IPV6))


def _host(host: str) -> "tuple[bytes, str]":
    """An IP address; or a name, which stays a name, except for the one that every machine has."""
    import socket  # most have no such address: the helper of udev that comes here would wait for it

    try:
        if ":" in host:
            return socket.inet_pton(socket.AF_INET6, host).removeprefix(_IPV4_MAPPED), ""
        return socket.inet_pton(socket.AF_INET, "127.0.0.1" if host == "localhost" else host), ""
    except OSError:
        return b"", host.lower()
