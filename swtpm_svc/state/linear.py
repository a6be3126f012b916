"""All of a TPM in one file or on one block device, as swtpm's file back end lays it out: bytes <-> values.

Measured on what swtpm 0.7.1 writes (x86_64, little-endian):

    magic 8 octets ("nilmptws"), version u8 (1), one octet of padding, header_size u16 (192),
    then 15 entries: offset u32 (0: there is none), length u32, section_length u32

    entry 0 is permall, 1 volatilestate, 2 savestate; swtpm has no others
    from 192 on: sections; each is as long as the next power of two of what is in it

swtpm leaves no room between sections, and moves those behind one that has to grow; where there is room all the same, it
moves too little, and takes the wrong bytes for a blob (seen). We do need such room, for a blob is replaced by writing
the new one beside it, and then its entry. So each room between sections is a section of its own: of one of the last
entries, and of length 0.
"""

import struct
from typing import NamedTuple, Optional

from swtpm_svc.state.backend import PERMALL, SAVESTATE, VOLATILESTATE

MAGIC = b"nilmptws"
VERSION = 1
_START = struct.Struct("<8sBBH")  # magic version padding header_size
_ENTRY = struct.Struct("<III")  # offset length section_length
ENTRIES = 15
HEADER_SIZE = _START.size + ENTRIES * _ENTRY.size
#: The entry of each blob.
NUMBERS = {PERMALL: 0, VOLATILESTATE: 1, SAVESTATE: 2}
_FIRST_SPARE = len(NUMBERS)


class LinearError(ValueError):
    """These bytes are not a header that can be used. The text says why, to go after a file's name."""


class NewerLinear(LinearError):
    """It is of a format to come."""


class Section(NamedTuple):
    """`length` bytes of a blob, at `offset`; `room` bytes are set aside for it."""

    offset: int
    length: int
    room: int

    @property
    def end(self) -> int:
        return self.offset + self.room


#: The sections, by the number of the entry; without those that are room.
Layout = dict[int, Section]


def is_linear(beginning: bytes) -> bool:
    return beginning.startswith(MAGIC)


def decode(header: bytes, capacity: int) -> Layout:
    """`capacity`: how many bytes the file has.

    Raises:
        LinearError, NewerLinear
    """
    if len(header) < HEADER_SIZE:
        raise LinearError(f"it has {len(header)} bytes, less than the {HEADER_SIZE} of a header")
    magic, version, _padding, header_size = _START.unpack_from(header)
    if magic != MAGIC:
        raise LinearError("it does not begin as a file with all of a TPM")
    if version > VERSION:
        raise NewerLinear(f"it is of format version {version}; this program knows {VERSION}")
    if header_size != HEADER_SIZE:
        raise LinearError(f"its header says that it has {header_size} bytes, not {HEADER_SIZE}")
    found = {}
    for number in range(ENTRIES):
        section = Section(*_ENTRY.unpack_from(header, _START.size + number * _ENTRY.size))
        if section.offset:
            found[number] = section
    _check(found, capacity)
    unknown = [number for number, section in found.items() if number >= _FIRST_SPARE and section.length]
    if unknown:
        raise NewerLinear(f"its entry {unknown[0]} is of a use that this program does not know")
    return {number: section for number, section in found.items() if number < _FIRST_SPARE}


def _check(layout: Layout, capacity: int) -> None:
    end = HEADER_SIZE
    for number, section in sorted(layout.items(), key=lambda item: item[1].offset):
        if section.offset < end:
            raise LinearError(f"its entry {number} begins at {section.offset}, where something else is")
        if section.length > section.room:
            raise LinearError(f"its entry {number} has {section.length} bytes in a section of {section.room}")
        if section.offset + section.length > capacity:
            raise LinearError(f"its entry {number} ends at {section.offset + section.length}, beyond {capacity} bytes")
        end = section.end


def encode(layout: Layout) -> bytes:
    """The header."""
    whole, start = dict(layout), HEADER_SIZE
    for number, section in enumerate(sorted(layout.values()), _FIRST_SPARE):
        if section.offset > start:
            whole[number] = Section(start, 0, section.offset - start)
        start = section.end
    entries = (whole.get(number, Section(0, 0, 0)) for number in range(ENTRIES))
    return _START.pack(MAGIC, VERSION, 0, HEADER_SIZE) + b"".join(_ENTRY.pack(*entry) for entry in entries)


def room_for(length: int) -> int:
    """How long the section of so many bytes is."""
    return 1 << max(length - 1, 0).bit_length()


def place(layout: Layout, length: int, capacity: Optional[int]) -> Optional[Section]:
    """A section for so many bytes that touches no other one: the first that there is room for.

    `capacity`: more bytes there cannot be; None: there can. None: there is no such room.
    """
    room = room_for(length)
    start = HEADER_SIZE
    for section in sorted(layout.values()):
        if section.offset - start >= room:
            break
        start = section.end
    if capacity is not None and start + room > capacity:
        return None
    return Section(start, length, room)


def end_of(layout: Layout) -> int:
    """How long a file must be to have all of it."""
    return max((section.end for section in layout.values()), default=HEADER_SIZE)


def kept_size(layout: Layout) -> int:
    """How long a file is left: with room for the longest once more, so that to replace it needs none."""
    longest = max((section.room for section in layout.values()), default=0)
    end = place(layout, longest, None)
    return max(end_of(layout), end.end if end is not None and longest else 0)
