"""The layout of all of a TPM in one file: what swtpm 0.7.1 writes, and what may become of any bytes."""

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swtpm_svc.state import linear
from swtpm_svc.state.linear import LinearError, NewerLinear, Section

#: The header of a bare TPM 2.0 of swtpm 0.7.1, recorded: permall has 1315 bytes, and the file 2240.
RECORDED = bytes.fromhex("6e696c6d70747773 01 00 c000 c0000000 23050000 00080000") + bytes(168)


def test_the_recorded_header():
    layout = linear.decode(RECORDED, 2240)
    assert layout == {0: Section(192, 1315, 2048)}
    assert linear.encode(layout) == RECORDED
    assert linear.end_of(layout) == 2240


@pytest.mark.parametrize(
    ("length", "room"), [(0, 1), (1, 1), (2, 2), (3, 4), (1315, 2048), (2048, 2048), (2049, 4096), (8922, 16384)]
)
def test_a_section_has_the_next_power_of_two(length, room):
    assert linear.room_for(length) == room


@pytest.mark.parametrize(
    ("place", "value", "kind"),
    [
        ("<B", (8, 2), NewerLinear),
        ("<H", (10, 191), LinearError),
        ("<I", (12, 191), LinearError),
        ("<I", (16, 2049), LinearError),
        ("<I", (24, 200), LinearError),
        ("<III", (12 + 3 * 12, 2240, 1, 1), NewerLinear),
        ("8s", (0, b"nilmptwt"), LinearError),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(place, value, kind):
    header = bytearray(RECORDED)
    struct.pack_into(place, header, *value)
    with pytest.raises(kind):
        linear.decode(bytes(header), 2241)


def test_what_is_cut_off_is_refused():
    with pytest.raises(LinearError, match="beyond 1506"):
        linear.decode(RECORDED, 1506)
    assert linear.decode(RECORDED, 1507)  # the rest of a section may be missing
    with pytest.raises(LinearError, match="191 bytes"):
        linear.decode(RECORDED[:191], 191)


@given(st.binary(max_size=300), st.integers(0, 1 << 33))
def test_any_bytes_are_decoded_or_refused(data, capacity):
    for header in (data, linear.MAGIC + data, RECORDED[:12] + data):
        with suppress(LinearError):
            layout = linear.decode(header, capacity)
            assert linear.decode(linear.encode(layout), capacity) == layout


class Disk:
    """Blobs as they are replaced: what is in use is never written to."""

    def __init__(self) -> None:
        self.layout: linear.Layout = {}

    def store(self, number: int, length: int) -> None:
        section = linear.place(self.layout, length, None)
        assert section is not None
        assert section.room >= length
        for other in self.layout.values():  # that of the same number included
            assert section.end <= other.offset or other.end <= section.offset
        self.layout[number] = section
        header = linear.encode(self.layout)
        assert linear.decode(header, linear.kept_size(self.layout)) == self.layout
        # as swtpm has it: one section begins where the one before ends
        entries = [struct.unpack_from("<III", header, 12 + number * 12) for number in range(15)]
        start = 192
        for offset, _length, room in sorted(entry for entry in entries if entry[0]):
            assert offset == start
            start += room


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-1, 20000)), max_size=40))
def test_a_blob_is_replaced_beside_what_is_there_and_the_file_stays_small(steps):
    disk = Disk()
    for number, length in steps:
        if length < 0:
            disk.layout.pop(number, None)
        else:
            disk.store(number, length)
        used = sum(section.room for section in disk.layout.values())
        longest = max((section.room for section in disk.layout.values()), default=0)
        assert linear.kept_size(disk.layout) >= linear.end_of(disk.layout)
        if longest:  # to store the longest once more, the file does not grow
            again = linear.place(disk.layout, longest, None)
            assert again is not None
            assert again.end <= linear.kept_size(disk.layout)
        assert linear.end_of(disk.layout) <= linear.HEADER_SIZE + used + 4 * 32768


def test_a_device_has_no_room_beyond_its_end():
    layout = {0: Section(192, 1315, 2048)}
    assert linear.place(layout, 2048, 192 + 4096) == Section(2240, 2048, 2048)
    assert linear.place(layout, 2048, 191 + 4096) is None
