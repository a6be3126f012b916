"""The options --key and --migration-key: where a key is, in which form, and the key that is there.

What is accepted is what swtpm accepts; nobody is asked whose a file is, as callers pass what they made.
"""

import os

from swtpm_svc.cli.classic import comma_list, key_forms
from swtpm_svc.cli.classic.key_forms import KeyFormError
from swtpm_svc.cli.classic.swtpm_lists import number_of, parse
from swtpm_svc.cli.classic.swtpm_options import CommandError
from swtpm_svc.state import encryption
from swtpm_svc.state.encryption import StateKey
from swtpm_svc.wire.hints import Callable, Optional

#: A passphrase of so many bytes is worth a warning (measured with swtpm 0.11).
_SHORT_PASSPHRASE = 6
_NAMES = ("file", "mode", "format", "remove", "fd", "pwdfile", "pwdfd", "kdf")


def load(text: str, what: str, warn: Callable[[str], None]) -> StateKey:
    """The key that `text`, the value of --key or --migration-key, says.

    `warn` hears of a passphrase that is easily guessed.

    Raises:
        CommandError
    """
    values = parse(text, what, _NAMES)
    fd, passphrase_fd = number_of(values, "fd", what), number_of(values, "pwdfd", what)
    form, mode, kdf = values.get("format", "hex"), values.get("mode", "aes-cbc"), values.get("kdf", "pbkdf2")
    if form not in ("hex", "binary"):
        raise CommandError(f"Unknown key format '{form}'.")
    if mode not in key_forms.SIZES:
        raise CommandError(f"Unknown encryption mode '{mode}'.")
    if kdf not in encryption.KDFS:
        raise CommandError(f"Unknown kdf '{kdf}'.")
    size = key_forms.SIZES[mode]
    try:
        if "file" in values or "fd" in values:
            content = _read(values.get("file"), fd, "Unable to open file {}: {}")
            key = key_forms.from_hex(content, size) if form == "hex" else key_forms.from_binary(content, size)
        elif "pwdfile" in values or "pwdfd" in values:
            content = _read(values.get("pwdfile"), passphrase_fd, "Unable to open file {} : {}")
            key = key_forms.from_passphrase(content, kdf, size)
            if len(content) <= _SHORT_PASSPHRASE:
                warn(f"Warning: Passphrase is only {len(content)} bytes long")
        else:
            raise CommandError(f"Either file=, fd=, pwdfile=, or pwdfd= is required for {what} option")
    except KeyFormError as error:
        raise CommandError(str(error)) from None
    if comma_list.boolean(values, "remove"):
        for name in ("file", "pwdfile"):
            if name in values:
                _remove(values[name])
    return key


def _read(path: "Optional[str]", fd: int, opening: str) -> bytes:
    from swtpm_svc.state import named_files

    try:
        opened = fd if path is None else named_files.open_input(path)
    except OSError as error:
        raise CommandError(opening.format(path, error.strerror)) from None
    try:
        return key_forms.read_all(opened)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "Bad file descriptor"
        raise CommandError(f"Unable to read key: {reason}") from None
    finally:
        if path is not None:
            os.close(opened)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError as error:
        raise CommandError(f"Unable to remove file {path}: {error.strerror}") from None
