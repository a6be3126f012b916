"""What a TPM's certificate says, as values. Any bytes are taken: what cannot be read is an error in the place of the
value.

X.509 comes from outside and is read by a library whose exceptions have no common base, so each fact is read on its own.
"""

import warnings
from typing import Any, Callable, Optional

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from swtpm_svc.provision import validity
from swtpm_svc.provision.ca_signer import verify
from swtpm_svc.provision.certificates import (
    AIK_CERTIFICATE,
    PLATFORM,
    PLATFORM_1_2,
    TPM_MANUFACTURER,
    TPM_MODEL,
    TPM_VERSION,
)

_NAMES = {
    TPM_MANUFACTURER: "manufacturer",
    TPM_MODEL: "model",
    TPM_VERSION: "version",
    **dict(zip(PLATFORM, ("platform manufacturer", "platform model", "platform version", "platform serial"))),
    **dict(zip(PLATFORM_1_2, ("platform manufacturer", "platform model", "platform version"))),
}


def load(der: bytes) -> x509.Certificate:
    """
    Raises:
        ValueError: it is not a certificate. An attribute certificate, which a platform's may be, does not count as one.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the library complains about certificates of others on standard error
            return x509.load_der_x509_certificate(der)
    except Exception as error:  # see above
        raise ValueError(f"no X.509 certificate, or a damaged one ({_words(error)})") from error


def describe(certificate: x509.Certificate) -> "dict[str, Any]":
    """`tpm`: what its alternative name says of TPM and platform. A value that cannot be read is {"error": why}."""
    values: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, read in _FACTS.items():
            try:
                values[name] = read(certificate)
            except Exception as error:  # see above
                values[name] = {"error": _words(error)}
    return values


def fingerprint_of_key(certificate: x509.Certificate) -> Optional[str]:
    """That of subject_public_key; None: its key cannot be read."""
    try:
        spki = certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    except Exception:  # see above
        return None
    digest = hashes.Hash(hashes.SHA256())
    digest.update(spki)
    return digest.finalize().hex()


def is_for_attestation(certificate: x509.Certificate) -> bool:
    """Does it say that it is an attestation key's?"""
    try:
        return AIK_CERTIFICATE in certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except Exception:  # see above
        return False


def is_signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """By name and by signature. `issuer` is that of a local CA: its key is RSA or EC."""
    key = issuer.public_key()
    assert isinstance(key, (rsa.RSAPublicKey, ec.EllipticCurvePublicKey))
    try:
        algorithm = certificate.signature_hash_algorithm
        if certificate.issuer != issuer.subject or algorithm is None:
            return False
        verify(key, certificate.signature, certificate.tbs_certificate_bytes, algorithm)
        return True
    except Exception:  # see above; a signature that is wrong is one of them
        return False


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:100] or type(error).__name__


def _tpm(certificate: x509.Certificate) -> "dict[str, str]":
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    attributes = [attribute for name in names.get_values_for_type(x509.DirectoryName) for attribute in name]
    return {_NAMES[attribute.oid]: str(attribute.value) for attribute in attributes if attribute.oid in _NAMES}


_FACTS: "dict[str, Callable[[x509.Certificate], Any]]" = {
    "subject": lambda certificate: certificate.subject.rfc4514_string(),
    "tpm": _tpm,
    "issuer": lambda certificate: certificate.issuer.rfc4514_string(),
    "serial": lambda certificate: f"{certificate.serial_number:x}",
    "not_before": lambda certificate: f"{validity.period(certificate)[0]:%Y-%m-%dT%H:%M:%SZ}",
    "not_after": lambda certificate: f"{validity.period(certificate)[1]:%Y-%m-%dT%H:%M:%SZ}",
    "validity": validity.state,
    "sha256": lambda certificate: certificate.fingerprint(hashes.SHA256()).hex(),
}
