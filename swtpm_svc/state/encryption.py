"""Encryption of state, as swtpm has it: keys, their derivation from passphrases, and what is sealed with them. No I/O.

Measured on the files of swtpm 0.7.1 (--key and --migration-key, every mode, format and kdf; swtpm(8) has the options):

    aes-cbc, aes-256-cbc    AES-128 or AES-256 in CBC mode
    padding                 that of PKCS #7 (RFC 5652, section 6.3), to a multiple of the key's length: 1 to 32
                            bytes with AES-256
    IV                      random, as long as the key; of an AES-256's 32 bytes CBC uses the first 16
    HMAC                    HMAC-SHA-256 with the AES key itself, over ciphertext and IV, all of it (encrypt-then-MAC)
    kdf=sha512              the first bytes of SHA-512(passphrase)
    kdf=pbkdf2              PBKDF2-HMAC-SHA-512, salt "swtpm", 1000 iterations

A passphrase is all bytes of its file, the end of the last line too. With a fixed salt and so few iterations a short one
can be found by trying: the strength must be in the passphrase.

`cryptography`, hmac and hashlib are imported with the first key: a TPM without one starts without them
(decisions/0024).
"""

from os import urandom

from swtpm_svc.wire.hints import Optional
from swtpm_svc.wire.values import NamedTuple

#: swtpm's names of the ciphers, and the length of a key in bytes.
MODES = {"aes-cbc": 16, "aes-256-cbc": 32}
KDFS = ("pbkdf2", "sha512")
MAC_SIZE = 32
_BLOCK = 16
_SALT = b"swtpm"
_ITERATIONS = 1000
_HEX_DIGITS = frozenset(b"0123456789abcdefABCDEF")


class NotAuthentic(ValueError):
    """The HMAC is another one: it was sealed with another key, or changed since."""


class BadKey(ValueError):
    """These bytes are not a key. The text says why in a few words."""


class Sealed(NamedTuple):
    """What encryption makes of a text."""

    ciphertext: bytes
    mac: bytes
    iv: bytes


class StateKey:
    """An AES key, 16 or 32 bytes, for state files or for state blobs."""

    def __init__(self, key: bytes) -> None:
        """Raises: BadKey."""
        names = [name for name, size in MODES.items() if size == len(key)]
        if not names:
            raise BadKey(f"it has {len(key)} bytes, not 16 or 32")
        # Import all that a key takes, and use it once, as cryptography imports more at the first use: later the process
        # may be that of another user, who cannot read the modules.
        import hmac

        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        def cipher(iv: bytes) -> "Cipher[modes.CBC]":
            return Cipher(algorithms.AES(key), modes.CBC(iv[:_BLOCK]))

        cipher(bytes(_BLOCK)).encryptor()
        self.mode = names[0]
        self._key = key
        self._cipher = cipher
        self._is_same, self._digest = hmac.compare_digest, hmac.digest

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StateKey) and self._is_same(self._key, other._key)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{self.mode} key>"

    def seal(self, text: bytes) -> Sealed:
        iv = urandom(len(self._key))
        padding = len(self._key) - len(text) % len(self._key)
        encryptor = self._cipher(iv).encryptor()
        ciphertext = encryptor.update(text + bytes([padding]) * padding) + encryptor.finalize()
        return Sealed(ciphertext, self._mac(ciphertext, iv), iv)

    def open(self, sealed: Sealed) -> bytes:
        """The text. Nothing is decrypted before the HMAC was found good.

        Raises:
            NotAuthentic
        """
        # the HMAC does not say where the ciphertext ends and the IV begins; the length of the IV does
        has_form = len(sealed.iv) == len(self._key) and sealed.ciphertext and not len(sealed.ciphertext) % _BLOCK
        if not self._is_same(self._mac(sealed.ciphertext, sealed.iv), sealed.mac) or not has_form:
            raise NotAuthentic("its HMAC is another one")
        decryptor = self._cipher(sealed.iv).decryptor()
        padded = decryptor.update(sealed.ciphertext) + decryptor.finalize()
        padding = padded[-1]
        if not 1 <= padding <= min(len(self._key), len(padded)) or padded[-padding:] != bytes([padding]) * padding:
            raise NotAuthentic("its padding is wrong")
        return padded[:-padding]

    def _mac(self, ciphertext: bytes, iv: bytes) -> bytes:
        return self._digest(self._key, ciphertext + iv, "sha256")


class Keys(NamedTuple):
    """The keys of one TPM; None: that kind is not encrypted."""

    #: For the state files.
    state: Optional[StateKey] = None
    #: For the state blobs of the control protocol.
    migration: Optional[StateKey] = None


NO_KEYS = Keys()


def from_hex(text: bytes) -> StateKey:
    """A key as 32 or 64 hex digits, perhaps after "0x". Raises: BadKey."""
    digits = text.strip()
    digits = digits[2:] if digits.startswith(b"0x") else digits
    if len(digits) not in (32, 64) or not _HEX_DIGITS.issuperset(digits):
        raise BadKey("it is not 32 or 64 hex digits")
    return StateKey(bytes.fromhex(digits.decode("ascii")))


def from_passphrase(passphrase: bytes, kdf: str, mode: str) -> StateKey:
    """The key that swtpm derives with `kdf`, one of KDFS, for `mode`, one of MODES.

    Raises: BadKey (an empty passphrase).
    """
    import hashlib

    if not passphrase.strip():
        raise BadKey("it is empty")
    size = MODES[mode]
    if kdf == "sha512":
        return StateKey(hashlib.sha512(passphrase).digest()[:size])
    return StateKey(hashlib.pbkdf2_hmac("sha512", passphrase, _SALT, _ITERATIONS, size))
