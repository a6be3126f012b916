"""Public areas of TPM 2.0 objects: storage keys, and keys that sign by ECDSA. Big-endian.

Source: TPM 2.0 Library Part 2, revision 1.59; section numbers are this part's.
"""

from struct import Struct

from swtpm_svc.wire.algorithms import Alg
from swtpm_svc.wire.cursor import Cursor
from swtpm_svc.wire.enumerations import IntEnum, IntFlag, unique
from swtpm_svc.wire.hints import Union
from swtpm_svc.wire.protocol_error import ProtocolError
from swtpm_svc.wire.public_key import DEFAULT_EXPONENT, EccPublicKey, PublicKey, RsaPublicKey
from swtpm_svc.wire.tpm_header import Bytes
from swtpm_svc.wire.values import NamedTuple

_UINT16 = Struct(">H")
_UINT32 = Struct(">I")
_PUBLIC = Struct(">HHI")  # type nameAlg objectAttributes


@unique
class Curve(IntEnum):
    """TPM_ECC_CURVE (6.4): those that this program makes keys on."""

    P256 = 0x0003
    P384 = 0x0004
    P521 = 0x0005


class ObjectAttribute(IntFlag):
    """TPMA_OBJECT (8.3): those that a manufacturer's keys have."""

    FIXED_TPM = 1 << 1
    FIXED_PARENT = 1 << 4
    SENSITIVE_DATA_ORIGIN = 1 << 5
    USER_WITH_AUTH = 1 << 6
    ADMIN_WITH_POLICY = 1 << 7
    NO_DA = 1 << 10
    RESTRICTED = 1 << 16
    DECRYPT = 1 << 17
    SIGN = 1 << 18


class RsaParameters(NamedTuple):
    """TPMS_RSA_PARMS (12.2.3.5) of a storage key: AES in CFB mode of so many bits, no scheme; or, with no `aes_bits`,
    of a key that signs by RSAPSS with the hash `pss_hash`, or by what its user says."""

    aes_bits: int
    key_bits: int
    exponent: int = 0
    pss_hash: int = Alg.NULL


class EccParameters(NamedTuple):
    """TPMS_ECC_PARMS (12.2.3.6) of a storage key, or, with no `aes_bits`, of a key that signs by ECDSA with the hash
    `ecdsa_hash`, or by what its user says."""

    aes_bits: int
    curve: int
    ecdsa_hash: int = Alg.NULL


KeyParameters = Union[RsaParameters, EccParameters]


class Public(NamedTuple):
    """TPMT_PUBLIC (12.2.4) of a storage key, or of one that signs.

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


def sized(data: bytes) -> bytes:
    """TPM2B_ (10.4): a size of two bytes, and that many bytes."""
    return _UINT16.pack(len(data)) + data


def encode_public(public: Public) -> bytes:
    """TPMT_PUBLIC (12.2.4)."""
    parameters = public.parameters
    kind = Alg.RSA if isinstance(parameters, RsaParameters) else Alg.ECC
    symmetric = _UINT16.pack(Alg.AES) + _UINT16.pack(parameters.aes_bits) + _UINT16.pack(Alg.CFB)
    scheme = _UINT16.pack(Alg.NULL)
    if not parameters.aes_bits:
        symmetric = _UINT16.pack(Alg.NULL)
        signs, hashed = (
            (Alg.RSAPSS, parameters.pss_hash)
            if isinstance(parameters, RsaParameters)
            else (Alg.ECDSA, parameters.ecdsa_hash)
        )
        if hashed != Alg.NULL:
            scheme = _UINT16.pack(signs) + _UINT16.pack(hashed)
    if isinstance(parameters, RsaParameters):
        details = symmetric + scheme + _UINT16.pack(parameters.key_bits) + _UINT32.pack(parameters.exponent)
    else:
        details = symmetric + scheme + _UINT16.pack(parameters.curve) + _UINT16.pack(Alg.NULL)  # kdf
    start = _PUBLIC.pack(kind, public.name_alg, public.attributes) + sized(public.policy)
    return start + details + b"".join(sized(part) for part in public.unique)


def decode_public(data: Bytes) -> Public:
    """TPMT_PUBLIC (12.2.4) of a storage key, or of one that signs by RSAPSS, ECDSA or what its user says.

    Raises:
        ProtocolError: it is not whole, or of another kind.
    """
    cursor = Cursor(data)
    kind, name_alg, attributes = _PUBLIC.unpack(cursor.take(_PUBLIC.size))
    policy = cursor.sized16()
    if kind not in (Alg.RSA, Alg.ECC):
        raise ProtocolError(f"an object of type {kind:#x} is not an asymmetric key")
    symmetric, aes_bits, hashed = cursor.uint16(), 0, int(Alg.NULL)
    if symmetric == Alg.NULL:
        scheme = cursor.uint16()
        if scheme not in (Alg.NULL, Alg.RSAPSS if kind == Alg.RSA else Alg.ECDSA):
            raise ProtocolError("the key neither stores nor signs by RSAPSS or ECDSA")
        if scheme != Alg.NULL:
            hashed = cursor.uint16()
    else:
        aes_bits, mode, scheme = cursor.uint16(), cursor.uint16(), cursor.uint16()
        if (symmetric, mode, scheme) != (Alg.AES, Alg.CFB, Alg.NULL):
            cause = "the key is not a storage key: its symmetric algorithm is not AES-CFB, or it has a scheme"
            raise ProtocolError(cause)
    parameters: KeyParameters
    if kind == Alg.RSA:
        parameters = RsaParameters(aes_bits, cursor.uint16(), cursor.uint32(), hashed)
        unique_parts: tuple[bytes, ...] = (cursor.sized16(),)
    else:
        parameters = EccParameters(aes_bits, cursor.uint16(), hashed)
        if cursor.uint16() != Alg.NULL:
            raise ProtocolError("the key has a key derivation scheme")
        unique_parts = (cursor.sized16(), cursor.sized16())
    cursor.finish()
    return Public(name_alg, attributes, policy, parameters, unique_parts)


def decode_key(parameters: Bytes) -> PublicKey:
    """The key alone in the response to TPM2_ReadPublic (Part 3, section 12.4), of any asymmetric object: it may
    sign, and have schemes of its own.

    Raises:
        ProtocolError: it is not whole, or of another kind.
    """
    cursor = Cursor(Cursor(parameters).sized16())
    kind, _name_alg, _attributes = _PUBLIC.unpack(cursor.take(_PUBLIC.size))
    cursor.sized16()  # authPolicy
    if kind not in (Alg.RSA, Alg.ECC):
        raise ProtocolError(f"an object of type {kind:#x} is not an asymmetric key")
    if cursor.uint16() != Alg.NULL:  # symmetric: its size and mode
        cursor.take(4)
    _skip_scheme(cursor)
    if kind == Alg.RSA:
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
    """TPMT_RSA_SCHEME, TPMT_ECC_SCHEME, TPMT_KDF_SCHEME: all but two have a hash algorithm (11.2.3.5,
    "TPMU_ASYM_SCHEME")."""
    scheme = cursor.uint16()
    if scheme not in (Alg.NULL, Alg.RSAES):
        cursor.take(4 if scheme == Alg.ECDAA else 2)
