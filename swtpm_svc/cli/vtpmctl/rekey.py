"""`vtpmctl rekey`: the state of an instance that is not running, from one key to another.

No key is ever an argument.
"""

import os
import sys
from argparse import ArgumentTypeError
from typing import NamedTuple, Optional

from swtpm_svc.cli.command import Report
from swtpm_svc.cli.vtpmctl.commands import KEY_EXPECTED
from swtpm_svc.cli.vtpmctl.host import Places
from swtpm_svc.config import loading
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.state import keys
from swtpm_svc.state.encryption import KDFS, MODES, StateKey
from swtpm_svc.state.file_errors import read_error
from swtpm_svc.state.keys import DEFAULT_KDF, FORMATS, Source, Trusted
from swtpm_svc.state.rekeying import CLEAR, rekey, rekey_file

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


def run(places: Places, *, name: str, old: Optional[Place], new: Optional[Place]) -> Report:
    """
    Raises:
        VtpmError KEY_UNUSABLE, STATE_LOCKED (it is running) and all that state.rekeying.rekey() raises; CONFIG_*,
        USAGE.
    """
    loaded = loading.load(f"{places.config}/{loading.check_instance(name)}.toml", name)
    owner = _owner(loaded.state.place)
    trusted = Trusted((owner.st_uid,), (owner.st_gid,))
    source = new.source if new is not None else loaded.state.key
    old_key = _key(old.source, trusted, "Old") if old is not None and old.source is not None else None
    new_key = _key(source, trusted, "New") if source is not None else None
    import json  # noqa: F401 - the report's, before who this runs as may not be allowed to read it (nor any other module)

    _become(owner)
    change = rekey_file if loaded.state.is_file else rekey
    done = change(loaded.state.place, loaded.tpm.version, old_key, new_key)
    form = f"encrypted with {new_key.mode}" if new_key is not None else CLEAR
    lines = [f"{name}: {file}: was {before}, is now {form}" for file, before in done.files.items()]
    lines += [f"{name}: {file}: is {form} already" for file in done.unchanged]
    lines += [f"{name}: {file}: is damaged and stays as it is; remove it when nobody needs it" for file in done.left]
    if new is not None:
        which = "this key" if source is not None else "no key"
        lines.append(f"{name}: before it is started, [state] in {loaded.path} must name {which}")
    values = {
        "instance": name,
        "files": done.files,
        "unchanged": list(done.unchanged),
        "left": list(done.left),
        "mode": new_key.mode if new_key is not None else None,
    }
    return Report("\n".join(lines), values)


def _owner(path: str) -> os.stat_result:
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


def _become(owner: os.stat_result) -> None:
    """From root to who owns the state, for good: the files that are written are then the service's, and no path leads
    astray."""
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.setgroups([])
        os.setresgid(owner.st_gid, owner.st_gid, owner.st_gid)
        os.setresuid(owner.st_uid, owner.st_uid, owner.st_uid)


def _key(source: Source, trusted: Trusted, which: str) -> StateKey:
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
