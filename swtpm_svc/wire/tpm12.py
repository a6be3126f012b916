"""TPM 1.2 structures and commands: those that an endorsement key, ownership and NV storage need. Big-endian.

Sources: TPM Main Part 2 (structures) and Part 3 (commands), level 2 revision 116; "2:" and "3:" before a section's
number say which. An encode_ function gives a command's
parameters, which is all between the header and the authorization; all of them go into the authorization's digest
(marked with an S in Part 3), as no command here has a handle that does not.
"""

from struct import Struct

from swtpm_svc.wire.cursor import Cursor
from swtpm_svc.wire.enumerations import IntEnum, IntFlag, unique
from swtpm_svc.wire.protocol_error import ProtocolError
from swtpm_svc.wire.public_key import DEFAULT_EXPONENT, RsaPublicKey
from swtpm_svc.wire.tpm_header import Bytes

#: A nonce, a digest (SHA-1) and an authorization value are all of this size.
DIGEST_SIZE = 20
#: The secret that everybody knows (TSS_WELL_KNOWN_SECRET); the SRK's, unless somebody wants another one.
WELL_KNOWN_SECRET = bytes(DIGEST_SIZE)
#: OAEP's label, for all that is encrypted to a TPM 1.2 (Part 1, "RSAES_OAEP").
OAEP_LABEL = b"TCPA"


@unique
class Kh(IntEnum):
    """TPM_KH_ (2:4.4): the fixed handles that this program uses."""

    OWNER = 0x40000001
    EK = 0x40000006


@unique
class Cap(IntEnum):
    """TPM_CAPABILITY_AREA (2:21.1): what this program asks for."""

    FLAG = 0x04
    PROPERTY = 0x05


@unique
class CapFlag(IntEnum):
    """TPM_CAP_FLAG_, of TPM_CAP_FLAG (2:21.1): the flags that this program asks for."""

    PERMANENT = 0x108


@unique
class CapProp(IntEnum):
    """TPM_CAP_PROP_, of TPM_CAP_PROPERTY (2:21.2): the properties that this program asks for."""

    OWNER = 0x111


ET_OWNER = 0x0002  # TPM_ENTITY_TYPE (2:4.3); the XOR encryption of authorization values is its high byte, zero
RT_AUTH = 0x00000002  # TPM_RESOURCE_TYPE (2:4.1): a session

# TPM_PHYSICAL_PRESENCE (2:4.9).
PHYSICAL_PRESENCE_LOCK = 0x0004
PHYSICAL_PRESENCE_PRESENT = 0x0008
PHYSICAL_PRESENCE_NOTPRESENT = 0x0010
PHYSICAL_PRESENCE_CMD_ENABLE = 0x0020

#: The index that locks NV storage when it is defined: nvLocked, TPM_NV_INDEX_LOCK (2:19.1).
NV_INDEX_LOCK = 0xFFFFFFFF


class NvPermission(IntFlag):
    """TPM_NV_ATTRIBUTES, TPM_NV_PER_ (2:19.2)."""

    PPWRITE = 1 << 0
    OWNERWRITE = 1 << 1
    AUTHWRITE = 1 << 2
    WRITEALL = 1 << 12
    WRITEDEFINE = 1 << 13
    WRITE_STCLEAR = 1 << 14
    GLOBALLOCK = 1 << 15
    PPREAD = 1 << 16
    OWNERREAD = 1 << 17
    AUTHREAD = 1 << 18
    READ_STCLEAR = 1 << 31


_PID_OWNER = 0x0005
_ALG_RSA = 0x00000001
_ES_RSAESOAEP_SHA1_MGF1 = 0x0003
_SS_NONE = 0x0001
_STRUCT_VER_1_1 = bytes((1, 1, 0, 0))
_KEY_STORAGE = 0x0011
_AUTH_ALWAYS = 0x01
_TAG_NV_ATTRIBUTES = 0x0017
_TAG_NV_DATA_PUBLIC = 0x0018
_RSA_BITS = 2048
_ALL_LOCALITIES = 0x1F

