"""The first state of a TPM: put in place by one rename, whole, where there is no state yet.

    BASE/.new-XXXXXXXX/    being written; left by a crash, removed by the next one who makes a TPM
    BASE/NAME/             the state's directory, of the service's user, 0700
    BASE/NAME/.created     there from the rename until the configuration is written, too: the digest of the state that was made

Only with `.created`, and if no TPM has run on it since, may a state be replaced: nobody has ever used that one.
BASE itself is the lock (flock), held for the moment that all this takes.
"""

import fcntl
import hashlib
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Callable, NamedTuple, Optional

from swtpm_svc.errors import Code, VtpmError, quote
from swtpm_svc.state.encryption import StateKey
from swtpm_svc.state.files import read_error, write_error
from swtpm_svc.state.lock import LOCK_NAME
from swtpm_svc.state.store import PERMALL, Store, file_name

NEW, MARKER = ".new-", ".created"
#: The lock is held for as long as some fsyncs take.
LOCK_TIME_S = 60.0
_BASE_MODE = 0o755
_AS_ROOT = "do this as root"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Owner(NamedTuple):
    """Whose the state shall be."""

    uid: int
    gid: int


class Place(NamedTuple):
    """Where the state goes: `base`/`name`. `owner`: of the state, where root makes it."""

    base: str
    name: str
    owner: Owner

    @property
    def path(self) -> str:
        return os.path.join(self.base, self.name)


def is_empty(path: str) -> bool:
    """Is there no such directory, or nothing in it? Raises: VtpmError STATE_UNREADABLE."""
    return not _names(path)


def refuse_existing(place: Place) -> None:
    """
    Raises:
        VtpmError ALREADY_PROVISIONED: there is a state, or something else. STATE_UNREADABLE: it may not be looked at.
            STATE_UNWRITABLE: there is a symbolic link, which a rename would replace and not follow.
    """
    found = _names(place.path)
    if found and not _is_unused(place, found):
        raise VtpmError(
            Code.ALREADY_PROVISIONED,
            f"{place.path} has a TPM already: {', '.join(found[:3])}",
            remedy="choose another name; or use it, with a configuration of your own (vtpm.d(5)); or move it away",
        )
    if os.path.islink(place.path):
        raise VtpmError(
            Code.STATE_UNWRITABLE,
            f"{place.path} is a symbolic link; no TPM can be put in its place",
            remedy=f"name where it leads in [state] directory, vtpm.d(5); or remove the link: rm {quote(place.path)}",
        )


def _names(path: str) -> "list[str]":
    """What is in the directory, but for the lock."""
    try:
        return sorted(set(os.listdir(path)) - {LOCK_NAME})
    except FileNotFoundError:
        return []
    except OSError as error:
        raise read_error(path, error, denied=_AS_ROOT) from error


def install(
    place: Place, version: str, payload: bytes, key: Optional[StateKey], finish: Optional[Callable[[], None]] = None
) -> None:
    """Put the permanent state in place, durably. `finish` then writes what else belongs to it, under the same lock.

    Raises:
        VtpmError ALREADY_PROVISIONED: there is a state. STATE_LOCKED, STATE_UNWRITABLE, STATE_FULL; and what `finish` raises.
    """
    with _acting_for_owner(place), _locked(place) as base:
        refuse_existing(place)
        try:
            for name in os.listdir(base):
                if name.startswith(NEW):
                    _remove(base, name)
            _clear(base, place.name)
            _put(base, place, version, payload, key, is_marked=finish is not None)
            if finish is not None:
                try:
                    with _as_before():
                        finish()
                except VtpmError as error:
                    if error.code is not Code.ALREADY_PROVISIONED:  # whoever was faster may be served from this state by now
                        with suppress(OSError):
                            _clear(base, place.name)
                    raise
                _unmark(base, place.name)
        except OSError as error:
            raise write_error(place.path, error, denied=_AS_ROOT if os.getuid() else None) from error


def _unmark(base: int, name: str) -> None:
    folder = os.open(name, _FOLDER, dir_fd=base)
    try:
        os.unlink(MARKER, dir_fd=folder)
        os.fsync(folder)
    finally:
        os.close(folder)


