"""TPM 2.0 structures and commands: those that endorsement keys, authorizations, NV storage and PCR banks need.
Big-endian.

Sources: TPM 2.0 Library Part 2 (structures) and Part 3 (commands), revision 1.59. A command's handles are authorized by
passwords, which need no HMAC (Part 1, "Password Authorizations").
"""

from enum import IntEnum, IntFlag, unique
from struct import Struct
from typing import NamedTuple, Optional, Union

from swtpm_svc.wire.cursor import Cursor
from swtpm_svc.wire.protocol_error import ProtocolError
from swtpm_svc.wire.public_key import DEFAULT_EXPONENT, EccPublicKey, PublicKey, RsaPublicKey
from swtpm_svc.wire.tpm_header import ST_NO_SESSIONS, ST_SESSIONS, Bytes, encode_command


@unique
class Command(IntEnum):
    EVICT_CONTROL = 0x120
    HIERARCHY_CHANGE_AUTH = 0x129
    NV_DEFINE_SPACE = 0x12A
    PCR_ALLOCATE = 0x12B
    CREATE_PRIMARY = 0x131
    NV_WRITE = 0x137
    NV_WRITE_LOCK = 0x138
    GET_TIME = 0x14C
    NV_READ = 0x14E
    FLUSH_CONTEXT = 0x165
    NV_READ_PUBLIC = 0x169
    READ_PUBLIC = 0x173
    GET_CAPABILITY = 0x17A


# TPM_RH_, and the password session.
RH_OWNER = 0x40000001
RH_NULL = 0x40000007
RS_PW = 0x40000009
RH_LOCKOUT = 0x4000000A
RH_ENDORSEMENT = 0x4000000B
RH_PLATFORM = 0x4000000C

ALG_RSA = 0x0001
ALG_AES = 0x0006
ALG_SHA1 = 0x0004
ALG_SHA256 = 0x000B
ALG_SHA384 = 0x000C
ALG_SHA512 = 0x000D
ALG_NULL = 0x0010
ALG_ECDSA = 0x0018
ALG_ECC = 0x0023
ALG_CFB = 0x0043
_ALG_RSAES = 0x0015
_ALG_ECDAA = 0x001A

CAP_HANDLES = 1
CAP_PCRS = 5
CAP_TPM_PROPERTIES = 6
PT_PERMANENT = 0x200
PT_NV_BUFFER_MAX = 0x12C

#: TPMA_PERMANENT: which of the authorizations are set.
AUTH_SET = {RH_OWNER: 1 << 0, RH_ENDORSEMENT: 1 << 1, RH_LOCKOUT: 1 << 2}


@unique
class Curve(IntEnum):
    """TPM_ECC_CURVE."""

    P256 = 0x0003
    P384 = 0x0004
    P521 = 0x0005


class ObjectAttribute(IntFlag):
    """TPMA_OBJECT: those that a manufacturer's keys have."""

    FIXED_TPM = 1 << 1
    FIXED_PARENT = 1 << 4
    SENSITIVE_DATA_ORIGIN = 1 << 5
    USER_WITH_AUTH = 1 << 6
    ADMIN_WITH_POLICY = 1 << 7
    NO_DA = 1 << 10
    RESTRICTED = 1 << 16
    DECRYPT = 1 << 17
    SIGN = 1 << 18


class NvAttribute(IntFlag):
    """TPMA_NV of an ordinary index (TPM_NT_ORDINARY)."""

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


_UINT8 = Struct(">B")
_UINT16 = Struct(">H")
_UINT32 = Struct(">I")
_PUBLIC = Struct(">HHI")  # type nameAlg objectAttributes
_NV_PUBLIC = Struct(">IHI")  # nvIndex nameAlg attributes
_ALLOCATION = Struct(">BIII")  # allocationSuccess maxPCR sizeNeeded sizeAvailable
_PCR_SELECT_BYTES = 3  # 24 PCRs
_GENERATED = 0xFF544347  # TPM_GENERATED_VALUE
_ST_ATTEST_TIME = 0x8019
_CLOCK_INFO_BYTES = 17  # TPMS_CLOCK_INFO: clock resetCount restartCount safe


class RsaParameters(NamedTuple):
    """TPMS_RSA_PARMS of a storage key: AES in CFB mode of so many bits, no scheme."""

    aes_bits: int
    key_bits: int
    exponent: int = 0


