"""What outlives the process: a memfd that systemd keeps in its descriptor store beside /dev/cuse (decisions/0016).

    page 0        header: magic, layout, whether a handover is complete, and how long it is
    pages 1, 2    ids of requests that were taken and are answered later
    pages 3, 4    poll handles that wait to be woken
    pages 5..21   the slot: the kernel copies each request into it, so the copy itself is the record
    from page 32  the handover: what an orderly stop leaves for its successor

A successor of a killed process finds no complete handover; then the slot and the ids name the requests whose clients
wait for an answer that nobody else will give.

The predecessor may have been taken over, and the successor may be root still when it looks at the header. So all of it
has bounds and is checked, and if anything is not as a predecessor leaves it, that one counts as killed.
"""

import fcntl
import os
import sys
from mmap import PAGESIZE, mmap
from struct import Struct

from swtpm_svc.continuity.handover import MAX_HANDOVER, Handover
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.wire import cuse, fuse
from swtpm_svc.wire.hints import Optional

_MAGIC = b"vtpmpark"
_LAYOUT = 1
# magic, layout, 1: the handover is complete, its length in bytes, the device's name (once 32 bytes, then zeros)
_HEADER = Struct("=8sIIQ128s")
_IDENTITY = Struct("=8sI")
_WAITERS_START = PAGESIZE
_POLLS_START = 3 * PAGESIZE
_SLOT_START = 5 * PAGESIZE
_HANDOVER_START = 32 * PAGESIZE
assert _SLOT_START + cuse.MAX_REQUEST <= _HANDOVER_START
assert _HEADER.size <= _WAITERS_START

_SEAL_FUTURE_WRITE = 0x10  # linux/fcntl.h; Python has no name for it
#: A park is written to.
_SEALS_AGAINST_WRITING = fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | _SEAL_FUTURE_WRITE

_UNIQUE = Struct("=Q")


class Waiters:
    """Numbers that somebody waits for, in shared memory; 0 is an empty place."""

    def __init__(self, area: memoryview) -> None:
        self._area = area
        self._place: dict[int, int] = {}
        self._free = list(range(0, len(area), _UNIQUE.size))

    def add(self, unique: int) -> bool:
        """False: there is no place left."""
        if not self._free:
            return False
        self._place[unique] = place = self._free.pop()
        _UNIQUE.pack_into(self._area, place, unique)
        return True

    def discard(self, unique: int) -> None:
        place = self._place.pop(unique, None)
        if place is not None:
            _UNIQUE.pack_into(self._area, place, 0)
            self._free.append(place)

    def take_over(self) -> "list[int]":
        """The numbers that a predecessor left, which are then forgotten."""
        left = [unique for (unique,) in _UNIQUE.iter_unpack(self._area) if unique]
        self._area[:] = bytes(len(self._area))
        return left


class Park:
    """The memfd; owns it. `slot` is where requests are to be read into."""

    def __init__(self, fd: int, *, was_adopted: bool) -> None:
        self.fd = fd
        self.was_adopted = was_adopted
        self._map = mmap(fd, _HANDOVER_START)
        view = memoryview(self._map)
        self.slot = view[_SLOT_START : _SLOT_START + cuse.MAX_REQUEST]
        self.waiters = Waiters(view[_WAITERS_START:_POLLS_START])
        self.polls = Waiters(view[_POLLS_START:_SLOT_START])

    @classmethod
    def create(cls, device_name: str) -> "Park":
        """A new one, for a new device."""
        fd = os.memfd_create("vtpm-park", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, _HANDOVER_START)
        # whoever maps it next must not meet the end of the file where this layout has none
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        park = cls(fd, was_adopted=False)
        park._write_header(complete=False, length=0, name=device_name.encode())
        return park

    @classmethod
    def adopt(cls, fd: int) -> "Park":
        """The memory that a predecessor has parked.

        Raises:
            VtpmError PROTOCOL: it is not such a memory, or it has another layout.
        """
        try:
            seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
            is_one = bool(seals & fcntl.F_SEAL_SHRINK) and not seals & _SEALS_AGAINST_WRITING
            is_one = is_one and _HANDOVER_START <= os.fstat(fd).st_size <= _HANDOVER_START + MAX_HANDOVER
            if is_one and os.pread(fd, _IDENTITY.size, 0) == _IDENTITY.pack(_MAGIC, _LAYOUT):
                park = cls(fd, was_adopted=True)
                if _is_name(park._header()[4].rstrip(b"\0")):
                    return park
        except OSError:  # no memory at all
            pass
        os.close(fd)
        raise VtpmError(
            Code.PROTOCOL,
            "what a predecessor left in systemd's descriptor store is not of this layout",
            remedy="none is needed: the TPM starts as after a kill",
        )

    def close(self) -> None:
        os.close(self.fd)

    @property
    def device_name(self) -> str:
        """The device that the parked descriptor of /dev/cuse is for."""
        name: bytes = self._header()[4]
        return name.rstrip(b"\0").decode()

    def _header(self) -> "tuple[bytes, int, int, int, bytes]":
        return _HEADER.unpack_from(self._map)

    def _write_header(self, *, complete: bool, length: int, name: bytes) -> None:
        _HEADER.pack_into(self._map, 0, _MAGIC, _LAYOUT, complete, length, name)

    def unanswered(self) -> "list[int]":
        """Ids of requests that a killed predecessor had taken and may not have answered."""
        in_slot = _UNIQUE.unpack_from(self.slot, 8)[0] if self._opcode_wants_reply() else 0
        left = self.waiters.take_over()
        return ([in_slot] if in_slot else []) + left

    def _opcode_wants_reply(self) -> bool:
        opcode = int.from_bytes(self.slot[4:8], sys.byteorder)
        return opcode not in fuse.NO_REPLY and opcode != fuse.Opcode.INTERRUPT

    def leave(self, handover: Handover) -> None:
        """Write what a successor needs; complete from the last statement on."""
        data = handover.encode()
        if len(data) > MAX_HANDOVER:
            return  # no successor takes it
        written = 0
        while written < len(data):
            written += os.pwrite(self.fd, data[written:], _HANDOVER_START + written)
        self._write_header(complete=True, length=len(data), name=self._header()[4])

    def read(self) -> Optional[Handover]:
        """The handover of an orderly stop; None if the predecessor was killed, or left something else.

        It stays until `forget`: a start that fails leaves it to the next one.
        """
        _magic, _layout, complete, length, _name = self._header()
        if not complete or length > MAX_HANDOVER:
            return None
        try:
            return Handover.decode(os.pread(self.fd, length, _HANDOVER_START))
        except ValueError:
            return None  # of another version, or not written by a daemon: as if that one had been killed

    def forget(self) -> None:
        """There is no handover any more, and its secrets are gone: it was taken, and what follows makes it old."""
        self._write_header(complete=False, length=0, name=self._header()[4])
        size = os.fstat(self.fd).st_size
        os.pwrite(self.fd, bytes(size - _HANDOVER_START), _HANDOVER_START)


def _is_name(name: bytes) -> bool:
    """Could a device be called so? The empty name stands for no device, and is one too."""
    return name.isascii() and name.decode("ascii", "replace").isprintable() and b"/" not in name
