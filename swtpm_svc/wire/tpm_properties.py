"""Properties of a TPM 2.0, several at a time: those that say how it is. Big-endian.

Source: TPM 2.0 Library Part 2 (structures; TPM_PT in section 6.13, TPMA_PERMANENT in section 8.6) and Part 3
(commands), revision 1.59.
"""

from enum import IntEnum, unique
from struct import Struct

from swtpm_svc.wire.cursor import Cursor
from swtpm_svc.wire.protocol_error import ProtocolError
from swtpm_svc.wire.tpm2_numbers import Cap
from swtpm_svc.wire.tpm_header import Bytes

_GET_CAPABILITY = Struct(">III")  # capability property propertyCount
#: TPMA_PERMANENT: authorizations that dictionary attacks are held off from are refused.
IN_LOCKOUT = 1 << 9


@unique
class PtVar(IntEnum):
    """TPM_PT of the group PT_VAR: what changes while a TPM lives."""

    PERMANENT = 0x200
    LOCKOUT_COUNTER = 0x20E
    MAX_AUTH_FAIL = 0x20F
    LOCKOUT_INTERVAL = 0x210
    LOCKOUT_RECOVERY = 0x211


def encode_get_properties(first: int, last: int) -> bytes:
    """TPM2_GetCapability (Part 3, section 30.2) of the properties from `first` to `last`."""
    return _GET_CAPABILITY.pack(Cap.TPM_PROPERTIES, first, last - first + 1)


def decode_properties(parameters: Bytes) -> "dict[int, int]":
    """Values by number, of a TPML_TAGGED_TPM_PROPERTY (Part 2, section 10.9.8).

    Raises:
        ProtocolError: it is something else, or broken.
    """
    cursor = Cursor(parameters)
    cursor.uint8()  # moreData
    capability = cursor.uint32()
    if capability != Cap.TPM_PROPERTIES:
        raise ProtocolError(f"capability {capability} came instead of properties")
    found = {}
    for _ in range(cursor.uint32()):
        number = cursor.uint32()
        found[number] = cursor.uint32()
    cursor.finish()
    return found