class EccParameters(NamedTuple):
    """TPMS_ECC_PARMS of a storage key, or, with no `aes_bits`, of a key that signs by ECDSA with the hash
    `ecdsa_hash`."""

    aes_bits: int
    curve: int
    ecdsa_hash: int = ALG_NULL


KeyParameters = Union[RsaParameters, EccParameters]


class Public(NamedTuple):
    """TPMT_PUBLIC of a storage key, or of one that signs.

    `unique`: the modulus, or x and y; in a template what the key shall depend on.
    """

    name_alg: int
    attributes: int
    policy: bytes
    parameters: KeyParameters
    unique: "tuple[bytes, ...]"

    @property
    def key(self) -> PublicKey:
        if isinstance(self.parameters, RsaParameters):
            return RsaPublicKey(self.unique[0], self.parameters.exponent or DEFAULT_EXPONENT)
        return EccPublicKey(self.parameters.curve, *self.unique)


class NvPublic(NamedTuple):
    """TPMS_NV_PUBLIC. `size`: bytes of data."""

    nv_index: int
    attributes: int
    size: int
    name_alg: int = ALG_SHA256
    policy: bytes = b""


class Allocation(NamedTuple):
    """What PCR_Allocate answers; sizes in bytes."""

    is_done: bool
    max_pcrs: int
    size_needed: int
    size_available: int


# --- commands ----------------------------------------------------------------------------------------------------


def sized(data: bytes) -> bytes:
    """TPM2B_."""
    return _UINT16.pack(len(data)) + data


