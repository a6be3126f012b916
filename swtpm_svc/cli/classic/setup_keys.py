"""The key that swtpm_setup encrypts a state with: --keyfile, --pwdfile, their descriptors, --cipher."""

import os
from typing import TYPE_CHECKING, Callable, Optional

from swtpm_svc.cli.classic.setup_options import Given, SetupError

if TYPE_CHECKING:
    from swtpm_svc.state.encryption import StateKey

_SIZES = {"aes-cbc": 16, "aes-128-cbc": 16, "aes-256-cbc": 32}
_MODES = {16: "aes-cbc", 32: "aes-256-cbc"}
_MAX_BYTES = 64 * 1024


def load(given: Given, user: str, tell: Callable[[str], None]) -> "Optional[StateKey]":
    """None: the state stays in clear.

    Raises:
        SetupError.
    """
    cipher = given.get("cipher") or "aes-128-cbc"
    if cipher not in _SIZES:
        raise SetupError(f"Unsupported cipher {cipher}.")
    size = _SIZES[cipher]
    if "keyfile" in given:
        content = _file(given.values["keyfile"], "keyfile", user)
        tell("  The TPM's state will be encrypted with a provided key.")
        return _from_hex(content, size)
    if "pwdfile" in given:
        content = _file(given.values["pwdfile"], "passphrase file", user)
        tell("  The TPM's state will be encrypted using a key derived from a passphrase.")
        return _from_passphrase(content, size)
    if "keyfile-fd" in given:
        content = _descriptor(given.values["keyfile-fd"])
        tell("  The TPM's state will be encrypted with a provided key (fd).")
        return _from_hex(content, size)
    if "pwdfile-fd" in given:
        content = _descriptor(given.values["pwdfile-fd"])
        tell("  The TPM's state will be encrypted using a key derived from a passphrase (fd).")
        return _from_passphrase(content, size)
    return None


def _file(path: str, what: str, user: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_MAX_BYTES)
    except OSError:
        raise SetupError(f"User {user} cannot read {what} {path}.") from None


def _descriptor(text: str) -> bytes:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise SetupError(f"Invalid file descriptor '{text}'")
    content = b""
    try:
        while len(content) <= _MAX_BYTES:
            piece = os.read(int(text), _MAX_BYTES)
            if not piece:
                break
            content += piece
    except OSError as error:
        raise SetupError(f"Invalid file descriptor '{text}': {error.strerror}") from None
    return content


def _from_hex(content: bytes, size: int) -> "StateKey":
    from swtpm_svc.state.encryption import StateKey

    words = content.split()
    digits = words[0] if words and not content[:1].isspace() else b""
    digits = digits[2:] if digits[:2] in (b"0x", b"0X") else digits
    try:
        key = bytes.fromhex(digits.decode("ascii"))
    except ValueError:
        raise SetupError(f"Could not parse key hex string into {size} byte buffer.") from None
    if len(key) > size:
        raise SetupError(f"Could not parse key hex string into {size} byte buffer.")
    if len(key) not in _MODES:
        raise SetupError(f"Unsupported key length with {len(digits)} digits.")
    if len(key) < size:
        raise SetupError(f"The provided key is too short. Got {len(key)} bytes, need {size}.")
    return StateKey(key)


def _from_passphrase(content: bytes, size: int) -> "StateKey":
    from swtpm_svc.state import encryption

    try:
        return encryption.from_passphrase(content, "pbkdf2", _MODES[size])
    except encryption.BadKey as error:
        raise SetupError(f"The passphrase cannot be used: {error}.") from None
