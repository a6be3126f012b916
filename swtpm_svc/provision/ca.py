"""The local certification authority: signs what says that a TPM is one of ours.

A root signs an issuer, and the issuer signs the certificates of TPMs (provision/certificates.py). Both are made once,
by whoever needs them first, or an administrator imports an issuer. In use are these files, in one set
(provision/ca_directory.py):

    chain.pem        the issuer's certificate, then that of who signed it, and so on
    issuer-key.pem   the issuer's key (PKCS #8), or
    signer.json      {"command": [...]}: the command that signs in its place (provision/ca_signer.py)
    root-key.pem     the root's key; nothing here reads it, so that it can be taken to a safer place

Our own keys are on P-384: made in a millisecond, where RSA 3072 takes a second or more under the lock, and a TPM's
certificate is a quarter shorter, which is NV memory of each TPM. Own certificates begin long ago and do not expire:
provision/validity.py.
"""

import json
import os
from typing import NamedTuple, Optional

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import NameOID

from swtpm_svc.errors import Code, VtpmError, quote
from swtpm_svc.provision import ca_chain, validity
from swtpm_svc.provision.ca_directory import DIRECTORY, RESTORE, CaDirectory, FileSet, option, unusable
from swtpm_svc.provision.ca_signer import Command, PrivateKey, PublicKey, external_key, signature_hash, verify

CHAIN, ISSUER_KEY, ROOT_KEY, SIGNER = "chain.pem", "issuer-key.pem", "root-key.pem", "signer.json"

_NO_USAGE = dict.fromkeys(
    (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ),
    False,
)


