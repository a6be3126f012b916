"""Where the key of a state is to be had on a command line, and whose the state is: keys are never arguments."""

import os
import sys
from argparse import ArgumentTypeError
from typing import NamedTuple, Optional

from swtpm_svc.cli.vtpmctl.commands import KEY_EXPECTED
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.state import keys
from swtpm_svc.state.encryption import KDFS, MODES, StateKey
from swtpm_svc.state.file_errors import read_error
from swtpm_svc.state.keys import DEFAULT_KDF, FORMATS, Source, Trusted

_AS_OWNER = "run this as root: it then works as the user that owns the state"


class Place(NamedTuple):
    """Where a key is to be had on the command line; `source` is None for "none"."""

    source: Optional[Source]


def place(text: str) -> Place:
    """--from and --to. Raises: ArgumentTypeError."""
    name, options = text, dict.fromkeys(("format", "mode"), "")
    while True:  # from the end, for a path may have commas and equals signs
        rest, comma, last = name.rpartition(",")
        option, equals, value = last.partition("=")
        if not (comma and equals and option in options):
            break
        name, options[option] = rest, value
    kind, equals, value = name.partition("=")
    if name == "none" and not any(options.values()):
        return Place(None)
    is_good = name == "prompt" or (kind in ("file", "fd", "credential") and equals and value)
    if kind == "fd" and not (value.isdigit() and len(value) < 8):
        is_good = False
    if kind == "credential" and "/" in value:
        is_good = False
    if options["format"] not in ("", *FORMATS) or options["mode"] not in ("", *MODES) or not is_good:
        raise ArgumentTypeError(f"expected {KEY_EXPECTED}")  # what was found is not repeated: it may be a key
    form = options["format"] or (DEFAULT_KDF if kind == "prompt" else "hex")
    return Place(Source(kind, value, form, options["mode"] or None))


def owner_of(path: str) -> os.stat_result:
    """Whose the state is. Raises: VtpmError STATE_MISSING, STATE_UNREADABLE, NOT_PERMITTED."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        remedy = (
            "nothing is to be done if the TPM is yet to be made; else mount what belongs there, or see [state] "
            "directory"
        )
        raise VtpmError(Code.STATE_MISSING, f"there is no {path}", remedy=remedy) from None
    except OSError as error:
        raise read_error(path, error, denied=_AS_OWNER) from error
    if os.geteuid() not in (0, found.st_uid):
        raise VtpmError(Code.NOT_PERMITTED, f"{path} belongs to user {found.st_uid}", remedy=_AS_OWNER)
    return found


def key_of(source: Source, trusted: Trusted, which: str) -> StateKey:
    """The key from there; `which` is asked for. Raises: VtpmError KEY_UNUSABLE, USAGE."""
    if source.kind != "prompt":
        return keys.load(source, trusted)
    typed = _ask(f"{which} {'passphrase' if source.format in KDFS else 'key'}: ")
    if which == "New" and _ask("Once more: ") != typed:
        raise keys.unusable("what was typed is not twice the same", "try again")
    return keys.make(typed, source)


def _ask(prompt: str) -> bytes:
    if not sys.stdin or not sys.stdin.isatty():
        raise VtpmError(
            Code.USAGE, "there is no terminal to ask for the key", remedy="give it by file=, fd= or credential="
        )
    from getpass import getpass

    try:
        return getpass(prompt).encode("utf-8", "surrogateescape")
    except EOFError:
        raise VtpmError(Code.USAGE, "nothing was typed", remedy="try again") from None
