"""What a resource manager of a TPM 2.0 reads in commands and responses: attributes of commands, handles,
authorizations, saved contexts.

Source: TPM 2.0 Library Part 1, "Command/Response Structure", Part 2 (structures) and Part 3 (commands), revision 1.59.
Quick to import.
"""

from struct import Struct
from typing import Optional

from swtpm_svc.wire.cursor import Cursor
from swtpm_svc.wire.protocol_error import ProtocolError
from swtpm_svc.wire.tpm2_numbers import Cap, Ht
from swtpm_svc.wire.tpm_header import HEADER_SIZE, ST_SESSIONS, Bytes
from swtpm_svc.wire.values import NamedTuple

_UINT32 = Struct(">I")
_QUESTION = Struct(">III")  # TPM2_GetCapability: capability property propertyCount
_CONTINUE_SESSION = 1 << 0  # TPMA_SESSION (2:8.4)
_SEQUENCE_OBJECT = 0x80000001  # TPMS_CONTEXT.savedHandle (2:14.5)
_SAVED_HANDLE = slice(8, 12)


class CommandAttributes(NamedTuple):
    """TPMA_CC (2:8.9), of one command."""

    #: How many handles its handle area has.
    handles: int
    #: Does its response begin with a handle?
    returns_handle: bool
    #: Are the objects in its handle area gone when it has succeeded?
    flushes: bool
    #: Can it flush any number of objects ("extensive"), as TPM2_Clear does?
    flushes_many: bool


def encode_get_commands(first: int, count: int) -> bytes:
    """The parameters of TPM2_GetCapability (3:30.2) of the attributes of commands from code `first` on."""
    return _QUESTION.pack(Cap.COMMANDS, first, count)


def decode_commands(parameters: Bytes) -> "tuple[dict[int, CommandAttributes], bool]":
    """The attributes by command code, in TPMS_CAPABILITY_DATA (2:10.10.2), and whether there are more of them.

    Raises:
        ProtocolError: it is something else, or broken.
    """
    cursor = Cursor(parameters)
    more, capability, count = cursor.uint8(), cursor.uint32(), cursor.uint32()
    if capability != Cap.COMMANDS:
        raise ProtocolError(f"capability {capability} came instead of commands")
    found = {}
    for _ in range(count):
        bits = cursor.uint32()
        code = bits & 0xFFFF | bits & 1 << 29  # commandIndex, and V as in a command code
        found[code] = CommandAttributes(
            bits >> 25 & 0x7, bool(bits & 1 << 28), bool(bits & 1 << 24), bool(bits & 1 << 23)
        )
    return found, more != 0


class Question(NamedTuple):
    """What TPM2_GetCapability (3:30.2) asks for."""

    capability: int
    first: int
    limit: int


def decode_question(parameters: Bytes) -> Optional[Question]:
    """None: they are too few or too many, which the TPM refuses."""
    return Question(*_QUESTION.unpack(parameters)) if len(parameters) == _QUESTION.size else None


class Authorization(NamedTuple):
    """TPMS_AUTH_COMMAND (2:10.13.2), as far as it says which session it is."""

    session: int
    #: Is the session still there when the command has succeeded?
    is_continued: bool


class Named(NamedTuple):
    """The handles and the authorizations of a command, as far as it has them whole: the TPM refuses one that is cut."""

    handles: "tuple[int, ...]"
    authorizations: "tuple[Authorization, ...]"
    #: What follows them; empty also where they are cut.
    parameters: bytes


def decode_named(command: Bytes, tag: int, handles: int) -> Named:
    """What a command of `tag` names, whose attributes say that it has so many `handles`."""
    cursor = Cursor(command)
    cursor.take(HEADER_SIZE)
    found: list[int] = []
    authorizations: list[Authorization] = []
    parameters = b""
    try:
        for _ in range(handles):
            found.append(cursor.uint32())
        if tag == ST_SESSIONS:
            area = Cursor(cursor.sized32())
            while area.left:
                session = area.uint32()
                area.sized16()  # nonce
                attributes = area.uint8()
                area.sized16()  # hmac
                authorizations.append(Authorization(session, bool(attributes & _CONTINUE_SESSION)))
        parameters = cursor.rest()
    except ProtocolError:
        pass
    return Named(tuple(found), tuple(authorizations), parameters)


def put_handle(message: bytearray, index: int, handle: int) -> None:
    """Write the handle at place `index` of a handle area."""
    _UINT32.pack_into(message, HEADER_SIZE + 4 * index, handle)


def type_of(handle: int) -> int:
    """TPM_HT (2:7.2)."""
    return handle >> 24


def number_of(handle: int) -> int:
    """A handle without its type."""
    return handle & 0xFFFFFF


def is_session(handle: int) -> bool:
    return type_of(handle) in (Ht.HMAC_SESSION, Ht.POLICY_SESSION)


def saved_handle(context: Bytes) -> int:
    """Of a TPMS_CONTEXT (2:14.5): the handle of a session, or what kind of object it is; 0: the context is cut."""
    return int.from_bytes(context[_SAVED_HANDLE], "big") if len(context) >= _SAVED_HANDLE.stop else 0


def sequence_of(context: Bytes) -> int:
    """Of a TPMS_CONTEXT: its number, in the order in which sessions were saved."""
    return int.from_bytes(context[:8], "big")


def is_constant(context: Bytes) -> bool:
    """Is it the context of an object that no command changes: of any but a sequence object?"""
    handle = saved_handle(context)
    return type_of(handle) == Ht.TRANSIENT and handle != _SEQUENCE_OBJECT


def encode_handles(handles: "list[int]", *, more: bool) -> bytes:
    """The parameters of a response to TPM2_GetCapability of handles: TPMS_CAPABILITY_DATA."""
    return bytes([more]) + _UINT32.pack(Cap.HANDLES) + b"".join(_UINT32.pack(n) for n in (len(handles), *handles))
