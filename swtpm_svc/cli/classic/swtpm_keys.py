"""The options --key and --migration-key: where a key is, in which form, and the key that is there.

What is accepted is what swtpm accepts; nobody is asked whose a file is, as callers pass what they made.
"""

import os
from typing import Optional

from swtpm_svc.cli.classic import comma_list
from swtpm_svc.cli.classic.swtpm_lists import number_of, parse
from swtpm_svc.cli.classic.swtpm_options import CommandError
from swtpm_svc.state import encryption
from swtpm_svc.state.encryption import StateKey

_NAMES = ("file", "mode", "format", "remove", "fd", "pwdfile", "pwdfd", "kdf")
#: Bytes of the keys, by what mode= may say.
_SIZES = {"aes-cbc": 16, "aes-128-cbc": 16, "aes-256-cbc": 32}
_MODES = {16: "aes-cbc", 32: "aes-256-cbc"}
_MAX_BYTES = 64 * 1024


def load(text: str, what: str) -> StateKey:
    """The key that `text`, the value of --key or --migration-key, says.

    Raises:
        CommandError
    """
    values = parse(text, what, _NAMES)
    fd, passphrase_fd = number_of(values, "fd", what), number_of(values, "pwdfd", what)
    form, mode, kdf = values.get("format", "hex"), values.get("mode", "aes-cbc"), values.get("kdf", "pbkdf2")
    if form not in ("hex", "binary"):
        raise CommandError(f"Unknown key format '{form}'.")
    if mode not in _SIZES:
        raise CommandError(f"Unknown encryption mode '{mode}'.")
    if kdf not in encryption.KDFS:
        raise CommandError(f"Unknown kdf '{kdf}'.")
    size = _SIZES[mode]
    if "file" in values or "fd" in values:
        content = _read(values.get("file"), fd, "Unable to open file {}: {}")
        key = _from_hex(content, size) if form == "hex" else _from_binary(content, size)
    elif "pwdfile" in values or "pwdfd" in values:
        content = _read(values.get("pwdfile"), passphrase_fd, "Unable to open file {} : {}")
        key = _from_passphrase(content, kdf, size)
    else:
        raise CommandError(f"Either file=, fd=, pwdfile=, or pwdfd= is required for {what} option")
    if comma_list.boolean(values, "remove"):
        for name in ("file", "pwdfile"):
            if name in values:
                _remove(values[name])
    return key


def _read(path: "Optional[str]", fd: int, opening: str) -> bytes:
    try:
        opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY) if path is not None else fd
    except OSError as error:
        raise CommandError(opening.format(path, error.strerror)) from None
    content = b""
    try:
        while len(content) <= _MAX_BYTES:
            piece = os.read(opened, _MAX_BYTES)
            if not piece:
                break
            content += piece
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "Bad file descriptor"
        raise CommandError(f"Unable to read key: {reason}") from None
    finally:
        if path is not None:
            os.close(opened)
    return content


def _from_hex(content: bytes, size: int) -> StateKey:
    words = content.split()
    digits = words[0] if words and not content[:1].isspace() else b""
    digits = digits[2:] if digits.startswith((b"0x", b"0X")) else digits
    try:
        key = bytes.fromhex(digits.decode("ascii"))
    except ValueError:
        raise CommandError(f"Could not parse key hex string into {size} byte buffer.") from None
    if len(key) > size:
        raise CommandError(f"Could not parse key hex string into {size} byte buffer.")
    if len(key) not in _MODES:
        raise CommandError(f"Unsupported key length with {len(digits)} digits.")
    if len(key) < size:
        raise CommandError(f"The provided key is too short. Got {len(key)} bytes, need {size}.")
    return StateKey(key)


def _from_binary(content: bytes, size: int) -> StateKey:
    if len(content) > size:
        raise CommandError(f"Key is larger than buffer ({len(content)} > {size}).")
    if len(content) < size:
        raise CommandError(f"The provided key is too short. Got {len(content)} bytes, need {size}.")
    return StateKey(content)


def _from_passphrase(content: bytes, kdf: str, size: int) -> StateKey:
    try:
        return encryption.from_passphrase(content, kdf, _MODES[size])
    except encryption.BadKey as error:
        raise CommandError(f"The passphrase cannot be used: {error}.") from None


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError as error:
        raise CommandError(f"Unable to remove file {path}: {error.strerror}") from None
