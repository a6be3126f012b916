"""Certificates and keys for tests of the local CA, and what is in its directory."""

import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from swtpm_svc.errors import VtpmError
from swtpm_svc.provision import ca

DAY = datetime.timedelta(days=1)

NOW = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)


def refusal(call, *arguments, **options) -> VtpmError:
    with pytest.raises(VtpmError) as caught:
        call(*arguments, **options)
    assert "\n" not in caught.value.message
    assert caught.value.remedy
    return caught.value


def contents(directory: Path) -> "dict[str, bytes]":
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def key_pem(key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def certificate(
    name: str,
    key,
    parent=None,
    parent_key=None,
    *,
    is_ca=True,
    below=None,
    usage="key_cert_sign",
    begin=NOW - 2 * DAY,
    end=NOW + DAY,
):
    """A certificate for `key`, signed by the parent's key or by its own."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(parent.subject if parent else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )
    if is_ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(is_ca, below if is_ca else None), critical=True)
    if parent:
        builder = builder.add_extension(ca._authority_key_identifier(parent), critical=False)
    if usage:
        builder = builder.add_extension(ca.usage(usage), critical=True)
    return builder.sign(
        parent_key or key, None if isinstance(parent_key or key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    )


def chain_of(*certificates) -> bytes:
    return b"".join(ca.pem(found) for found in certificates)


KEYS = {
    "rsa2048": lambda: rsa.generate_private_key(65537, 2048),
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
}
