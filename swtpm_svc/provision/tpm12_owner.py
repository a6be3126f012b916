"""A TPM 1.2 from its owner's side: endorsement key, ownership, NV storage.

All goes through one callable, `execute(command) -> response`, so that it is the same on an open device, on a socket,
and in a process with libtpms. Methods raise RefusedByTpm for what the TPM answers, VtpmError PROTOCOL for a response
that is not authentic, ProtocolError for one that is malformed. Secrets are authorization values of 20 bytes; see
`secret_of`.
"""

import hmac
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1
from typing import Callable, Optional

from swtpm_svc.errors import VtpmError
from swtpm_svc.provision.refused import RefusedByTpm, already, broken
from swtpm_svc.provision.tpm12_session import Session, osap_secret
from swtpm_svc.wire import tpm12
from swtpm_svc.wire.command_codes import Ordinal
from swtpm_svc.wire.public_key import RsaPublicKey
from swtpm_svc.wire.results import TpmResult
from swtpm_svc.wire.tpm12 import DIGEST_SIZE, WELL_KNOWN_SECRET
from swtpm_svc.wire.tpm_header import TAG_RQU_AUTH1_COMMAND, TAG_RQU_COMMAND, decode_response, encode_command

Execute = Callable[[bytes], bytes]

#: Bytes of NV data in one command; the TPM takes commands of 4 KiB at most.
_NV_CHUNK = 1024


def secret_of(password: bytes) -> bytes:
    """A password's authorization value, the same as tpm-tools makes of it."""
    return sha1(password).digest()