_KEY_PARMS = Struct(">IHHI")  # algorithmID encScheme sigScheme parmSize
_RSA_KEY_PARMS = Struct(">III")  # keyLength in bits, numPrimes, exponentSize
_UINT16 = Struct(">H")
_UINT32 = Struct(">I")
_SESSION = Struct(">I20s")  # authHandle nonceEven
_OSAP_SESSION = Struct(">I20s20s")  # authHandle nonceEven nonceEvenOSAP
_AUTH = Struct(">I20s?20s")  # authHandle nonceOdd continueAuthSession auth
_RESPONSE_AUTH = Struct(">20s?20s")  # nonceEven continueAuthSession resAuth


def encode_rsa_parms() -> bytes:
    """TPM_KEY_PARMS (2:10.1) of an RSA 2048 key that only decrypts, with the default exponent: endorsement key and
    SRK."""
    rsa = _RSA_KEY_PARMS.pack(_RSA_BITS, 2, 0)
    return _KEY_PARMS.pack(_ALG_RSA, _ES_RSAESOAEP_SHA1_MGF1, _SS_NONE, len(rsa)) + rsa


def decode_pubkey(cursor: Cursor) -> RsaPublicKey:
    """TPM_PUBKEY (2:10.5).

    Raises:
        ProtocolError: it is not whole, or not an RSA key.
    """
    algorithm, _encryption, _signature, size = _KEY_PARMS.unpack(cursor.take(_KEY_PARMS.size))
    parms = Cursor(cursor.take(size))
    if algorithm != _ALG_RSA:
        raise ProtocolError(f"the key's algorithm is {algorithm:#x}, not RSA")
    bits, _primes = parms.uint32(), parms.uint32()
    exponent = parms.sized32()
    parms.finish()
    modulus = cursor.sized32()
    if not modulus or len(modulus) * 8 != bits:
        raise ProtocolError(f"an RSA key of {bits} bits has {len(modulus)} bytes of modulus")
    return RsaPublicKey(modulus, int.from_bytes(exponent, "big") or DEFAULT_EXPONENT)


# --- sessions ----------------------------------------------------------------------------------------------------


def encode_osap(entity_type: int, entity: int, nonce_odd: bytes) -> bytes:
    """TPM_OSAP (3:18.2)."""
    return _UINT16.pack(entity_type) + _UINT32.pack(entity) + nonce_odd


def decode_oiap(body: Bytes) -> "tuple[int, bytes]":
    """TPM_OIAP (3:18.1): the session's handle and nonceEven."""
    cursor = Cursor(body)
    handle, nonce_even = _SESSION.unpack(cursor.take(_SESSION.size))
    cursor.finish()
    return handle, nonce_even


def decode_osap(body: Bytes) -> "tuple[int, bytes, bytes]":
    """TPM_OSAP (3:18.2): the session's handle, nonceEven and nonceEvenOSAP."""
    cursor = Cursor(body)
    handle, nonce_even, nonce_even_osap = _OSAP_SESSION.unpack(cursor.take(_OSAP_SESSION.size))
    cursor.finish()
    return handle, nonce_even, nonce_even_osap


def encode_auth(handle: int, nonce_odd: bytes, auth: bytes, *, continues: bool) -> bytes:
    """What follows the parameters of a command with one session."""
    return _AUTH.pack(handle, nonce_odd, continues, auth)


def split_response_auth(body: Bytes) -> "tuple[bytes, bytes, bool, bytes]":
    """The response to such a command: parameters, nonceEven, continueAuthSession, resAuth.

    Raises:
        ProtocolError: it is shorter than the authorization.
    """
    start = len(body) - _RESPONSE_AUTH.size
    if start < 0:
        raise ProtocolError(f"a response of {len(body)} bytes has no room for its authorization")
    nonce_even, continues, auth = _RESPONSE_AUTH.unpack(bytes(body[start:]))
    return bytes(body[:start]), nonce_even, continues, auth


def encode_flush_session(handle: int) -> bytes:
    """TPM_FlushSpecific (3:22.1) of a session."""
    return _UINT32.pack(handle) + _UINT32.pack(RT_AUTH)


