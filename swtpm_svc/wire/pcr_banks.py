"""The PCR banks of a TPM 2.0: which there are, which there shall be, and what is in a PCR. Big-endian.

Sources: TPM 2.0 Library Part 2 (structures) and Part 3 (commands), revision 1.59. What a function encodes or decodes
are a command's or a response's parameters.
"""

from struct import Struct

from swtpm_svc.wire.cursor import Cursor
from swtpm_svc.wire.protocol_error import ProtocolError
from swtpm_svc.wire.tpm2_numbers import Cap
from swtpm_svc.wire.tpm_header import Bytes
from swtpm_svc.wire.values import NamedTuple

#: PC Client platforms have 24 of them in every bank, libtpms too.
PCR_COUNT = 24

_SELECT_BYTES = PCR_COUNT // 8
_SELECTION = Struct(">HB")  # hash sizeofSelect, then pcrSelect
_GET_CAPABILITY = Struct(">III")  # capability property propertyCount
_ALLOCATION = Struct(">BIII")  # allocationSuccess maxPCR sizeNeeded sizeAvailable


class Allocation(NamedTuple):
    """What PCR_Allocate answers; sizes in bytes."""

    is_done: bool
    max_pcrs: int
    size_needed: int
    size_available: int


def _encode_selections(selections: "dict[int, bytes]") -> bytes:
    """TPML_PCR_SELECTION (Part 2, section 10.9.7) of TPMS_PCR_SELECTION (section 10.6.2): hash algorithms, with a bit
    for each PCR."""
    encoded = b"".join(_SELECTION.pack(algorithm, len(bits)) + bits for algorithm, bits in selections.items())
    return len(selections).to_bytes(4, "big") + encoded


def _decode_selections(cursor: Cursor) -> "dict[int, bytes]":
    selections = {}
    for _ in range(cursor.uint32()):
        algorithm, size = cursor.uint16(), cursor.uint8()
        selections[algorithm] = cursor.take(size)
    return selections


def encode_get_pcrs() -> bytes:
    """TPM2_GetCapability (Part 3, section 30.2) of the PCR banks."""
    return _GET_CAPABILITY.pack(Cap.PCRS, 0, 1)


def decode_pcrs(parameters: Bytes) -> "dict[int, bool]":
    """The hash algorithms that the TPM has banks for, and whether there are PCRs in each (Part 2, section 10.10.2).

    Raises:
        ProtocolError: it is something else, or broken.
    """
    cursor = Cursor(parameters)
    cursor.uint8()  # moreData
    capability = cursor.uint32()
    if capability != Cap.PCRS:
        raise ProtocolError(f"capability {capability} came instead of the PCR banks")
    banks = {algorithm: any(bits) for algorithm, bits in _decode_selections(cursor).items()}
    cursor.finish()
    return banks


def encode_pcr_allocate(banks: "dict[int, bool]") -> bytes:
    """TPM2_PCR_Allocate (Part 3, section 22.5): whether each bank shall have all the PCRs or none."""
    return _encode_selections(
        {algorithm: (b"\xff" if is_wanted else b"\0") * _SELECT_BYTES for algorithm, is_wanted in banks.items()}
    )


def decode_pcr_allocate(parameters: Bytes) -> Allocation:
    """
    Raises:
        ProtocolError: it is too short or too long.
    """
    cursor = Cursor(parameters)
    is_done, max_pcrs, needed, available = _ALLOCATION.unpack(cursor.take(_ALLOCATION.size))
    cursor.finish()
    return Allocation(is_done != 0, max_pcrs, needed, available)


def encode_pcr_read(algorithm: int, index: int) -> bytes:
    """TPM2_PCR_Read (Part 3, section 22.4) of one PCR."""
    bits = bytearray(_SELECT_BYTES)
    bits[index // 8] = 1 << index % 8
    return _encode_selections({algorithm: bytes(bits)})


def decode_pcr_read(parameters: Bytes) -> bytes:
    """The PCR's digest; empty: the TPM has no such PCR.

    Raises:
        ProtocolError: it is too short or too long, or there are several.
    """
    cursor = Cursor(parameters)
    cursor.uint32()  # pcrUpdateCounter
    _decode_selections(cursor)  # what of the selection was read
    count = cursor.uint32()
    if count > 1:
        raise ProtocolError(f"{count} digests came instead of one")
    digest = cursor.sized16() if count else b""
    cursor.finish()
    return digest
