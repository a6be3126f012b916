"""The few DER elements that public keys and TCG's own extensions are made of (ITU-T X.690)."""

INTEGER, BIT_STRING, OCTET_STRING, NULL, OBJECT_IDENTIFIER, UTF8_STRING, SEQUENCE, SET = 2, 3, 4, 5, 6, 0x0C, 0x30, 0x31


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
