"""Plain requests at the character device, served in C (device.c): what Python sees of them.

The response of an open file lies in a place there, whoever serves the file. A file that is lent is served in C; whoever
wants to know more of it than its response, or to change that, takes it back before.
"""

from heapq import heapify, heappop, heappush
from mmap import mmap
from os import strerror

from swtpm_svc.tpm._libtpms import ffi, lib
from swtpm_svc.wire.hints import Any, Optional, Union
from swtpm_svc.wire.values import NamedTuple

_PLACE_SIZE: int = ffi.sizeof("struct vtpm_opener")
_buffer = ffi.buffer


class Unanswered(NamedTuple):
    """A request that is left to Python, as it lies in the slot."""

    size: int
    #: That of the command in it, which was admitted and executed (empty: libtpms gave none); None: it was not.
    response: Optional[bytes]


class ReplyRefused(OSError):
    """The kernel did not take a reply."""


class Place:
    """Where the response of an open file lies."""

    __slots__ = ("_kept", "_memory", "number")

    def __init__(self, kept: Any = None, number: int = -1, memory: Optional[mmap] = None) -> None:
        self._kept = ffi.new("struct vtpm_opener *") if kept is None else kept
        self._memory = memory  # which goes with who last knows it
        #: -1: it is not in the table, and its file is never served in C.
        self.number = number

    @property
    def is_lent(self) -> bool:
        return bool(self._kept.is_lent)

    @is_lent.setter
    def is_lent(self, value: bool) -> None:
        self._kept.is_lent = value

    @property
    def response(self) -> Optional[bytes]:
        """None: there is none, or it was read to its end."""
        kept = self._kept
        return _buffer(kept.response)[: kept.size] if kept.size else None

    @response.setter
    def response(self, response: Optional[bytes]) -> None:
        kept, size = self._kept, len(response or b"")
        if response:
            _buffer(kept.response)[:size] = response
        kept.size = size

    @property
    def position(self) -> int:
        """How much of the response was read."""
        return int(self._kept.position)

    @position.setter
    def position(self, value: int) -> None:
        self._kept.position = value


def _address(memory: "Union[mmap, memoryview]") -> Any:
    """Where it lies, for who keeps it. To hold it as a buffer would crash the garbage collection of Python 3.11.2."""
    return ffi.cast("unsigned char *", ffi.from_buffer(memory))


class Device:
    """The places, `count` of them, and the serving of files that are lent.

    `slot` is where requests are read into; it and the places may be looked at at any time.
    """

    def __init__(self, slot: memoryview, count: int) -> None:
        self._memory = mmap(-1, count * _PLACE_SIZE)  # takes what is used of it
        self._slot = slot
        self._places = ffi.cast("struct vtpm_opener *", _address(self._memory))
        room = {"openers": self._places, "request": _address(slot), "request_room": len(slot)}
        self._device = ffi.new("struct vtpm_device *", room)
        #: Lowest first: C looks for a file from the first to the last that is used.
        self._free = list(range(count))
        heapify(self._free)

    def place(self, handle: int) -> Place:
        """A place for the open file `handle`; where none is free, one that only Python knows."""
        if not self._free:
            return Place()
        number = heappop(self._free)
        kept = self._places[number]
        kept.handle = handle
        self._device.opener_count = max(self._device.opener_count, number + 1)
        return Place(kept, number, self._memory)

    def give_up(self, place: Place) -> None:
        """The file is closed; what lay there is gone."""
        if place.number >= 0:
            _buffer(self._places + place.number, _PLACE_SIZE)[:] = bytes(_PLACE_SIZE)
            heappush(self._free, place.number)
            if place.number + 1 == self._device.opener_count:
                self._device.opener_count = place.number

    @property
    def executed(self) -> int:
        """Commands that the last `serve_plain` has executed."""
        count: int = self._device.executed
        return count

    def serve_plain(self, fd: int, epoll: int, deadline_s: float) -> Optional[Unanswered]:
        """Serve /dev/cuse, which can be read, and wait on `epoll` for it, as long as nothing else happens there.

        The wait ends at `deadline_s` of time.monotonic(), which may be infinite.

        Raises:
            ReplyRefused
            OSError: the device cannot be read any more.
        """
        device = self._device
        left = lib.vtpm_serve_device(device, fd, epoll, deadline_s)
        if left == lib.VTPM_RECEIVED:
            return Unanswered(device.request_size, None)
        if left == lib.VTPM_EXECUTED:
            return Unanswered(device.request_size, _buffer(lib.vtpm_response, lib.vtpm_response_size)[:])
        if left == lib.VTPM_BROKEN:
            raise OSError(device.error, strerror(device.error))
        if left == lib.VTPM_REFUSED:
            raise ReplyRefused(device.error, strerror(device.error))
        return None
