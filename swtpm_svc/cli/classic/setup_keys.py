"""The key that swtpm_setup encrypts a state with: --keyfile, --pwdfile, their descriptors, --cipher."""

from typing import TYPE_CHECKING, Callable, Optional

from swtpm_svc.cli.classic import key_forms
from swtpm_svc.cli.classic.key_forms import KeyFormError
from swtpm_svc.cli.classic.setup_options import Given, SetupError

if TYPE_CHECKING:
    from swtpm_svc.state.encryption import StateKey


def load(given: Given, user: str, tell: Callable[[str], None]) -> "Optional[StateKey]":
    """None: the state stays in clear.

    Raises:
        SetupError.
    """
    cipher = given.get("cipher") or "aes-128-cbc"
    if cipher not in key_forms.SIZES:
        raise SetupError(f"Unsupported cipher {cipher}.")
    try:
        return _load(given, user, key_forms.SIZES[cipher], tell)
    except KeyFormError as error:
        raise SetupError(str(error)) from None


def _load(given: Given, user: str, size: int, tell: Callable[[str], None]) -> "Optional[StateKey]":
    if "keyfile" in given:
        content = _file(given.values["keyfile"], "keyfile", user)
        tell("  The TPM's state will be encrypted with a provided key.")
        return key_forms.from_hex(content, size)
    if "pwdfile" in given:
        content = _file(given.values["pwdfile"], "passphrase file", user)
        tell("  The TPM's state will be encrypted using a key derived from a passphrase.")
        return key_forms.from_passphrase(content, "pbkdf2", size)
    if "keyfile-fd" in given:
        content = _descriptor(given.values["keyfile-fd"])
        tell("  The TPM's state will be encrypted with a provided key (fd).")
        return key_forms.from_hex(content, size)
    if "pwdfile-fd" in given:
        content = _descriptor(given.values["pwdfile-fd"])
        tell("  The TPM's state will be encrypted using a key derived from a passphrase (fd).")
        return key_forms.from_passphrase(content, "pbkdf2", size)
    return None


def _file(path: str, what: str, user: str) -> bytes:
    from swtpm_svc.state import named_files

    try:
        return named_files.read_input(path, key_forms.MAX_BYTES + 1)
    except OSError:
        raise SetupError(f"User {user} cannot read {what} {path}.") from None


def _descriptor(text: str) -> bytes:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise SetupError(f"Invalid file descriptor '{text}'")
    try:
        return key_forms.read_all(int(text))
    except OSError as error:
        raise SetupError(f"Invalid file descriptor '{text}': {error.strerror}") from None
