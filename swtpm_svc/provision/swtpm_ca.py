"""swtpm's local CA: the files that swtpm_localca(8) keeps, so that it and we can use one folder in turns.

    SIGNINGKEY, ISSUERCERT                  where the configuration says
    swtpm-localca-rootca-privkey.pem, -cert.pem   who has signed ISSUERCERT, beside SIGNINGKEY
    CERTSERIAL                              the serial number that was used last, in decimal
    STATEDIR/.lock.swtpm-localca            held (flock) while a CA is made or a serial number taken

Our own CA is another one, with other rules: provision/ca.py.
"""

import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable, NamedTuple, Optional

from swtpm_svc.errors import Code, VtpmError, quote
from swtpm_svc.provision.swtpm_certificate import SERIAL_MAX, Wanted
from swtpm_svc.provision.swtpm_signer import PKCS11, Signer, load, load_key
from swtpm_svc.state import named_files

_LOCK = ".lock.swtpm-localca"
_ROOT_KEY, _ROOT_CERTIFICATE = "swtpm-localca-rootca-privkey.pem", "swtpm-localca-rootca-cert.pem"
_KEY_BITS = 3072
_SERIAL = re.compile(r"\s*([0-9]{1,50})\s*")
_KEY_MODE, _CERTIFICATE_MODE = 0o640, 0o644


class Settings(NamedTuple):
    """What swtpm-localca.conf(5) says. Passwords: None where there is none."""

    directory: str
    signing_key: str
    issuer_certificate: str
    serial: str
    key_password: Optional[bytes] = None
    root_password: Optional[bytes] = None


class LocalCa:
    """The CA; made when it is first needed. `tell` hears what a person is told."""

    def __init__(self, settings: Settings, tell: Callable[[str], None]) -> None:
        self._settings, self._tell = settings, tell
        self._signer: Optional[Signer] = None

    def prepare(self) -> Signer:
        """What signs, made if it is not there.

        Raises:
            VtpmError CA_UNUSABLE, STATE_UNWRITABLE.
        """
        if self._signer is None:
            settings = self._settings
            if not os.path.isdir(settings.directory):
                self._tell(f"Creating swtpm-localca dir '{settings.directory}'.")
                with _writing(settings.directory, "create directory"):
                    os.makedirs(settings.directory, 0o770)
            if not settings.signing_key.startswith(PKCS11):
                with self._locked():
                    self._make_missing()
            self._signer = load(settings.signing_key, settings.key_password, settings.issuer_certificate)
        return self._signer

    def issue(self, wanted: Wanted) -> bytes:
        """A certificate, DER, with the next serial number.

        Raises:
            VtpmError CA_UNUSABLE, CA_SIGNER, STATE_UNWRITABLE, USAGE.
        """
        signer = self.prepare()
        return signer.issue(wanted._replace(serial=self._next_serial()))

    def _next_serial(self) -> int:
        path = self._settings.serial
        with self._locked():
            try:
                found = _SERIAL.fullmatch(named_files.read_input(path, 4096).decode("ascii"))
            except FileNotFoundError:
                found = None
            except (OSError, ValueError) as error:
                if isinstance(error, OSError):
                    raise _unwritable(f"Could not read serial number file {path}: {error.strerror}", path) from error
                found = None
            last = int(found[1]) if found else SERIAL_MAX
            # a serial number that was given once must not come again, and nobody knows which those were: take one of
            # many; swtpm 0.7.1 reads 64 bits of it
            serial = last + 1 if last < SERIAL_MAX else secrets.randbelow(8 * 10**18) + 10**18
            with _writing(path, "write serial number to"):
                _write(path, str(serial).encode(), _CERTIFICATE_MODE)
        return serial

    def _make_missing(self) -> None:
        settings = self._settings
        has_key = os.path.exists(settings.signing_key)
        if has_key and os.path.exists(settings.issuer_certificate):
            if not os.access(settings.signing_key, os.R_OK):
                raise VtpmError(
                    Code.CA_UNUSABLE,
                    f"Need read rights on signing key {settings.signing_key} for user {user_name()}.",
                    remedy="let that user read it",
                )
            return
        self._tell("Creating root CA and a local CA's signing key and issuer cert.")
        folder = os.path.dirname(os.path.abspath(settings.signing_key))
        root_key_path, root_path = os.path.join(folder, _ROOT_KEY), os.path.join(folder, _ROOT_CERTIFICATE)
        # what there is of it stays in use: certificates in TPMs may depend on it
        if os.path.exists(root_key_path) and os.path.exists(root_path):
            root_key, root = load_key(root_key_path, settings.root_password), _read(root_path)
        else:
            root_key = _new_key()
            root = _sign_ca("swtpm-localca-rootca", root_key.public_key(), None, root_key)
            with _writing(root_key_path, "write"):
                _write(root_key_path, _key_pem(root_key, settings.root_password), _KEY_MODE)
                _write(root_path, root, _CERTIFICATE_MODE)
        key = load_key(settings.signing_key, settings.key_password) if has_key else _new_key()
        issuer = _sign_ca("swtpm-localca", key.public_key(), root, root_key)
        if not has_key:
            with _writing(settings.signing_key, "write"):
                _write(settings.signing_key, _key_pem(key, settings.key_password), _KEY_MODE)
        with _writing(settings.issuer_certificate, "write"):
            _write(settings.issuer_certificate, issuer, _CERTIFICATE_MODE)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        path = os.path.join(self._settings.directory, _LOCK)
        with _writing(path, "lock"):
            lock = named_files.open_regular(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o775)
        try:
            with _writing(path, "lock"):
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def user_name() -> str:
    """Who we are, for messages."""
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return "<unknown>"


def _new_key() -> Any:
    from cryptography.hazmat.primitives.asymmetric import rsa

    return rsa.generate_private_key(public_exponent=65537, key_size=_KEY_BITS)


def _key_pem(key: Any, password: Optional[bytes]) -> bytes:
    from cryptography.hazmat.primitives import serialization

    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password:
        encryption = serialization.BestAvailableEncryption(password)
    content: bytes = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    return content


def _sign_ca(name: str, key: Any, root: Optional[bytes], root_key: Any) -> bytes:
    """A certificate of a CA, PEM, signed by `root`; None: by itself."""
    from datetime import datetime, timezone

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.x509.oid import NameOID

    from swtpm_svc.provision.ca import usage
    from swtpm_svc.provision.validity import FOREVER

    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    parent = x509.load_pem_x509_certificate(root) if root else None
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(parent.subject if parent else subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(timezone.utc).replace(tzinfo=None))
        .not_valid_after(FOREVER)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage("key_cert_sign"), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )
    if parent:
        identifier = parent.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
        )
    return builder.sign(root_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _read(path: str) -> bytes:
    try:
        return named_files.read_input(path, 1 << 20)
    except OSError as error:
        raise VtpmError(
            Code.CA_UNUSABLE, f"Could not read {path}: {error.strerror}", remedy="let this user read it"
        ) from error


def _write(path: str, content: bytes, mode: int) -> None:
    """All of it, or nothing: another process may read it now. A link stays one."""
    named_files.replace(os.path.realpath(path), content, mode, is_exact=True)


@contextmanager
def _writing(path: str, doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _unwritable(f"Could not {doing} {path}: {error.strerror}", path) from error


def _unwritable(cause: str, path: str) -> VtpmError:
    return VtpmError(
        Code.STATE_UNWRITABLE, cause, remedy=f"see who may write there: ls -ld {quote(os.path.dirname(path) or '.')}"
    )
