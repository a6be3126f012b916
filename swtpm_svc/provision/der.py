"""The few DER elements that public keys and TCG's own extensions are made of (ITU-T X.690)."""

BOOLEAN, INTEGER, BIT_STRING, OCTET_STRING, NULL, OBJECT_IDENTIFIER = 1, 2, 3, 4, 5, 6
UTF8_STRING, SEQUENCE, SET = 0x0C, 0x30, 0x31
PRINTABLE_STRING, IA5_STRING, UTC_TIME, GENERALIZED_TIME = 0x13, 0x16, 0x17, 0x18


def element(tag: int, *parts: bytes) -> bytes:
    """One element of at most 65535 bytes."""
    content = b"".join(parts)
    size = len(content)
    length = (
        bytes([size]) if size < 0x80 else bytes([0x81, size]) if size < 0x100 else bytes([0x82, size >> 8, size & 0xFF])
    )
    return bytes([tag]) + length + content


def integer(value: int) -> bytes:
    """Of a value that is not negative."""
    return element(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def object_identifier(dotted: str) -> bytes:
    """ "2.5.4.3", whose first two numbers share a byte.

    Raises:
        ValueError: it is none.
    """
    first, second, *rest = (int(number) for number in dotted.split("."))
    if not (0 <= first <= 2 and 0 <= second < 40) or min(rest, default=0) < 0:
        raise ValueError(f"{dotted} is no object identifier")
    return element(OBJECT_IDENTIFIER, bytes([first * 40 + second]), *(_base_128(number) for number in rest))


def _base_128(number: int) -> bytes:
    encoded = bytes([number & 0x7F])
    while number := number >> 7:
        encoded = bytes([number & 0x7F | 0x80]) + encoded
    return encoded