# --- endorsement key and ownership -------------------------------------------------------------------------------


def encode_create_endorsement_key_pair(anti_replay: bytes) -> bytes:
    """TPM_CreateEndorsementKeyPair (3:14.1)."""
    return anti_replay + encode_rsa_parms()


def decode_pubek(body: Bytes) -> "tuple[RsaPublicKey, bytes, bytes]":
    """TPM_CreateEndorsementKeyPair (3:14.1) and TPM_ReadPubek (3:14.4): the key, its bytes, and the digest of these and
    antiReplay."""
    cursor = Cursor(body)
    key = decode_pubkey(cursor)
    raw = cursor.since(0)
    checksum = cursor.take(DIGEST_SIZE)
    cursor.finish()
    return key, raw, checksum


def encode_owner_read_internal_pub(key_handle: int) -> bytes:
    """TPM_OwnerReadInternalPub (3:14.5)."""
    return _UINT32.pack(key_handle)


def decode_internal_pub(body: Bytes) -> RsaPublicKey:
    """TPM_OwnerReadInternalPub (3:14.5)."""
    cursor = Cursor(body)
    key = decode_pubkey(cursor)
    cursor.finish()
    return key


def encode_take_ownership(encrypted_owner: bytes, encrypted_srk: bytes) -> bytes:
    """TPM_TakeOwnership (3:6.1): both authorization values encrypted to the endorsement key.

    The SRK is an RSA 2048 storage key that needs its secret.
    """
    usage = _UINT16.pack(_KEY_STORAGE) + _UINT32.pack(0) + bytes((_AUTH_ALWAYS,))  # keyUsage keyFlags authDataUsage
    srk = _STRUCT_VER_1_1 + usage + encode_rsa_parms() + _UINT32.pack(0) * 3  # no PCRInfo, no key yet, no encData
    return _UINT16.pack(_PID_OWNER) + _sized(encrypted_owner) + _sized(encrypted_srk) + srk


def encode_get_capability(area: int, sub: int) -> bytes:
    """TPM_GetCapability (3:7.1)."""
    return _UINT32.pack(area) + _sized(_UINT32.pack(sub))


def decode_capability(body: Bytes) -> bytes:
    """TPM_GetCapability (3:7.1)."""
    cursor = Cursor(body)
    answer = cursor.sized32()
    cursor.finish()
    return answer


# --- NV storage --------------------------------------------------------------------------------------------------


def encode_nv_define_space(index: int, size: int, permission: int, encrypted_auth: bytes) -> bytes:
    """TPM_NV_DefineSpace (3:20.1) of an index of `size` bytes that depends on no PCRs and on no locality:
    TPM_NV_DATA_PUBLIC (2:19.3)."""
    pcr_info = _UINT16.pack(3) + bytes(3) + bytes((_ALL_LOCALITIES,)) + bytes(DIGEST_SIZE)  # TPM_PCR_INFO_SHORT
    attributes = _UINT16.pack(_TAG_NV_ATTRIBUTES) + _UINT32.pack(permission)
    flags = bytes(3)  # bReadSTClear bWriteSTClear bWriteDefine, which the TPM sets
    public = (
        _UINT16.pack(_TAG_NV_DATA_PUBLIC) + _UINT32.pack(index) + pcr_info * 2 + attributes + flags + _UINT32.pack(size)
    )
    return public + encrypted_auth


def encode_nv_write_value(index: int, offset: int, data: bytes) -> bytes:
    """TPM_NV_WriteValue (3:20.2)."""
    return _UINT32.pack(index) + _UINT32.pack(offset) + _sized(data)


def encode_nv_read_value(index: int, offset: int, size: int) -> bytes:
    """TPM_NV_ReadValue (3:20.4)."""
    return _UINT32.pack(index) + _UINT32.pack(offset) + _UINT32.pack(size)


def decode_nv_value(body: Bytes) -> bytes:
    """TPM_NV_ReadValue (3:20.4)."""
    return decode_capability(body)  # the same shape: a size and the data


def _sized(data: bytes) -> bytes:
    return _UINT32.pack(len(data)) + data
