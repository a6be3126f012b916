"""Public keys in the form that certificates have: SubjectPublicKeyInfo (RFC 5280), as DER and PEM."""

from hashlib import sha256

from swtpm_svc.provision.der import BIT_STRING, NULL, OBJECT_IDENTIFIER, SEQUENCE, element, integer
from swtpm_svc.provision.refused import broken
from swtpm_svc.wire.hints import Union
from swtpm_svc.wire.public_key import PublicKey, RsaPublicKey
from swtpm_svc.wire.tpm2_public import Curve

TYPE_CHECKING = False  # to mypy it is True
if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import Encoding

# RFC 3279, 2.3.1 and RFC 5480: rsaEncryption, id-ecPublicKey, and each curve with the bytes of its coordinates
_RSA = element(OBJECT_IDENTIFIER, bytes.fromhex("2a864886f70d010101"))
_EC = element(OBJECT_IDENTIFIER, bytes.fromhex("2a8648ce3d0201"))
_CURVES = {
    Curve.P256: (bytes.fromhex("2a8648ce3d030107"), 32),
    Curve.P384: (bytes.fromhex("2b81040022"), 48),
    Curve.P521: (bytes.fromhex("2b81040023"), 66),
}


def fingerprint(key: PublicKey) -> str:
    """What names a key: SHA-256 of its SubjectPublicKeyInfo, in hexadecimal.

    Made without the cryptography package, which a daemon does not wait for.

    Raises:
        VtpmError PROTOCOL: its curve is not known here.
    """
    return sha256(spki(key)).hexdigest()


def spki(key: PublicKey) -> bytes:
    if isinstance(key, RsaPublicKey):
        modulus = integer(int.from_bytes(key.modulus, "big"))
        algorithm, bits = element(SEQUENCE, _RSA, element(NULL)), element(SEQUENCE, modulus, integer(key.exponent))
    else:
        if key.curve not in _CURVES:
            raise broken(f"the key is on the curve {key.curve:#06x}, which is not known here")
        curve, size = _CURVES[Curve(key.curve)]
        algorithm = element(SEQUENCE, _EC, element(OBJECT_IDENTIFIER, curve))
        bits = b"\4" + key.x.rjust(size, b"\0") + key.y.rjust(size, b"\0")  # a TPM may leave zeros out
    return element(SEQUENCE, algorithm, element(BIT_STRING, b"\0", bits))


def to_pem(key: PublicKey) -> bytes:
    """
    Raises:
        VtpmError PROTOCOL: no key can have these numbers.
    """
    from cryptography.hazmat.primitives.serialization import Encoding

    return _encoded(key, Encoding.PEM)


def to_der(key: PublicKey) -> bytes:
    """
    Raises:
        VtpmError PROTOCOL: no key can have these numbers.
    """
    from cryptography.hazmat.primitives.serialization import Encoding

    return _encoded(key, Encoding.DER)


def to_cryptography(key: PublicKey) -> "Union[RSAPublicKey, EllipticCurvePublicKey]":
    """The key as `cryptography` has it.

    Raises:
        VtpmError PROTOCOL: no key can have these numbers.
    """
    # imported here: it takes a tenth of a second, which only who wants such a key should wait for
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    curves = {Curve.P256: ec.SECP256R1(), Curve.P384: ec.SECP384R1(), Curve.P521: ec.SECP521R1()}
    try:
        if isinstance(key, RsaPublicKey):
            return rsa.RSAPublicNumbers(key.exponent, int.from_bytes(key.modulus, "big")).public_key()
        x, y = int.from_bytes(key.x, "big"), int.from_bytes(key.y, "big")
        return ec.EllipticCurvePublicNumbers(x, y, curves[Curve(key.curve)]).public_key()
    except ValueError as error:
        raise broken(f"the TPM's public key is not a possible one ({error})") from error


def _encoded(key: PublicKey, encoding: "Encoding") -> bytes:
    from cryptography.hazmat.primitives.serialization import PublicFormat

    return to_cryptography(key).public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
