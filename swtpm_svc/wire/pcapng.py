"""Captures in the form of pcapng, which Wireshark and others read: what goes over a TCP connection, as on a wire.

The blocks are those of draft-ietf-opsawg-pcapng, in the byte order of the machine; the packets those of Ethernet, IPv4
(RFC 791) and TCP (RFC 9293), as swtpm 0.11 writes them: 127.0.0.1 to itself, checksums left 0 unless they are wanted.
"""

import struct

from swtpm_svc.wire.enumerations import IntFlag

#: Where swtpm's packets go to: what dissectors know as a TPM's port.
TPM_PORT = 2321
CLIENT_PORTS = range(50000, 55001)

_SECTION = struct.Struct("=IIIHHqI")  # type, length, byte order, major, minor, length of the section (unknown), length
_INTERFACE = struct.Struct("=IIHHII")  # type, length, link type, reserved, snap length, length
_PACKET = struct.Struct("=IIIIIII")  # type, length, interface, time in us (high, low), captured, original; data; length
_LENGTH = struct.Struct("=I")
_BYTE_ORDER = 0x1A2B3C4D
_ETHERNET = 1  # LINKTYPE_ETHERNET

_FRAME = bytes(12) + b"\x08\x00"  # no addresses, IPv4
_IP = struct.Struct(">BBHHHBBH4s4s")
_TCP = struct.Struct(">HHIIBBHHH")
_HOST = bytes((127, 0, 0, 1))
_ID, _DONT_FRAGMENT, _TTL, _TCP_PROTOCOL, _LOW_DELAY, _WINDOW = 0x069B, 0x4000, 64, 6, 0x10, 0xFFC4


class Flag(IntFlag):
    """Of a TCP segment (RFC 9293, section 3.1)."""

    FIN = 0x01
    SYN = 0x02
    PSH = 0x08
    ACK = 0x10


def begin() -> bytes:
    """A new section, with its one interface."""
    return _SECTION.pack(0x0A0D0D0A, _SECTION.size, _BYTE_ORDER, 1, 0, -1, _SECTION.size) + _INTERFACE.pack(
        1, _INTERFACE.size, _ETHERNET, 0, 0, _INTERFACE.size
    )


def packet(time_us: int, data: bytes) -> bytes:
    """A frame that was seen then, in microseconds since 1970."""
    padding = bytes(-len(data) % 4)
    length = _PACKET.size + len(data) + len(padding) + _LENGTH.size
    high, low = time_us >> 32, time_us & 0xFFFFFFFF
    return _PACKET.pack(6, length, 0, high, low, len(data), len(data)) + data + padding + _LENGTH.pack(length)


def segment(
    source: int,
    destination: int,
    sequence: int,
    acknowledged: int,
    flags: int,
    data: bytes = b"",
    *,
    checksums: bool = False,
) -> bytes:
    """A frame with a TCP segment from one port to the other."""
    tcp = _TCP.pack(source, destination, sequence, acknowledged, _TCP.size << 2, flags, _WINDOW, 0, 0) + data
    ip = _ip(_IP.size + len(tcp), 0)
    if checksums:
        pseudo_header = _HOST + _HOST + struct.pack(">HH", _TCP_PROTOCOL, len(tcp))
        tcp = tcp[:16] + struct.pack(">H", _checksum(pseudo_header + tcp)) + tcp[18:]
        ip = _ip(_IP.size + len(tcp), _checksum(ip))
    return _FRAME + ip + tcp


def _ip(length: int, checksum: int) -> bytes:
    return _IP.pack(0x45, _LOW_DELAY, length, _ID, _DONT_FRAGMENT, _TTL, _TCP_PROTOCOL, checksum, _HOST, _HOST)


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f">{len(padded) // 2}H", padded))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF
