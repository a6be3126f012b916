"""TPM 2.0 structures and commands: those that keys, authorizations, attestation and NV storage need. Big-endian.

Sources: TPM 2.0 Library Part 2 (structures) and Part 3 (commands), revision 1.59; "2:" and "3:" before a section's
number say which. A command's handles are authorized by
passwords, which need no HMAC (Part 1, "Password Authorizations").
"""

from struct import Struct

from swtpm_svc.wire.algorithms import Alg
from swtpm_svc.wire.command_codes import CommandCode
from swtpm_svc.wire.cursor import Cursor
from swtpm_svc.wire.enumerations import IntFlag
from swtpm_svc.wire.hints import Optional
from swtpm_svc.wire.protocol_error import ProtocolError
from swtpm_svc.wire.tpm2_numbers import Cap, Rh
from swtpm_svc.wire.tpm2_public import Public, decode_public, encode_public, sized
from swtpm_svc.wire.tpm_header import ST_NO_SESSIONS, ST_SESSIONS, Bytes, encode_command
from swtpm_svc.wire.values import NamedTuple

#: TPMA_PERMANENT (2:8.6): which of the authorizations are set.
AUTH_SET = {Rh.OWNER: 1 << 0, Rh.ENDORSEMENT: 1 << 1, Rh.LOCKOUT: 1 << 2}


class NvAttribute(IntFlag):
    """TPMA_NV of an ordinary index, TPM_NT_ORDINARY (2:13.4)."""

    PPWRITE = 1 << 0
    OWNERWRITE = 1 << 1
    AUTHWRITE = 1 << 2
    POLICYWRITE = 1 << 3
    POLICY_DELETE = 1 << 10
    WRITELOCKED = 1 << 11
    WRITEALL = 1 << 12
    WRITEDEFINE = 1 << 13
    PPREAD = 1 << 16
    OWNERREAD = 1 << 17
    AUTHREAD = 1 << 18
    POLICYREAD = 1 << 19
    NO_DA = 1 << 25
    WRITTEN = 1 << 29
    PLATFORMCREATE = 1 << 30


_UINT16 = Struct(">H")
_UINT32 = Struct(">I")
_NV_PUBLIC = Struct(">IHI")  # nvIndex nameAlg attributes
_GENERATED = 0xFF544347  # TPM_GENERATED_VALUE (2:6.2)
_ST_ATTEST_TIME = 0x8019  # TPM_ST (2:6.9)
_CLOCK_INFO_BYTES = 17  # TPMS_CLOCK_INFO (2:10.11.1): clock resetCount restartCount safe


class NvPublic(NamedTuple):
    """TPMS_NV_PUBLIC (2:13.5). `size`: bytes of data."""

    nv_index: int
    attributes: int
    size: int
    name_alg: int = Alg.SHA256
    policy: bytes = b""


# --- commands ----------------------------------------------------------------------------------------------------


def encode(
    command: CommandCode,
    handles: "tuple[int, ...]",
    parameters: bytes = b"",
    *,
    password: Optional[bytes] = None,
    authorized: int = 1,
) -> bytes:
    """A whole command.

    With a `password` its first `authorized` handles are authorized by it; an empty one is one, too.
    """
    start = b"".join(_UINT32.pack(handle) for handle in handles)
    if password is None:
        return encode_command(ST_NO_SESSIONS, command, start + parameters)
    # TPMS_AUTH_COMMAND (2:10.13.2): session, nonce, attributes, hmac (which for Rh.PW is the password)
    sessions = (_UINT32.pack(Rh.PW) + sized(b"") + b"\0" + sized(password)) * authorized
    return encode_command(ST_SESSIONS, command, start + _UINT32.pack(len(sessions)) + sessions + parameters)


def split_response(tag: int, body: Bytes, *, handles: int = 0, authorized: int = 1) -> "tuple[tuple[int, ...], bytes]":
    """The handles and the parameters in the body of a successful response.

    Raises:
        ProtocolError: it ends too early, or goes on after its sessions.
    """
    cursor = Cursor(body)
    found = tuple(cursor.uint32() for _ in range(handles))
    if tag != ST_SESSIONS:
        return found, cursor.rest()
    parameters = cursor.sized32()
    for _ in range(authorized):  # TPMS_AUTH_RESPONSE (2:10.13.3) of each session: nonce, attributes, hmac
        cursor.sized16()
        cursor.uint8()
        cursor.sized16()
    cursor.finish()
    return found, parameters


def encode_get_property(number: int) -> bytes:
    """TPM2_GetCapability (3:30.2) of one property."""
    return _UINT32.pack(Cap.TPM_PROPERTIES) + _UINT32.pack(number) + _UINT32.pack(1)


def decode_property(parameters: Bytes, number: int) -> int:
    """The property's value, in TPMS_CAPABILITY_DATA (2:10.10.2).

    Raises:
        ProtocolError: the TPM has no such property, or the list is broken.
    """
    cursor = Cursor(parameters)
    cursor.uint8()  # moreData
    capability, count = cursor.uint32(), cursor.uint32()
    if capability != Cap.TPM_PROPERTIES or count != 1:
        raise ProtocolError(f"{count} values of capability {capability} came instead of one property")
    found, value = cursor.uint32(), cursor.uint32()
    cursor.finish()
    if found != number:
        raise ProtocolError(f"property {found:#x} came, {number:#x} was asked for")
    return value


def encode_get_handles(first: int, count: int) -> bytes:
    """TPM2_GetCapability (3:30.2) of the handles from `first` on, of its type."""
    return _UINT32.pack(Cap.HANDLES) + _UINT32.pack(first) + _UINT32.pack(count)


def decode_handles(parameters: Bytes) -> "tuple[list[int], bool]":
    """The handles, in TPMS_CAPABILITY_DATA (2:10.10.2), and whether there are more of them.

    Raises:
        ProtocolError: it is something else, or broken.
    """
    cursor = Cursor(parameters)
    more, capability, count = cursor.uint8(), cursor.uint32(), cursor.uint32()
    if capability != Cap.HANDLES:
        raise ProtocolError(f"capability {capability} came instead of handles")
    handles = [cursor.uint32() for _ in range(count)]
    cursor.finish()
    return handles, more != 0


# --- keys --------------------------------------------------------------------------------------------------------


def encode_create_primary(template: Public) -> bytes:
    """TPM2_CreatePrimary (3:24.1) of a key without a password of its own, and without data that its creation depends
    on."""
    sensitive = sized(b"") + sized(b"")  # userAuth data
    return sized(sensitive) + sized(encode_public(template)) + sized(b"") + _UINT32.pack(0)  # outsideInfo creationPCR


def decode_first_public(parameters: Bytes) -> Public:
    """The key in the response to TPM2_CreatePrimary (3:24.1), whose other parts are not looked at."""
    return decode_public(Cursor(parameters).sized16())


# --- attestation -------------------------------------------------------------------------------------------------


def encode_get_time() -> bytes:
    """TPM2_GetTime (3:18.7): no qualifying data, no scheme."""
    return sized(b"") + _UINT16.pack(Alg.NULL)


def decode_get_time(parameters: Bytes) -> "tuple[int, int]":
    """TPMS_ATTEST (2:10.12.12) of TPMS_TIME_ATTEST_INFO (2:10.12.2): the firmware's version as the header has it, which
    the signer's hierarchy obfuscates, and as it is."""
    attest = Cursor(Cursor(parameters).sized16())
    magic, kind = attest.uint32(), attest.uint16()
    if (magic, kind) != (_GENERATED, _ST_ATTEST_TIME):
        raise ProtocolError(f"an attestation of type {kind:#x} came instead of one of the time")
    attest.sized16()  # qualifiedSigner
    attest.sized16()  # extraData
    attest.take(_CLOCK_INFO_BYTES)
    obfuscated = attest.take(8)
    attest.take(8 + _CLOCK_INFO_BYTES)  # TPMS_TIME_INFO (2:10.11.6)
    version = attest.take(8)
    attest.finish()
    return int.from_bytes(obfuscated, "big"), int.from_bytes(version, "big")


# --- NV storage --------------------------------------------------------------------------------------------------


def encode_nv_define_space(public: NvPublic) -> bytes:
    """TPM2_NV_DefineSpace (3:31.3) of an index without a password of its own."""
    start = _NV_PUBLIC.pack(public.nv_index, public.name_alg, public.attributes)
    return sized(b"") + sized(start + sized(public.policy) + _UINT16.pack(public.size))


def decode_nv_read_public(parameters: Bytes) -> NvPublic:
    """TPM2_NV_ReadPublic (3:31.6)."""
    cursor = Cursor(parameters)
    inner = Cursor(cursor.sized16())
    cursor.sized16()  # the index's name
    cursor.finish()
    nv_index, name_alg, attributes = _NV_PUBLIC.unpack(inner.take(_NV_PUBLIC.size))
    policy, size = inner.sized16(), inner.uint16()
    inner.finish()
    return NvPublic(nv_index, attributes, size, name_alg, policy)


def encode_nv_write(data: bytes, offset: int) -> bytes:
    """TPM2_NV_Write (3:31.7)."""
    return sized(data) + _UINT16.pack(offset)


def encode_nv_read(size: int, offset: int) -> bytes:
    """TPM2_NV_Read (3:31.13)."""
    return _UINT16.pack(size) + _UINT16.pack(offset)


def decode_nv_read(parameters: Bytes) -> bytes:
    """TPM2_NV_Read (3:31.13)."""
    cursor = Cursor(parameters)
    data = cursor.sized16()
    cursor.finish()
    return data
