"""What an orderly stop leaves to its successor: values <-> bytes.

The bytes may not be a daemon's, and the process that reads them may be root, so all of it has bounds and is checked.
"""

from mmap import PAGESIZE

from swtpm_svc.state.backend import NAMES
from swtpm_svc.tpm.power import Power, Snapshot
from swtpm_svc.wire import fuse
from swtpm_svc.wire.hints import Any
from swtpm_svc.wire.values import NamedTuple

#: Open files of a TPM at a time, of all users.
MAX_OPENERS = 1024
#: Far above what a state, what was offered and the responses of all openers take.
MAX_HANDOVER = 16 << 20
_TEXT_MAX = 1 << 20
_DIGITS_MAX = 20
_LOCALITY_MAX = 4
#: As many as there are places for ids of those who wait (parking.py).
_REQUESTS_MAX = 2 * PAGESIZE // 8
_UINT32_MAX, _UINT64_MAX = (1 << 32) - 1, (1 << 64) - 1


class OpenerRecord(NamedTuple):
    """An open file as a successor must know it."""

    handle: int
    uid: int
    gid: int
    pid: int
    #: It was in the middle of carrying a state blob, which is not handed over.
    in_transfer: bool
    response: bytes
    #: How much of the response was read.
    position: int


class Handover(NamedTuple):
    """What an orderly stop leaves to its successor."""

    tpm_version: str
    state_directory: str
    commands: int
    restarts: int
    snapshot: Snapshot
    openers: "list[OpenerRecord]"
    #: Requests of the kernel that waited, as it sent them.
    requests: "list[bytes]"

    def encode(self) -> bytes:
        """A line of JSON with everything but the blobs, then the blobs, one after another."""
        import json

        # files that were open when a process was killed come on top; the successor takes those that are left out for
        # such files
        openers = self.openers[:MAX_OPENERS]
        snapshot = self.snapshot
        blobs = [snapshot.permanent, snapshot.volatile, *snapshot.offered.values()]
        blobs += [opener.response for opener in openers]
        blobs += self.requests
        plain = snapshot._replace(permanent=b"", volatile=b"", offered={})._asdict()
        fields = dict(
            self._asdict(),
            snapshot={name: value for name, value in plain.items() if not isinstance(value, bytes)},
            offered=list(snapshot.offered),
            openers=[(*opener[:5], opener.position) for opener in openers],
            requests=len(self.requests),
            sizes=[len(blob) for blob in blobs],
        )
        return json.dumps(fields).encode() + b"\n" + b"".join(blobs)

    @classmethod
    def decode(cls, data: bytes) -> "Handover":
        """
        Raises:
            ValueError: it is of another version, or was not written by a daemon.
        """
        try:
            return _decode(data)
        except (TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
            raise ValueError(f"no handover: {error!r}") from error


def _decode(data: bytes) -> Handover:
    """Raises: ValueError, TypeError and others: it is not a handover."""
    import json

    text, _, rest = data.partition(b"\n")
    if len(text) > _TEXT_MAX:
        raise ValueError("its description has no end")
    fields = json.loads(text, parse_int=_integer, parse_float=_no_number, parse_constant=_no_number)
    plain, offered, openers = fields["snapshot"], fields["offered"], fields["openers"]
    blobs = _split(rest, [_number(size, MAX_HANDOVER) for size in fields["sizes"]])
    permanent, volatile = blobs.pop(0), blobs.pop(0)
    requests = _number(fields.get("requests", 0), _REQUESTS_MAX)  # there were none in the first version
    if len(blobs) != len(offered) + len(openers) + requests or len(openers) > MAX_OPENERS or not {*offered} <= {*NAMES}:
        raise ValueError("its parts do not fit")
    if any(len(request) < fuse.IN_HEADER.size for request in blobs[len(blobs) - requests :]):
        raise ValueError("a request without a header")
    snapshot = Snapshot(
        power=Power(plain["power"]).value,
        locality=_number(plain["locality"], _LOCALITY_MAX),
        permanent=permanent,
        volatile=volatile,
        is_shut_down=_flag(plain["is_shut_down"]),
        volatile_is_stored=_flag(plain["volatile_is_stored"]),
        offered={name: blobs.pop(0) for name in offered},
    )
    return Handover(
        tpm_version=_text(fields["tpm_version"]),
        state_directory=_text(fields["state_directory"]),
        commands=_number(fields["commands"], _UINT64_MAX),
        restarts=_number(fields["restarts"], _UINT64_MAX),
        snapshot=snapshot,
        openers=[_opener(opener, response) for opener, response in zip(openers, blobs)],
        requests=blobs[len(openers) :],
    )


def _opener(fields: "list[Any]", response: bytes) -> OpenerRecord:
    handle, uid, gid, pid, in_transfer, *more = fields
    (position,) = more or (0,)  # there was none in the first version
    return OpenerRecord(
        _number(handle, _UINT64_MAX),
        _number(uid, _UINT32_MAX),
        _number(gid, _UINT32_MAX),
        _number(pid, _UINT32_MAX),
        _flag(in_transfer),
        response,
        _number(position, len(response)),
    )


def _integer(digits: str) -> int:
    if len(digits) > _DIGITS_MAX:
        raise ValueError("a number without an end")
    return int(digits)


def _no_number(text: str) -> Any:
    raise ValueError(f"{text[:20]} is not expected")


def _number(value: object, maximum: int) -> int:
    if type(value) is not int or not 0 <= value <= maximum:
        raise ValueError(f"{value!r} is not a number up to {maximum}")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _split(data: bytes, sizes: "list[int]") -> "list[bytes]":
    if sum(sizes) != len(data):
        raise ValueError("sizes")
    pieces, start = [], 0
    for size in sizes:
        pieces.append(data[start : start + size])
        start += size
    return pieces