def encode(
    command: Command,
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
    # TPMS_AUTH_COMMAND: session, nonce, attributes, hmac (which for RS_PW is the password)
    sessions = (_UINT32.pack(RS_PW) + sized(b"") + b"\0" + sized(password)) * authorized
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
    for _ in range(authorized):  # TPMS_AUTH_RESPONSE of each session: nonce, attributes, hmac
        cursor.sized16()
        cursor.uint8()
        cursor.sized16()
    cursor.finish()
    return found, parameters


def encode_get_property(number: int) -> bytes:
    """TPM2_GetCapability of one property."""
    return _UINT32.pack(CAP_TPM_PROPERTIES) + _UINT32.pack(number) + _UINT32.pack(1)


def decode_property(parameters: Bytes, number: int) -> int:
    """The property's value.

    Raises:
        ProtocolError: the TPM has no such property, or the list is broken.
    """
    cursor = Cursor(parameters)
    cursor.uint8()  # moreData
    capability, count = cursor.uint32(), cursor.uint32()
    if capability != CAP_TPM_PROPERTIES or count != 1:
        raise ProtocolError(f"{count} values of capability {capability} came instead of one property")
    found, value = cursor.uint32(), cursor.uint32()
    cursor.finish()
    if found != number:
        raise ProtocolError(f"property {found:#x} came, {number:#x} was asked for")
    return value


def encode_get_handles(first: int, count: int) -> bytes:
    """TPM2_GetCapability of the handles from `first` on, of its type."""
    return _UINT32.pack(CAP_HANDLES) + _UINT32.pack(first) + _UINT32.pack(count)


def decode_handles(parameters: Bytes) -> "tuple[list[int], bool]":
    """The handles, and whether there are more of them."""
    cursor = Cursor(parameters)
    more, capability, count = cursor.uint8(), cursor.uint32(), cursor.uint32()
    if capability != CAP_HANDLES:
        raise ProtocolError(f"capability {capability} came instead of handles")
    handles = [cursor.uint32() for _ in range(count)]
    cursor.finish()
    return handles, more != 0


# --- keys --------------------------------------------------------------------------------------------------------


def encode_public(public: Public) -> bytes:
    """TPMT_PUBLIC."""
    parameters = public.parameters
    kind = ALG_RSA if isinstance(parameters, RsaParameters) else ALG_ECC
    symmetric = _UINT16.pack(ALG_AES) + _UINT16.pack(parameters.aes_bits) + _UINT16.pack(ALG_CFB)
    scheme = _UINT16.pack(ALG_NULL)
    if isinstance(parameters, RsaParameters):
        details = symmetric + scheme + _UINT16.pack(parameters.key_bits) + _UINT32.pack(parameters.exponent)
    else:
        if not parameters.aes_bits:
            symmetric, scheme = scheme, _UINT16.pack(ALG_ECDSA) + _UINT16.pack(parameters.ecdsa_hash)
        details = symmetric + scheme + _UINT16.pack(parameters.curve) + _UINT16.pack(ALG_NULL)  # kdf
    start = _PUBLIC.pack(kind, public.name_alg, public.attributes) + sized(public.policy)
    return start + details + b"".join(sized(part) for part in public.unique)


def decode_public(data: Bytes) -> Public:
    """TPMT_PUBLIC of a storage key, or of one that signs by ECDSA.

    Raises:
        ProtocolError: it is not whole, or of another kind.
    """
    cursor = Cursor(data)
    kind, name_alg, attributes = _PUBLIC.unpack(cursor.take(_PUBLIC.size))
    policy = cursor.sized16()
    if kind not in (ALG_RSA, ALG_ECC):
        raise ProtocolError(f"an object of type {kind:#x} is no asymmetric key")
    symmetric, aes_bits, ecdsa_hash = cursor.uint16(), 0, ALG_NULL
    if (kind, symmetric) == (ALG_ECC, ALG_NULL):
        if cursor.uint16() != ALG_ECDSA:
            raise ProtocolError("the key neither stores nor signs by ECDSA")
        ecdsa_hash = cursor.uint16()
    else:
        aes_bits, mode, scheme = cursor.uint16(), cursor.uint16(), cursor.uint16()
        if (symmetric, mode, scheme) != (ALG_AES, ALG_CFB, ALG_NULL):
            raise ProtocolError("the key is no storage key: its symmetric algorithm is not AES-CFB, or it has a scheme")
    parameters: KeyParameters
    if kind == ALG_RSA:
        parameters = RsaParameters(aes_bits, cursor.uint16(), cursor.uint32())
        unique_parts: tuple[bytes, ...] = (cursor.sized16(),)
    else:
        parameters = EccParameters(aes_bits, cursor.uint16(), ecdsa_hash)
        if cursor.uint16() != ALG_NULL:
            raise ProtocolError("the key has a key derivation scheme")
        unique_parts = (cursor.sized16(), cursor.sized16())
    cursor.finish()
    return Public(name_alg, attributes, policy, parameters, unique_parts)


def decode_key(parameters: Bytes) -> PublicKey:
    """The key alone in the response to ReadPublic, of any asymmetric object: it may sign, and have schemes of its own.

    Raises:
        ProtocolError: it is not whole, or of another kind.
    """
    cursor = Cursor(Cursor(parameters).sized16())
    kind, _name_alg, _attributes = _PUBLIC.unpack(cursor.take(_PUBLIC.size))
    cursor.sized16()  # authPolicy
    if kind not in (ALG_RSA, ALG_ECC):
        raise ProtocolError(f"an object of type {kind:#x} is no asymmetric key")
    if cursor.uint16() != ALG_NULL:  # symmetric: its size and mode
        cursor.take(4)
    _skip_scheme(cursor)
    if kind == ALG_RSA:
        cursor.uint16()  # keyBits
        exponent = cursor.uint32() or DEFAULT_EXPONENT
        key: PublicKey = RsaPublicKey(cursor.sized16(), exponent)
    else:
        curve = cursor.uint16()
        _skip_scheme(cursor)  # kdf
        key = EccPublicKey(curve, cursor.sized16(), cursor.sized16())
    cursor.finish()
    return key


def _skip_scheme(cursor: Cursor) -> None:
    """TPMT_RSA_SCHEME, TPMT_ECC_SCHEME, TPMT_KDF_SCHEME: all but two have a hash algorithm (Part 2,
    "TPMU_ASYM_SCHEME")."""
    scheme = cursor.uint16()
    if scheme not in (ALG_NULL, _ALG_RSAES):
        cursor.take(4 if scheme == _ALG_ECDAA else 2)


def encode_create_primary(template: Public) -> bytes:
    """A key without a password of its own, and without data that its creation depends on."""
    sensitive = sized(b"") + sized(b"")  # userAuth data
    return sized(sensitive) + sized(encode_public(template)) + sized(b"") + _UINT32.pack(0)  # outsideInfo creationPCR


def decode_first_public(parameters: Bytes) -> Public:
    """The key in the response to CreatePrimary and to ReadPublic, whose other parts are not looked at."""
    return decode_public(Cursor(parameters).sized16())


# --- attestation -------------------------------------------------------------------------------------------------


def encode_get_time() -> bytes:
    """No qualifying data, no scheme."""
    return sized(b"") + _UINT16.pack(ALG_NULL)


def decode_get_time(parameters: Bytes) -> "tuple[int, int]":
    """The firmware's version as the attestation's header has it, which the signer's hierarchy obfuscates, and as it
    is."""
    attest = Cursor(Cursor(parameters).sized16())
    magic, kind = attest.uint32(), attest.uint16()
    if (magic, kind) != (_GENERATED, _ST_ATTEST_TIME):
        raise ProtocolError(f"an attestation of type {kind:#x} came instead of one of the time")
    attest.sized16()  # qualifiedSigner
    attest.sized16()  # extraData
    attest.take(_CLOCK_INFO_BYTES)
    obfuscated = attest.take(8)
    attest.take(8 + _CLOCK_INFO_BYTES)  # TPMS_TIME_INFO
    version = attest.take(8)
    attest.finish()
    return int.from_bytes(obfuscated, "big"), int.from_bytes(version, "big")


# --- NV storage and PCR banks ------------------------------------------------------------------------------------


def encode_nv_define_space(public: NvPublic) -> bytes:
    """Without a password of its own."""
    start = _NV_PUBLIC.pack(public.nv_index, public.name_alg, public.attributes)
    return sized(b"") + sized(start + sized(public.policy) + _UINT16.pack(public.size))


def decode_nv_read_public(parameters: Bytes) -> NvPublic:
    cursor = Cursor(parameters)
    inner = Cursor(cursor.sized16())
    cursor.sized16()  # the index's name
    cursor.finish()
    nv_index, name_alg, attributes = _NV_PUBLIC.unpack(inner.take(_NV_PUBLIC.size))
    policy, size = inner.sized16(), inner.uint16()
    inner.finish()
    return NvPublic(nv_index, attributes, size, name_alg, policy)


def encode_nv_write(data: bytes, offset: int) -> bytes:
    return sized(data) + _UINT16.pack(offset)


def encode_nv_read(size: int, offset: int) -> bytes:
    return _UINT16.pack(size) + _UINT16.pack(offset)


def decode_nv_read(parameters: Bytes) -> bytes:
    cursor = Cursor(parameters)
    data = cursor.sized16()
    cursor.finish()
    return data


def encode_pcr_allocate(banks: "dict[int, bool]") -> bytes:
    """`banks`: hash algorithms, and whether each shall have all the PCRs or none."""
    selections = [
        _UINT16.pack(algorithm) + _UINT8.pack(_PCR_SELECT_BYTES) + (b"\xff" if is_wanted else b"\0") * _PCR_SELECT_BYTES
        for algorithm, is_wanted in banks.items()
    ]
    return _UINT32.pack(len(selections)) + b"".join(selections)


def encode_get_pcrs() -> bytes:
    """TPM2_GetCapability of the PCR banks."""
    return _UINT32.pack(CAP_PCRS) + _UINT32.pack(0) + _UINT32.pack(1)


def decode_pcrs(parameters: Bytes) -> "dict[int, bool]":
    """The hash algorithms that the TPM has banks for, and whether there are PCRs in each.

    Raises:
        ProtocolError: it is something else, or broken.
    """
    cursor = Cursor(parameters)
    cursor.uint8()  # moreData
    capability, count = cursor.uint32(), cursor.uint32()
    if capability != CAP_PCRS:
        raise ProtocolError(f"capability {capability} came instead of the PCR banks")
    banks = {}
    for _ in range(count):
        algorithm, size = cursor.uint16(), cursor.uint8()
        banks[algorithm] = any(cursor.take(size))
    cursor.finish()
    return banks


def decode_pcr_allocate(parameters: Bytes) -> Allocation:
    cursor = Cursor(parameters)
    is_done, max_pcrs, needed, available = _ALLOCATION.unpack(cursor.take(_ALLOCATION.size))
    cursor.finish()
    return Allocation(is_done != 0, max_pcrs, needed, available)
