"""The codec of captures: sizes and fields as measured with swtpm 0.11, and read by another program's eyes."""

import struct
import sys

from swtpm_svc.wire import pcapng
from swtpm_svc.wire.pcapng import Flag

ORDER = sys.byteorder


def test_a_section_and_its_interface():
    begin = pcapng.begin()
    assert len(begin) == 28 + 20
    assert begin[:4] == bytes.fromhex("0a0d0d0a")
    assert int.from_bytes(begin[8:12], ORDER) == 0x1A2B3C4D
    assert struct.unpack("=IIHHII", begin[28:]) == (1, 20, 1, 0, 0, 20)


def test_a_packet_is_padded_and_has_its_length_at_both_ends():
    for size in range(5):
        block = pcapng.packet(0x1122334455667, bytes(size))
        kind, length, interface, high, low, captured, original = struct.unpack("=7I", block[:28])
        assert (kind, length, interface, high, low) == (6, len(block), 0, 0x11223, 0x34455667)
        assert captured == original == size
        assert len(block) == 32 + (size + 3) // 4 * 4
        assert int.from_bytes(block[-4:], ORDER) == length


def test_a_segment():
    frame = pcapng.segment(50000, 2321, 1, 7, Flag.PSH | Flag.ACK, b"data")
    assert len(frame) == 54 + 4
    assert frame[:14] == bytes(12) + b"\x08\x00"
    assert frame[14:34].hex() == "4510002c069b400040060000" + "7f000001" * 2
    assert frame[34:54].hex() == "c3500911" + "00000001" + "00000007" + "5018" + "ffc4" + "0000" + "0000"
    assert frame[54:] == b"data"


def add_up(data):
    """A receiver's check (RFC 1071): everything, with the checksum, gives only ones."""
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_checksums_are_right_if_they_are_there():
    for data in (b"", b"odd", b"even"):
        frame = pcapng.segment(50000, 2321, 1, 7, Flag.ACK, data, checksums=True)
        assert add_up(frame[14:34]) == 0xFFFF
        tcp = frame[34:]
        assert add_up(frame[26:34] + struct.pack(">HH", 6, len(tcp)) + tcp) == 0xFFFF