def _put(base: int, place: Place, version: str, payload: bytes, key: Optional[StateKey], *, is_marked: bool) -> None:
    new = NEW + secrets.token_hex(4)
    os.mkdir(new, 0o700, dir_fd=base)
    try:
        with Store.open(os.path.join(place.base, new), version, key) as store:
            store.store(PERMALL, payload)
        folder = os.open(new, _FOLDER, dir_fd=base)
        try:
            if is_marked:
                _write_marker(folder, version)
            if os.geteuid() == 0:
                for name in os.listdir(folder):
                    os.chown(name, *place.owner, dir_fd=folder, follow_symlinks=False)
                os.fchown(folder, *place.owner)
            os.fsync(folder)
        finally:
            os.close(folder)
        os.rename(new, place.name, src_dir_fd=base, dst_dir_fd=base)
    except (OSError, VtpmError):
        _remove(base, new)
        raise
    os.fsync(base)


def _write_marker(folder: int, version: str) -> None:
    fd = os.open(MARKER, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        os.write(fd, _digest(folder, version))
        os.fsync(fd)
    finally:
        os.close(fd)


def _digest(folder: int, version: str) -> bytes:
    fd = os.open(file_name(version, PERMALL), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    with open(fd, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest().encode()


def _is_unused(place: Place, found: "list[str]") -> bool:
    """Is that what a run has left that was killed before it had written the configuration?"""
    if MARKER not in found or len(found) != 2:
        return False
    try:
        folder = os.open(place.path, _FOLDER)
    except OSError:
        return False
    try:
        fd = os.open(MARKER, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        with open(fd, "rb") as file:
            expected = file.read(1024)
        return any(_digest(folder, version) == expected for version in ("1.2", "2.0") if file_name(version, PERMALL) in found)
    except OSError:
        return False
    finally:
        os.close(folder)


def _clear(base: int, name: str) -> None:
    """Take away a directory without a state, or with one that nobody has used."""
    aside = NEW + secrets.token_hex(4)
    with suppress(FileNotFoundError):
        os.rename(name, aside, src_dir_fd=base, dst_dir_fd=base)
        _remove(base, aside)


def _remove(base: int, name: str) -> None:
    """As far as that goes: what stays, somebody else has put there, and it is in nobody's way."""
    try:
        folder = os.open(name, _FOLDER, dir_fd=base)
    except OSError:
        with suppress(OSError):
            os.unlink(name, dir_fd=base)
        return
    try:
        for file in os.listdir(folder):
            with suppress(OSError):
                os.unlink(file, dir_fd=folder)
    finally:
        os.close(folder)
    with suppress(OSError):
        os.rmdir(name, dir_fd=base)


@contextmanager
def _locked(place: Place) -> Iterator[int]:
    try:
        if os.geteuid() == 0:
            with suppress(FileExistsError):
                os.mkdir(place.base)
                os.chmod(place.base, _BASE_MODE)  # whatever the umask: the service's user has to come through
        base = os.open(place.base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise write_error(place.base, error, denied=_AS_ROOT) from error
    try:
        deadline = time.monotonic() + LOCK_TIME_S
        while True:
            try:
                fcntl.flock(base, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    cause = f"{place.base} is held by another process, which makes a TPM"
                    raise VtpmError(Code.STATE_LOCKED, cause, remedy=f"find it, as root: lsof {quote(place.base)}") from None
                time.sleep(0.005)
        yield base
    finally:
        os.close(base)


@contextmanager
def _acting_for_owner(place: Place) -> Iterator[None]:
    """Where the base is the service's user's, root acts as that user: it could put links in the way."""
    owner = _other_owner(place)
    if owner is None:
        yield
        return
    groups, gid = os.getgroups(), os.getegid()
    os.setgroups([])
    os.setegid(owner.gid)
    os.seteuid(owner.uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)


@contextmanager
def _as_before() -> Iterator[None]:
    """Root once more, within _acting_for_owner."""
    uid, gid = os.geteuid(), os.getegid()
    if os.getuid() == 0 and uid != 0:
        os.seteuid(0)
        os.setegid(os.getgid())
    try:
        yield
    finally:
        if os.geteuid() != uid:
            os.setegid(gid)
            os.seteuid(uid)


def _other_owner(place: Place) -> Optional[Owner]:
    if os.geteuid() != 0:
        return None
    try:
        found = os.stat(place.base)
    except OSError:
        return None
    return Owner(found.st_uid, found.st_gid) if stat.S_ISDIR(found.st_mode) and found.st_uid != 0 else None
