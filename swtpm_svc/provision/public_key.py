"""Public keys in the form that certificates have: SubjectPublicKeyInfo (RFC 5280), as DER and PEM."""

from typing import TYPE_CHECKING

from swtpm_svc.provision.refused import broken
from swtpm_svc.wire.public_key import PublicKey, RsaPublicKey
from swtpm_svc.wire.tpm2 import Curve

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.serialization import Encoding


def to_pem(key: PublicKey) -> bytes:
    """
    Raises:
        VtpmError PROTOCOL: it is no possible key.
    """
    from cryptography.hazmat.primitives.serialization import Encoding

    return _encoded(key, Encoding.PEM)


def to_der(key: PublicKey) -> bytes:
    """
    Raises:
        VtpmError PROTOCOL: it is no possible key.
    """
    from cryptography.hazmat.primitives.serialization import Encoding

    return _encoded(key, Encoding.DER)


def _encoded(key: PublicKey, encoding: "Encoding") -> bytes:
    # imported here: it takes a tenth of a second, which only who wants such a file should wait for
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.serialization import PublicFormat

    curves = {Curve.P256: ec.SECP256R1(), Curve.P384: ec.SECP384R1(), Curve.P521: ec.SECP521R1()}
    try:
        if isinstance(key, RsaPublicKey):
            rsa_key = rsa.RSAPublicNumbers(key.exponent, int.from_bytes(key.modulus, "big")).public_key()
            return rsa_key.public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
        x, y = int.from_bytes(key.x, "big"), int.from_bytes(key.y, "big")
        ecc_key = ec.EllipticCurvePublicNumbers(x, y, curves[Curve(key.curve)]).public_key()
        return ecc_key.public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
    except ValueError as error:
        raise broken(f"the TPM's public key is none that there can be ({error})") from error
