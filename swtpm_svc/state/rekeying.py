"""All state of one TPM, from the old key (or none) to the new one (or none), while the TPM is not running."""

from typing import NamedTuple, Optional

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.state import blob, replacement
from swtpm_svc.state.backend import NAMES
from swtpm_svc.state.encryption import StateKey
from swtpm_svc.state.files import Directory
from swtpm_svc.state.payloads import unwrap
from swtpm_svc.state.state_directory import BAD, is_leftover, is_state_file, open_locked
from swtpm_svc.state.state_file import StateFile

#: What a file is before it is rewritten.
CLEAR, OLD, NEW = "in clear", "the old key", "the new key"


class Rekeyed(NamedTuple):
    """What was done.

    `files`: each file that was rewritten, and what it was before; `unchanged`: those that were as asked for; `left`:
    damaged ones that had been set aside.
    """

    files: "dict[str, str]"
    unchanged: tuple[str, ...]
    left: tuple[str, ...]


def rekey(directory: str, version: str, old: Optional[StateKey], new: Optional[StateKey]) -> Rekeyed:
    """Rewrite every state file that is not under `new` yet: the current ones, the generation before, and what was set
    aside.

    Each may be in clear or under either key, so that what was begun elsewhere is brought to its end. All are read
    before one is written, and they change all at once (replacement.py).

    Raises:
        VtpmError: STATE_MISSING: there is no state; STATE_KEY: a file is under a third key; STATE_CORRUPT,
            STATE_FOREIGN; as
            Store.of(). No file was changed then.
    """
    opened, lock = open_locked(directory)
    try:
        opened.check_writable()
        found, left = _read_all(opened, version, old, new)
        target = NEW if new is not None else CLEAR
        contents = {
            name: blob.encode_checked(payload, new) for name, (payload, form) in found.items() if form != target
        }
        if contents:
            replacement.replace_all(opened, contents)
        for name in opened.names():
            if is_leftover(version, name):
                opened.tidy(name)  # of a store that a crash cut short; the old key, or none, was good enough to read it
        unchanged = tuple(sorted(name for name in found if name not in contents))
        return Rekeyed({name: found[name][1] for name in sorted(contents)}, unchanged, left)
    finally:
        lock.close()
        opened.close()


def rekey_file(path: str, version: str, old: Optional[StateKey], new: Optional[StateKey]) -> Rekeyed:
    """The same of state that is all in one file. Raises: VtpmError as rekey()."""
    backend = StateFile.open(path)
    try:
        backend.lock()
        found = {}
        for name in NAMES:
            data = backend.read(name)
            if data is not None:
                found[name] = _open(backend.path_of(name), data, version, old, new)
        if not found:
            raise _nothing(version, path)
        target = NEW if new is not None else CLEAR
        contents = {
            name: blob.encode_checked(payload, new) for name, (payload, form) in found.items() if form != target
        }
        if contents:
            backend.replace_all(contents)
        unchanged = tuple(sorted(name for name in found if name not in contents))
        return Rekeyed({name: found[name][1] for name in sorted(contents)}, unchanged, ())
    finally:
        backend.close()


def _nothing(version: str, path: str) -> VtpmError:
    return VtpmError(
        Code.STATE_MISSING,
        f"there is no state of a TPM {version} in {path}",
        remedy="nothing is to be done if the TPM is yet to be made, with the key that is configured; else see [state]",
    )


def _read_all(
    opened: Directory, version: str, old: Optional[StateKey], new: Optional[StateKey]
) -> "tuple[dict[str, tuple[bytes, str]], tuple[str, ...]]":
    found, left = {}, []
    for name in sorted(opened.names()):
        if not is_state_file(version, name):
            continue
        data = opened.read(name)
        if data is None:
            continue
        try:
            found[name] = _open(opened.path_of(name), data, version, old, new)
        except VtpmError:
            if not name.endswith(BAD):  # that one was set aside because it was unusable
                raise
            left.append(name)
    if not found:
        raise _nothing(version, opened.path)
    return found, tuple(left)


def _open(
    path: str, data: bytes, version: str, old: Optional[StateKey], new: Optional[StateKey]
) -> "tuple[bytes, str]":
    """The payload, and what the file is."""
    remedy = "restore it from a backup, or move it away if it is not the current state; nothing was changed"
    attempts: list[tuple[Optional[StateKey], str]] = [(new, NEW), (old, OLD)] if new is not None else [(old, OLD)]
    for number, (key, form) in enumerate(attempts, 1):
        try:
            payload = unwrap(data, version, key, path, remedy=remedy, may_be_clear=True)
            return payload, form if blob.is_encrypted(blob.decode(data)) else CLEAR
        except VtpmError as error:
            if error.code is not Code.STATE_KEY:
                raise
            if number == len(attempts):
                cause = "is encrypted, and neither the new key nor the old one opens it"
                if old is None:
                    cause = (
                        "is encrypted, and no old key was given"
                        if new is None
                        else "is encrypted with another key than the new one"
                    )
                raise VtpmError(
                    Code.STATE_KEY,
                    f"{path} {cause}",
                    remedy="give the key that it was encrypted with by --from; nothing was changed",
                ) from None
    raise AssertionError
