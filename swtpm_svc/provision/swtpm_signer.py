"""Who signs certificates as swtpm_cert does: a key in PEM, perhaps encrypted, or one of a PKCS #11 token, and the
certificate of that key.

A PKCS #11 key is reached by a command, as that of our own CA is (provision/ca_signer.py): signer.json in the folder of
the issuer's certificate has it.
"""

import json
import os
from datetime import datetime, timezone
from typing import Any, Callable, Optional

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa

from swtpm_svc.errors import Code, VtpmError, quote
from swtpm_svc.provision import swtpm_certificate
from swtpm_svc.provision.ca_signer import Command, external_key, signature_hash
from swtpm_svc.provision.der import NULL, SEQUENCE, element, object_identifier
from swtpm_svc.provision.swtpm_certificate import Signed, Wanted
from swtpm_svc.state import named_files

SIGNER = "signer.json"
PKCS11 = "pkcs11:"

#: RFC 4055 and RFC 5758: the identifiers of what signs, by kind of key and hash.
_RSA = {"sha1": "1.2.840.113549.1.1.5", "sha256": "1.2.840.113549.1.1.11"}
_EC = {
    "sha1": "1.2.840.10045.4.1",
    "sha256": "1.2.840.10045.4.3.2",
    "sha384": "1.2.840.10045.4.3.3",
    "sha512": "1.2.840.10045.4.3.4",
}


class Signer:
    """A signing key and its certificate."""

    def __init__(self, key: Any, issuer: x509.Certificate, *, is_external: bool = False) -> None:
        self._key, self._is_external = key, is_external
        self._subject = issuer.subject.public_bytes()
        self._key_identifier = _identifier(issuer)

    def issue(self, wanted: Wanted, now: Optional[datetime] = None) -> bytes:
        """The certificate, DER.

        Raises:
            VtpmError USAGE: the key does not sign for a TPM 1.2, or the days are too many. CA_SIGNER.
        """
        algorithm, sign = self._way(is_tpm2=wanted.is_tpm2)
        signed = Signed(self._subject, self._key_identifier, algorithm)
        content = swtpm_certificate.to_be_signed(wanted, signed, now or datetime.now(timezone.utc))
        return swtpm_certificate.certificate(content, algorithm, sign(content))

    def _way(self, *, is_tpm2: bool) -> "tuple[bytes, Callable[[bytes], bytes]]":
        key = self._key
        if isinstance(key, (ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey)):
            if not is_tpm2:
                raise VtpmError(
                    Code.USAGE,
                    "Cannot use hashless signing scheme for TPM 1.2 certs.",
                    remedy="sign with an RSA or an EC key",
                )
            dotted = "1.3.101.112" if isinstance(key, ed25519.Ed25519PrivateKey) else "1.3.101.113"
            return element(SEQUENCE, object_identifier(dotted)), key.sign
        algorithm: Any = hashes.SHA256() if is_tpm2 else hashes.SHA1()
        if self._is_external:  # the contract of such a command says which
            algorithm = signature_hash(key.public_key())
        if isinstance(key, rsa.RSAPrivateKey):
            named = element(SEQUENCE, object_identifier(_RSA[algorithm.name]), element(NULL))
            return named, lambda content: key.sign(content, padding.PKCS1v15(), algorithm)
        named = element(SEQUENCE, object_identifier(_EC[algorithm.name]))
        return named, lambda content: bytes(key.sign(content, ec.ECDSA(algorithm)))


def load(key: str, password: Optional[bytes], issuer: str) -> Signer:
    """
    Args:
        key: a file, or "pkcs11:..."; `issuer`: the file of its certificate.

    Raises:
        VtpmError CA_UNUSABLE: one of both cannot be read, or is none.
    """
    certificate = load_certificate(issuer)
    if key.startswith(PKCS11):
        return Signer(_external(key, issuer, certificate), certificate, is_external=True)
    return Signer(load_key(key, password), certificate)


def load_certificate(path: str) -> x509.Certificate:
    """Raises: VtpmError CA_UNUSABLE."""
    try:
        return x509.load_pem_x509_certificate(_read(path, "certificate from"))
    except ValueError as error:
        raise _unusable(
            f"Could not import issuer certificate {path}: {_words(error)}", "name a certificate in PEM"
        ) from error


def load_key(path: str, password: Optional[bytes]) -> Any:
    """Raises: VtpmError CA_UNUSABLE."""
    content = _read(path, "signing key from")
    try:
        key = serialization.load_pem_private_key(content, password)
    except TypeError as error:
        if password is None:
            raise _unusable(
                f"Could not import signing key {path}: it is encrypted", "give its password: --signkey-pwd"
            ) from error
        return load_key(path, None)  # it is in clear: a password does not matter, as it does not for swtpm_cert
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _unusable(
            f"Could not import signing key {path}: {_words(error)}", "name a private key in PEM, and its password"
        ) from error
    kinds = (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey, ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey)
    if not isinstance(key, kinds):
        raise _unusable(f"Could not import signing key {path}: it is of a kind that signs no certificates here", "")
    return key


def _external(key: str, issuer: str, certificate: x509.Certificate) -> Any:
    path = os.path.join(os.path.dirname(os.path.abspath(issuer)), SIGNER)
    remedy = (
        f'write the command that signs with it into {quote(path)}: {{"command": ["/usr/bin/PROGRAM", ...]}}; '
        "its contract is that of ca import --command, vtpmctl(8)"
    )
    public = certificate.public_key()
    try:
        with open(named_files.open_regular(path, os.O_RDONLY), "rb") as file:
            owner = os.fstat(file.fileno())
            words = json.loads(file.read(65536))["command"]
    except FileNotFoundError:
        raise _unusable(f"Could not import pkcs11 key {key}: there is no {path}", remedy) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unusable(f"Could not import pkcs11 key {key}: {path} cannot be used: {_words(error)}", remedy) from error
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise _unusable(f"Could not import pkcs11 key {key}: {path} names no command", remedy)
    if not os.path.isabs(words[0]) or not isinstance(public, (rsa.RSAPublicKey, ec.EllipticCurvePublicKey)):
        raise _unusable(f"Could not import pkcs11 key {key}: {path} does not name a program by its whole path", remedy)
    return external_key(Command(tuple(words), owner.st_uid, owner.st_gid), public)


def _identifier(issuer: x509.Certificate) -> bytes:
    try:
        return issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        return x509.SubjectKeyIdentifier.from_public_key(issuer.public_key()).digest


def _read(path: str, what: str) -> bytes:
    try:
        return named_files.read_input(path, 1 << 20)
    except OSError as error:
        raise _unusable(
            f"Could not read {what} file {path}: {error.strerror}", f"see what is there: ls -l {quote(path)}"
        ) from error


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:100] or type(error).__name__


def _unusable(cause: str, remedy: str) -> VtpmError:
    return VtpmError(Code.CA_UNUSABLE, cause, remedy=remedy or None)
