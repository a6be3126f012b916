"""Authorization of TPM 1.2 commands: the caller proves that he knows a secret without telling it, and can be sure that
the TPM answers.

Source: TPM Main Part 1, "Authorization Protocols"; Part 3, "Authorization Sessions". Both sides prove with HMAC-SHA1
over the digest of what is said and over two nonces that roll: the TPM's changes with each response, ours with each
command.
"""

import hmac
import secrets
from hashlib import sha1
from struct import Struct

from swtpm_svc.provision.refused import broken
from swtpm_svc.wire import tpm12
from swtpm_svc.wire.tpm_header import Bytes

_UINT32 = Struct(">I")


def hmac_sha1(key: bytes, *parts: bytes) -> bytes:
    return hmac.new(key, b"".join(parts), sha1).digest()


def osap_secret(entity_secret: bytes, nonce_even_osap: bytes, nonce_odd_osap: bytes) -> bytes:
    """What both sides of an OSAP session key their HMACs with."""
    return hmac_sha1(entity_secret, nonce_even_osap, nonce_odd_osap)


class Session:
    """An OIAP or OSAP session. `secret`: the entity's for OIAP, the shared one for OSAP; 20 bytes.

    `is_open` says whether the TPM still has it.
    """

    def __init__(self, handle: int, nonce_even: bytes, secret: bytes) -> None:
        self.handle = handle
        self.is_open = True
        self._nonce_even, self._nonce_odd = nonce_even, b""
        self._secret = secret

    def authorize(self, ordinal: int, parameters: bytes) -> bytes:
        """What to put behind the parameters of the next command; the TPM shall keep the session."""
        self._nonce_odd = secrets.token_bytes(tpm12.DIGEST_SIZE)
        digest = sha1(_UINT32.pack(ordinal) + parameters).digest()
        auth = hmac_sha1(self._secret, digest, self._nonce_even, self._nonce_odd, b"\1")
        return tpm12.encode_auth(self.handle, self._nonce_odd, auth, continues=True)

    def verify(self, ordinal: int, body: Bytes) -> bytes:
        """The parameters of a successful response, once it is sure that the TPM has sent them.

        Raises:
            VtpmError PROTOCOL: it does not know the secret. ProtocolError: the response is too short.
        """
        parameters, nonce_even, continues, auth = tpm12.split_response_auth(body)
        digest = sha1(_UINT32.pack(0) + _UINT32.pack(ordinal) + parameters).digest()
        expected = hmac_sha1(self._secret, digest, nonce_even, self._nonce_odd, bytes((continues,)))
        if not hmac.compare_digest(auth, expected):
            raise broken("the response is not authentic: its HMAC was not made with the secret")
        self._nonce_even, self.is_open = nonce_even, continues
        return parameters

    def encrypt(self, new_secret: bytes) -> bytes:
        """ADIP: an authorization value for an entity that the next command makes (OSAP only)."""
        pad = sha1(self._secret + self._nonce_even).digest()
        return bytes(left ^ right for left, right in zip(new_secret, pad))
