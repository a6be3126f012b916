"""All state blobs of a TPM in one, as it was at one moment: what GET_STATEBLOB of the type ALL_BLOBS gives.

Ours; swtpm knows no such type. For each blob there is, big-endian: type u32 (ptm.BlobType), length u32, the blob as
GET_STATEBLOB of that type would give it.
"""

import struct

from swtpm_svc.wire.protocol_error import ProtocolError
from swtpm_svc.wire.ptm import BlobType

_ENTRY = struct.Struct(">II")  # type length


def encode(blobs: "dict[int, bytes]") -> bytes:
    return b"".join(_ENTRY.pack(kind, len(blob)) + blob for kind, blob in blobs.items())


def decode(data: bytes) -> "dict[BlobType, bytes]":
    """
    Raises:
        ProtocolError: these are no blobs of a TPM, each once.
    """
    found: dict[BlobType, bytes] = {}
    position = 0
    while position < len(data):
        try:
            number, length = _ENTRY.unpack_from(data, position)
            kind = BlobType(number)
        except (struct.error, ValueError):
            raise ProtocolError("a bundle of state blobs has something else in it") from None
        position += _ENTRY.size
        if kind in found or position + length > len(data):
            raise ProtocolError("a bundle of state blobs is cut off, or has one of them twice")
        found[kind] = data[position : position + length]
        position += length
    return found