class Authority(NamedTuple):
    """A CA that is ready to sign. `chain`: the issuer's certificate first; `signer`: None when the key is here."""

    directory: str
    chain: "tuple[x509.Certificate, ...]"
    key: PrivateKey
    signer: Optional[Command]

    @property
    def certificate(self) -> x509.Certificate:
        return self.chain[0]

    def issue(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        """Sign a certificate that lacks the issuer, the serial number, the validity and the key identifier of the
        authority.

        Raises:
            VtpmError CA_SIGNER: the external signer failed. CA_UNUSABLE: the issuer's certificate has expired.
        """
        _refuse(validity.expired(self.chain, self.directory, self.directory))
        builder = (
            builder.issuer_name(self.certificate.subject)
            .serial_number(x509.random_serial_number())  # 159 random bits, positive
            .not_valid_before(validity.begin_below(self.chain))
            .not_valid_after(validity.FOREVER)
            .add_extension(_authority_key_identifier(self.certificate), critical=False)
        )
        return builder.sign(self.key, signature_hash(self.key.public_key()))

    def complaint(self) -> Optional[VtpmError]:
        """Why nobody accepts now what it signs; None: nothing is wrong.

        A validity that is yet to begin is not an error: the clock may have been set back, and the CA is good.
        """
        anew = f"vtpmctl ca create{option(self.directory)}"
        remedy = f"set the clock, if it is wrong; else move {quote(self.directory)} aside, and make a new CA: {anew}"
        expired = validity.expired(self.chain, self.directory, self.directory)
        return expired or validity.early(self.chain, self.directory, remedy)


def load(directory: str = DIRECTORY) -> Authority:
    """The CA that is there.

    Raises:
        VtpmError STATE_MISSING: there is none. CA_UNUSABLE: it is damaged, incomplete, or not to be read.
    """
    authority = _find(CaDirectory(directory))
    if authority is None:
        remedy = f"make one: vtpmctl ca create{option(directory)}"
        raise VtpmError(Code.STATE_MISSING, f"there is no CA in {directory}", remedy=remedy)
    return authority


def obtain(directory: str = DIRECTORY) -> Authority:
    """The CA that is there, or a new one where there never was any. Of several processes one makes it, the others wait.

    Raises:
        VtpmError CA_UNUSABLE, STATE_LOCKED, STATE_UNWRITABLE, STATE_FULL.
    """
    place = CaDirectory(directory)
    authority = _find(place)
    if authority is not None:
        return authority
    with place.locked() as locked:
        if place.read() is None:
            locked.refuse_leftovers()
            locked.replace(_make())
    return load(directory)


def import_issuer(
    chain: bytes,
    *,
    key: Optional[bytes] = None,
    command: "tuple[str, ...]" = (),
    directory: str = DIRECTORY,
    force: bool = False,
) -> "tuple[Authority, Optional[str]]":
    """Use an administrator's own issuer: the certificates and either the key, both in PEM, or the command that signs.

    Returns the CA, and where the one that it has replaced is kept. Nothing is written before a signature was made and
    verified.

    Raises:
        VtpmError CA_EXISTS: there is a CA, and `force` is not set. CA_UNUSABLE: certificates, key and each other do not
            match. CA_SIGNER, STATE_LOCKED, STATE_UNWRITABLE, STATE_FULL.
    """
    place = CaDirectory(directory)
    files = {CHAIN: chain, **({ISSUER_KEY: key} if key is not None else {SIGNER: _signer_file(command)})}
    owner = os.stat(directory) if os.path.isdir(directory) else None
    given = FileSet(files, owner.st_uid if owner else os.geteuid(), owner.st_gid if owner else os.getegid())
    try:
        authority = _open(given, directory, {CHAIN: "the certificates", ISSUER_KEY: "the key", SIGNER: "the command"})
        _refuse(validity.expired(authority.chain, "the certificates", directory))
        _refuse(
            validity.early(authority.chain, "the certificates", "import it then; or set the clock, if that is wrong")
        )
    except VtpmError as error:
        if error.remedy == RESTORE:
            error.remedy = "see what ca import takes in vtpmctl(8); nothing was changed"
        raise
    _prove(authority.key)
    files[CHAIN] = b"".join(pem(certificate) for certificate in authority.chain)
    if key is not None:
        files[ISSUER_KEY] = _private_pem(authority.key)
    with place.locked() as locked:
        # what is there is not looked into: an import with force is also the way out of a damaged CA
        if not force:
            if locked.is_in_use():
                remedy = "keep it; or replace it, and it is kept aside: --force"
                raise VtpmError(Code.CA_EXISTS, f"there is a CA in {directory}", remedy=remedy)
            locked.refuse_leftovers()
        kept = locked.replace(files)
    return load(directory), kept


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def describe_key(certificate: x509.Certificate) -> str:
    key = ca_chain.supported(certificate)
    return f"RSA {key.key_size}" if isinstance(key, rsa.RSAPublicKey) else f"EC {key.curve.name}"


def usage(name: str) -> x509.KeyUsage:
    """The key usage extension with one bit set."""
    return x509.KeyUsage(**{**_NO_USAGE, name: True})


def _refuse(error: Optional[VtpmError]) -> None:
    if error is not None:
        raise error


def _find(place: CaDirectory) -> Optional[Authority]:
    found = place.read()
    if found is None:
        return None
    return _open(found, place.path, {name: place.file(name) for name in (CHAIN, ISSUER_KEY, SIGNER)})


def _open(found: FileSet, directory: str, names: "dict[str, str]") -> Authority:
    """Put a CA together from its files. `names` is what messages call them."""
    chain = ca_chain.read(found.files.get(CHAIN), names[CHAIN])
    public = chain[0].public_key()
    assert isinstance(public, (rsa.RSAPublicKey, ec.EllipticCurvePublicKey))
    if SIGNER in found.files:
        if found.uid not in (0, os.geteuid()) and os.geteuid() != 0:
            raise unusable(names[SIGNER], f"belongs to the user {found.uid}", "do this as root, or as that user")
        command = Command(_signer_words(found.files[SIGNER], names[SIGNER]), found.uid, found.gid)
        return Authority(directory, chain, external_key(command, public), command)
    if ISSUER_KEY not in found.files:
        raise unusable(names[ISSUER_KEY], f"is missing, and so is {SIGNER}")
    return Authority(directory, chain, _read_key(found.files[ISSUER_KEY], public, names[ISSUER_KEY]), None)


def _read_key(content: bytes, public: PublicKey, name: str) -> PrivateKey:
    try:
        key = serialization.load_pem_private_key(content, None)
    except TypeError:
        raise unusable(
            name,
            "is encrypted",
            "decrypt a copy (openssl pkey -in KEY -out COPY), or import a command that signs with it",
        ) from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise unusable(name, f"is not a private key in PEM ({str(error).splitlines()[0][:80]})") from error
    if not isinstance(key, (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey)) or _spki(key.public_key()) != _spki(public):
        raise unusable(name, f"is not the key of the first certificate in {CHAIN}")
    try:
        _prove(key)  # OpenSSL loads an EC key whose secret half is another's
    except (InvalidSignature, ValueError) as error:
        raise unusable(name, "is damaged: what it signs does not verify") from error
    return key


def _spki(key: PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _private_pem(key: PrivateKey) -> bytes:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption())


def _signer_file(words: "tuple[str, ...]") -> bytes:
    return json.dumps({"command": words}, indent=2).encode() + b"\n"


def _signer_words(content: bytes, name: str) -> "tuple[str, ...]":
    try:
        words = json.loads(content)["command"]
    except (ValueError, KeyError, TypeError, RecursionError):
        words = None
    if (
        not isinstance(words, list)
        or not words
        or not all(isinstance(word, str) and "\0" not in word for word in words)
    ):
        raise unusable(name, 'should have one object with "command", a list of words')
    if not os.path.isabs(words[0]):
        raise unusable(name, f"should name the program by its whole path, not {words[0]}")
    return tuple(words)


def _prove(key: PrivateKey) -> None:
    """Have the key sign something that is not a certificate.

    Raises:
        InvalidSignature. VtpmError CA_SIGNER: from a key behind a command.
    """
    message, public = os.urandom(32), key.public_key()
    algorithm = signature_hash(public)
    if isinstance(key, rsa.RSAPrivateKey):
        signature = key.sign(message, padding.PKCS1v15(), algorithm)
    else:
        signature = key.sign(message, ec.ECDSA(algorithm))
    verify(public, signature, message, algorithm)


def _make() -> "dict[str, bytes]":
    """The files of a new root and a new issuer."""
    root_key, issuer_key = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    root = _sign_ca(root_key.public_key(), "vtpm root CA", 1, None, root_key)
    issuer = _sign_ca(issuer_key.public_key(), "vtpm issuer", 0, root, root_key)
    return {CHAIN: pem(issuer) + pem(root), ISSUER_KEY: _private_pem(issuer_key), ROOT_KEY: _private_pem(root_key)}


def _sign_ca(
    key: ec.EllipticCurvePublicKey,
    title: str,
    below: int,
    parent: Optional[x509.Certificate],
    signing_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    identifier = x509.SubjectKeyIdentifier.from_public_key(key)
    # the name is this CA's alone: those of two hosts meet in one verifier's list of roots
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{title} {identifier.digest[:8].hex()}")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(parent.subject if parent else subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(validity.BEGINNING)
        .not_valid_after(validity.FOREVER)
        .add_extension(x509.BasicConstraints(ca=True, path_length=below), critical=True)
        .add_extension(usage("key_cert_sign"), critical=True)
        .add_extension(identifier, critical=False)
    )
    if parent:
        builder = builder.add_extension(_authority_key_identifier(parent), critical=False)
    return builder.sign(signing_key, signature_hash(key))


def _authority_key_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        key = issuer.public_key()
        assert isinstance(key, (rsa.RSAPublicKey, ec.EllipticCurvePublicKey))
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
