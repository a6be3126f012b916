"""The forms in which the classic commands take a key: digits, octets or a passphrase, and a cipher's length."""

import os

TYPE_CHECKING = False  # to mypy it is True
if TYPE_CHECKING:
    from swtpm_svc.state.encryption import StateKey

#: Bytes of the keys, by a cipher's names.
SIZES = {"aes-cbc": 16, "aes-128-cbc": 16, "aes-256-cbc": 32}
_MODES = {16: "aes-cbc", 32: "aes-256-cbc"}
#: No key and no passphrase is longer.
MAX_BYTES = 64 * 1024


class KeyFormError(Exception):
    """There is no such key in what was read; the message is swtpm's."""


def read_all(fd: int) -> bytes:
    """What `fd`, of a file or a pipe, has up to its end, and no more than is too long for a key. Raises: OSError."""
    content = b""
    while len(content) <= MAX_BYTES:
        piece = os.read(fd, MAX_BYTES)
        if not piece:
            break
        content += piece
    return content


def from_hex(content: bytes, size: int) -> "StateKey":
    """The digits at the beginning of `content`, with or without 0x, as a key of `size` bytes.

    Raises:
        KeyFormError
    """
    from swtpm_svc.state.encryption import StateKey

    words = content.split()
    digits = words[0] if words and not content[:1].isspace() else b""
    digits = digits[2:] if digits.startswith((b"0x", b"0X")) else digits
    try:
        key = bytes.fromhex(digits.decode("ascii"))
    except ValueError:
        raise KeyFormError(f"Could not parse key hex string into {size} byte buffer.") from None
    if len(key) > size:
        raise KeyFormError(f"Could not parse key hex string into {size} byte buffer.")
    if len(key) not in _MODES:
        raise KeyFormError(f"Unsupported key length with {len(digits)} digits.")
    _refuse_short(key, size)
    return StateKey(key)


def from_binary(content: bytes, size: int) -> "StateKey":
    """All of `content` as a key of `size` bytes.

    Raises:
        KeyFormError
    """
    from swtpm_svc.state.encryption import StateKey

    if len(content) > size:
        raise KeyFormError(f"Key is larger than buffer ({len(content)} > {size}).")
    _refuse_short(content, size)
    return StateKey(content)


def from_passphrase(content: bytes, kdf: str, size: int) -> "StateKey":
    """A key of `size` bytes that is derived from all of `content`, a newline at its end too.

    Raises:
        KeyFormError
    """
    from swtpm_svc.state import encryption

    try:
        return encryption.from_passphrase(content, kdf, _MODES[size])
    except encryption.BadKey as error:
        raise KeyFormError(f"The passphrase cannot be used: {error}.") from None


def _refuse_short(key: bytes, size: int) -> None:
    if len(key) < size:
        raise KeyFormError(f"The provided key is too short. Got {len(key)} bytes, need {size}.")
