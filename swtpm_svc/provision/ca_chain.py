"""The certificates of a CA, as a file in PEM has them: that of the issuer, then that of who signed it, and so on."""

import re
from typing import Optional

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from swtpm_svc.errors import VtpmError
from swtpm_svc.provision.ca_directory import unusable
from swtpm_svc.provision.ca_signer import PublicKey, signature_hash, verify

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")


def read(content: "Optional[bytes]", name: str) -> "tuple[x509.Certificate, ...]":
    """The certificates in `content`, each fit to sign the one before; None: there is no such file. `name` is for
    messages.

    Raises:
        VtpmError CA_UNUSABLE
    """
    if content is None:
        raise unusable(name, "is missing")
    blocks = _CERTIFICATE.findall(content)
    if not blocks or b"-----" in _CERTIFICATE.sub(b"", content):
        raise unusable(name, "should have certificates in PEM, and nothing else")
    try:
        chain = tuple(x509.load_pem_x509_certificate(block) for block in blocks)
        order = _right_order(chain)
        if order != chain:
            names = ", then ".join(
                " ".join(certificate.subject.rfc4514_string().split())[:100] for certificate in order
            )
            remedy = f"put them in this order: {names}; nothing was changed"
            raise unusable(
                name,
                "cannot be used: its certificates are in another order than the issuer's first, the root's last",
                remedy,
            )
        for depth, certificate in enumerate(chain):
            _check_ca_certificate(certificate, depth)
        for certificate, parent in zip(chain, (*chain[1:], chain[-1])):
            _check_signed_by(certificate, parent)
    except VtpmError:
        raise
    except Exception as error:  # what cryptography raises for bad certificates has no common base: KeyError is among it
        raise unusable(name, f"cannot be used: {' '.join(str(error).split())[:200]}") from error
    return chain


def _right_order(chain: "tuple[x509.Certificate, ...]") -> "tuple[x509.Certificate, ...]":
    """From the one that signs no other of them to each one's signer; in the given order, where the names do not
    tell."""
    parents = {certificate.subject: certificate for certificate in chain}
    signing = {certificate.issuer for certificate in chain if certificate.issuer != certificate.subject}
    found = [certificate for certificate in chain if certificate.subject not in signing]
    if len(found) != 1 or len(parents) != len(chain):
        return chain
    while len(found) < len(chain):
        parent = parents.get(found[-1].issuer)
        if parent is None or parent in found:
            return chain
        found.append(parent)
    return tuple(found)


def _check_ca_certificate(certificate: x509.Certificate, depth: int) -> None:
    """A certificate of the chain, with `depth` CA certificates below it. Raises ValueError."""
    subject = certificate.subject.rfc4514_string()
    if not subject:  # RFC 5280, 4.1.2.6; what it signs would have no issuer (4.1.2.4)
        raise ValueError(f"the certificate with the serial number {certificate.serial_number:x} has an empty subject")
    signature_hash(supported(certificate))
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        raise ValueError(f"{subject} is not the certificate of a CA") from None
    if not constraints.ca:
        raise ValueError(f"{subject} is not the certificate of a CA")
    if constraints.path_length is not None and constraints.path_length < depth:
        raise ValueError(f"{subject} allows no more than {constraints.path_length} CAs below it")
    try:
        signs = certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound:
        signs = True
    if not signs:
        raise ValueError(f"{subject} may not sign certificates")


def _check_signed_by(certificate: x509.Certificate, parent: x509.Certificate) -> None:
    """Raises ValueError. The chain's last certificate is its own parent, unless it says that it is not a root."""
    if certificate is parent and _is_signed_by_another(certificate):
        return
    algorithm = certificate.signature_hash_algorithm
    try:
        if certificate.issuer != parent.subject or algorithm is None:
            raise InvalidSignature
        verify(supported(parent), certificate.signature, certificate.tbs_certificate_bytes, algorithm)
    except InvalidSignature:
        subject = certificate.subject.rfc4514_string()
        if certificate is parent:
            raise ValueError(
                f"{subject} is not signed by itself, and the certificate of who signed it does not follow"
            ) from None
        raise ValueError(
            f"{subject} is not signed by {parent.subject.rfc4514_string()}, which should be next"
        ) from None


def _is_signed_by_another(certificate: x509.Certificate) -> bool:
    """By both signs that RFC 5280 wants (4.2.1.1): a root with a damaged issuer's name has no key identifier."""
    if certificate.issuer == certificate.subject:
        return False
    try:
        certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    except x509.ExtensionNotFound:
        return False
    return True


def supported(certificate: x509.Certificate) -> PublicKey:
    key = certificate.public_key()
    if not isinstance(key, (rsa.RSAPublicKey, ec.EllipticCurvePublicKey)):
        raise ValueError(f"{certificate.subject.rfc4514_string()} has neither an RSA nor an EC key")
    return key
