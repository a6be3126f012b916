"""Another TPM, or another generation, in the place of the state that there is: all of it at one moment."""

from typing import Callable, NamedTuple, Optional

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.state import replacement
from swtpm_svc.state.backend import NAMES, PERMALL, SAVESTATE, VOLATILESTATE
from swtpm_svc.state.files import Directory
from swtpm_svc.state.filling import MARKER
from swtpm_svc.state.state_directory import BACKUP, IDENTITY, PREVIOUS, file_name, open_locked
from swtpm_svc.state.state_file import StateFile


class NewState(NamedTuple):
    """`blobs`: encoded, by libtpms' names. `identity`: what the TPM was known by; it has none in a file with all of a
    TPM."""

    version: str
    blobs: "dict[str, bytes]"
    identity: Optional[bytes] = None


def in_directory(path: str, new: NewState) -> None:
    """What was the permanent state until now becomes the generation before; what else was there goes.

    Raises:
        VtpmError STATE_LOCKED, STATE_UNWRITABLE, STATE_FULL, STATE_UNREADABLE: all is as it was.
    """
    directory, lock = open_locked(path)
    try:
        directory.check_writable()
        contents = {file_name(new.version, name): new.blobs.get(name, b"") for name in NAMES}
        permanent = file_name(new.version, PERMALL)
        old = directory.read(permanent)
        contents[permanent + PREVIOUS] = old or b""
        contents[permanent + BACKUP] = b""  # a start must not go back to another TPM
        contents[IDENTITY] = new.identity or b""
        _replace(directory, contents)
    finally:
        lock.close()
        directory.close()


def in_file(path: str, new: NewState) -> None:
    """In a file with all of a TPM, which keeps no generation before. Raises: VtpmError as above."""
    file = StateFile.open(path)
    try:
        file.lock()
        file.replace_all(new.blobs, rest_stays=False)
    finally:
        file.close()


def confirm(path: str) -> None:
    """The state has its configuration now: it does not count as one that nobody has used.

    Raises:
        VtpmError as above.
    """
    directory, lock = open_locked(path)
    try:
        directory.remove(MARKER)
    finally:
        lock.close()
        directory.close()


def go_back(path: str, version: str, generation: str, is_good: Callable[[bytes], None]) -> None:
    """Have a generation before in the place of the current one, which takes its place in turn.

    `generation`: the ending of its file; `is_good` raises if it is not. The volatile and the saved state belong to the
    one that goes, and go.

    Raises:
        VtpmError STATE_MISSING: there is no such generation; as `is_good`, and as above.
    """
    directory, lock = open_locked(path)
    try:
        directory.check_writable()
        permanent = file_name(version, PERMALL)
        kept = directory.read(permanent + generation)
        if not kept:
            raise VtpmError(
                Code.STATE_MISSING,
                f"there is no {directory.path_of(permanent + generation)}",
                remedy="take a file of vtpmctl export: vtpmctl import FILE --overwrite",
            )
        is_good(kept)
        gone = {file_name(version, name): b"" for name in (VOLATILESTATE, SAVESTATE)}
        old = directory.read(permanent)
        swapped = {permanent: kept, **({permanent + generation: old} if old else {})}
        _replace(directory, {**gone, **swapped})
    finally:
        lock.close()
        directory.close()


def _replace(directory: Directory, contents: "dict[str, bytes]") -> None:
    """Those that are empty go, if they are there."""
    present = directory.names()
    replacement.replace_all(directory, {name: data for name, data in contents.items() if data or name in present})