class Tpm12:
    version = "1.2"

    def __init__(self, execute: Execute) -> None:
        self._execute = execute

    # --- commands and sessions -----------------------------------------------------------------------------------

    def _call(self, ordinal: Ordinal, parameters: bytes = b"") -> bytes:
        _tag, rc, body = decode_response(self._execute(encode_command(TAG_RQU_COMMAND, ordinal, parameters)))
        if rc:
            raise RefusedByTpm("1.2", ordinal, rc)
        return body

    def _call_in(self, session: Session, ordinal: Ordinal, parameters: bytes = b"") -> bytes:
        command = encode_command(TAG_RQU_AUTH1_COMMAND, ordinal, parameters + session.authorize(ordinal, parameters))
        _tag, rc, body = decode_response(self._execute(command))
        if rc:
            session.is_open = False  # an error ends the sessions of a command (Part 3, "Authorization Sessions")
            raise RefusedByTpm("1.2", ordinal, rc)
        return session.verify(ordinal, body)

    @contextmanager
    def oiap(self, secret: bytes) -> Iterator[Session]:
        """A session for any number of commands that need `secret`."""
        session = Session(*tpm12.decode_oiap(self._call(Ordinal.OIAP)), secret)
        try:
            yield session
        finally:
            self._close(session)

    @contextmanager
    def osap(self, entity_type: int, entity: int, secret: bytes) -> Iterator[Session]:
        """A session for commands that need one entity's `secret`, and may bring the secret of a new one."""
        nonce_odd = secrets.token_bytes(DIGEST_SIZE)
        body = self._call(Ordinal.OSAP, tpm12.encode_osap(entity_type, entity, nonce_odd))
        handle, nonce_even, nonce_even_osap = tpm12.decode_osap(body)
        session = Session(handle, nonce_even, osap_secret(secret, nonce_even_osap, nonce_odd))
        try:
            yield session
        finally:
            self._close(session)

    def _close(self, session: Session) -> None:
        if session.is_open:
            session.is_open = False
            try:
                self._call(Ordinal.FLUSH_SPECIFIC, tpm12.encode_flush_session(session.handle))
            except (VtpmError, ValueError, OSError):
                pass  # the TPM has let go of it, or is gone; what happened before is what matters

    def allow_presence_by_command(self) -> None:
        """Let firmware assert physical presence by a command, as that of a virtual machine does
        (physicalPresenceCMDEnable)."""
        self._call(Ordinal.PHYSICAL_PRESENCE, tpm12.PHYSICAL_PRESENCE_CMD_ENABLE.to_bytes(2, "big"))

    # --- endorsement key -----------------------------------------------------------------------------------------

    def create_endorsement_key(self) -> RsaPublicKey:
        """Make the endorsement key, RSA 2048.

        Raises:
            VtpmError ALREADY_PROVISIONED: there is one.
        """
        nonce = secrets.token_bytes(DIGEST_SIZE)
        try:
            body = self._call(Ordinal.CREATE_ENDORSEMENT_KEY_PAIR, tpm12.encode_create_endorsement_key_pair(nonce))
        except RefusedByTpm as error:
            if error.reason == TpmResult.DISABLED_CMD:
                raise already(
                    "there is an endorsement key already", "it stays: a TPM 1.2 never gets another one"
                ) from error
            raise
        return _checked_pubek(body, nonce)

    def read_pubek(self) -> RsaPublicKey:
        """The endorsement key's public part, which everybody may read as long as nobody owns the TPM."""
        nonce = secrets.token_bytes(DIGEST_SIZE)
        return _checked_pubek(self._call(Ordinal.READ_PUBEK, nonce), nonce)

    def owner_read_pubek(self, owner: bytes) -> RsaPublicKey:
        with self.oiap(owner) as session:
            parameters = tpm12.encode_owner_read_internal_pub(tpm12.Kh.EK)
            return tpm12.decode_internal_pub(self._call_in(session, Ordinal.OWNER_READ_INTERNAL_PUB, parameters))

    # --- ownership -----------------------------------------------------------------------------------------------

    def has_owner(self) -> bool:
        parameters = tpm12.encode_get_capability(tpm12.Cap.PROPERTY, tpm12.CapProp.OWNER)
        return tpm12.decode_capability(self._call(Ordinal.GET_CAPABILITY, parameters)) != b"\0"

    def take_ownership(self, owner: bytes, srk: bytes = WELL_KNOWN_SECRET) -> None:
        """Become the owner; the storage root key is made.

        Raises:
            VtpmError ALREADY_PROVISIONED: there is an owner.
        """
        if self.has_owner():
            raise already("the TPM has an owner already", "use the password that is set; only its owner can clear it")
        key = self.read_pubek()
        parameters = tpm12.encode_take_ownership(_encrypt(key, owner), _encrypt(key, srk))
        with self.oiap(owner) as session:
            self._call_in(session, Ordinal.TAKE_OWNERSHIP, parameters)

    # --- NV storage ----------------------------------------------------------------------------------------------

    def nv_define_space(
        self,
        index: int,
        size: int,
        permission: int,
        *,
        owner: Optional[bytes] = None,
        index_secret: bytes = WELL_KNOWN_SECRET,
    ) -> None:
        """Define an index. Without `owner` only while NV storage is not locked: during manufacture."""
        if owner is None:
            parameters = tpm12.encode_nv_define_space(index, size, permission, index_secret)
            self._call(Ordinal.NV_DEFINE_SPACE, parameters)
            return
        with self.osap(tpm12.ET_OWNER, tpm12.Kh.OWNER, owner) as session:
            parameters = tpm12.encode_nv_define_space(index, size, permission, session.encrypt(index_secret))
            self._call_in(session, Ordinal.NV_DEFINE_SPACE, parameters)

    def nv_lock(self) -> None:
        """From now on permissions count, for ever (nvLocked)."""
        self.nv_define_space(tpm12.NV_INDEX_LOCK, 0, 0)

    def nv_write(self, index: int, data: bytes, *, owner: Optional[bytes] = None) -> None:
        """Write from the index's start."""
        pieces = [
            tpm12.encode_nv_write_value(index, offset, data[offset : offset + _NV_CHUNK])
            for offset in range(0, len(data), _NV_CHUNK)
        ]
        self._call_each(Ordinal.NV_WRITE_VALUE, pieces, owner)

    def nv_read(self, index: int, size: int, *, owner: Optional[bytes] = None) -> bytes:
        """The first `size` bytes of the index."""
        pieces = [
            tpm12.encode_nv_read_value(index, offset, min(_NV_CHUNK, size - offset))
            for offset in range(0, size, _NV_CHUNK)
        ]
        return b"".join(tpm12.decode_nv_value(body) for body in self._call_each(Ordinal.NV_READ_VALUE, pieces, owner))

    def _call_each(self, ordinal: Ordinal, parameters: "list[bytes]", owner: Optional[bytes]) -> "list[bytes]":
        if owner is None:
            return [self._call(ordinal, one) for one in parameters]
        with self.oiap(owner) as session:
            return [self._call_in(session, ordinal, one) for one in parameters]


def _checked_pubek(body: bytes, nonce: bytes) -> RsaPublicKey:
    key, raw, checksum = tpm12.decode_pubek(body)
    if not hmac.compare_digest(checksum, sha1(raw + nonce).digest()):
        raise broken("the endorsement key that came is not the answer to what was asked: its checksum is wrong")
    return key


def _encrypt(key: RsaPublicKey, secret: bytes) -> bytes:
    # imported here: it takes a tenth of a second, and only taking ownership encrypts
    from cryptography.hazmat.primitives.asymmetric import padding, rsa
    from cryptography.hazmat.primitives.hashes import SHA1

    public = rsa.RSAPublicNumbers(key.exponent, int.from_bytes(key.modulus, "big")).public_key()
    return public.encrypt(secret, padding.OAEP(padding.MGF1(SHA1()), SHA1(), tpm12.OAEP_LABEL))
