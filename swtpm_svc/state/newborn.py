"""The first state of a TPM, put in place whole, where there is no state yet.

    BASE/.create.lock      held (flock) for the moment that all this takes, and then removed; nobody else can open it
    BASE/.new-XXXXXXXX/    being written; left by a crash, removed by the next one who makes a TPM
    BASE/NAME/             the state's directory, of the service's user, 0700
    BASE/NAME/.created     there until the configuration is written, too: the digest of the state that was made

One rename puts the directory there. A directory that has to stay, because something is mounted there or it has other
things in it too, is filled instead: filling.py.

A state may be replaced only while `.created` has its digest: no TPM has run on it since, so nobody has ever used it.

BASE is opened once, and all that is looked at and written goes from there. On the way to it root acts as the owner of
each directory: that user could put links in the way.
"""

import errno
import fcntl
import hashlib
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Callable, NamedTuple, Optional

from swtpm_svc.errors import Code, VtpmError, quote
from swtpm_svc.state import blob
from swtpm_svc.state.backend import PERMALL
from swtpm_svc.state.encryption import StateKey
from swtpm_svc.state.file_errors import read_error, write_error
from swtpm_svc.state.files import Directory, is_draft
from swtpm_svc.state.filling import MARKER, NEW, OURS, Owner, become, fill, filling
from swtpm_svc.state.lock import LOCK_NAME, StateLock
from swtpm_svc.state.state_directory import file_name, traces, wrong_place
from swtpm_svc.state.store import Store

LOCK = ".create.lock"
#: The lock is held for as long as some fsyncs take.
LOCK_TIME_S = 60.0
_BASE_MODE = 0o755
_AS_ROOT = "do this as root"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_STEP = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Place(NamedTuple):
    """Where the state goes: `base`/`name`. `owner`: of the state, where root makes it."""

    base: str
    name: str
    owner: Owner

    @property
    def path(self) -> str:
        return os.path.join(self.base, self.name)


def is_empty(path: str) -> bool:
    """Is there no such directory, or no trace of a TPM in it? Raises: VtpmError STATE_UNREADABLE, STATE_FOREIGN."""
    found = _look(path)
    if found is None:
        return True
    try:
        return not traces(found)
    finally:
        found.close()


def refuse_existing(place: Place, base: Optional[int] = None) -> None:
    """`base`: the open directory that the state goes into.

    Raises:
        VtpmError ALREADY_PROVISIONED: there is a state. STATE_UNREADABLE, STATE_FOREIGN: it may not be looked at, or is
            a file.
            STATE_UNWRITABLE: there is a symbolic link, which a rename would replace and not follow.
    """
    found = _look(place.path, base)
    if found is not None:
        try:
            names = traces(found)
            if names and not _is_unused(found, names):
                raise VtpmError(
                    Code.ALREADY_PROVISIONED,
                    f"{place.path} has a TPM already: {', '.join(names[:3])}",
                    remedy=(
                        "choose another name; or use it, with a configuration of your own (vtpm.d(5)); or move it away"
                    ),
                )
        finally:
            found.close()
    if _is_link(place.path, base):
        raise VtpmError(
            Code.STATE_UNWRITABLE,
            f"{place.path} is a symbolic link; no TPM can be put in its place",
            remedy=f"name where it leads in [state] directory, vtpm.d(5); or remove the link: rm {quote(place.path)}",
        )


def _look(path: str, base: Optional[int] = None) -> Optional[Directory]:
    """The directory there, if there is one; with `base`, the one of that name in it."""
    try:
        fd = os.open(
            path if base is None else os.path.basename(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=base
        )
    except FileNotFoundError:
        return None
    except OSError as error:
        raise wrong_place(path) or read_error(path, error, denied=_AS_ROOT) from error
    return Directory(path, fd)


def _is_link(path: str, base: Optional[int]) -> bool:
    try:
        found = os.stat(path if base is None else os.path.basename(path), dir_fd=base, follow_symlinks=False)
    except OSError:
        return False
    return stat.S_ISLNK(found.st_mode)


def install(
    place: Place,
    version: str,
    payload: bytes,
    key: Optional[StateKey],
    finish: Optional[Callable[[], None]] = None,
    others: "Optional[dict[str, bytes]]" = None,
) -> None:
    """Put the permanent state in place, durably. `finish` then writes what else belongs to it, under the same lock.

    `others`: more files, encoded, by their names, which are there at the same moment.

    Raises:
        VtpmError ALREADY_PROVISIONED: there is a state. STATE_LOCKED, STATE_UNWRITABLE, STATE_FULL; and what `finish`
            raises.
    """
    with _opened(place.base) as base, _locked(base, place):
        refuse_existing(place, base)
        try:
            for name in os.listdir(base):
                if is_draft(name):
                    _remove(base, name)
            stays = _clear(base, place)
            if stays is None:
                _put(base, place, version, payload, key, others or {}, is_marked=finish is not None)
            else:
                with filling(stays, place.path, place.owner) as directory:
                    data = blob.encode_checked(payload, key)
                    fill(directory, version, data, others or {}, is_marked=finish is not None)
            if finish is not None:
                try:
                    with _as_before():
                        finish()
                except VtpmError as error:
                    if (
                        error.code is not Code.ALREADY_PROVISIONED
                    ):  # whoever was faster may be served from this state by now
                        with suppress(OSError, VtpmError):
                            _undo(base, place)
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


def _put(
    base: int,
    place: Place,
    version: str,
    payload: bytes,
    key: Optional[StateKey],
    others: "dict[str, bytes]",
    *,
    is_marked: bool,
) -> None:
    new = NEW + secrets.token_hex(4)
    os.mkdir(new, 0o700, dir_fd=base)
    try:
        path, folder = os.path.join(place.base, new), os.open(new, _FOLDER, dir_fd=base)
        try:
            with Store.open(path, version, key, os.dup(folder)) as store:
                store.store(PERMALL, payload)
            for name, data in others.items():
                Directory(path, folder).replace(name, NEW + "file", data)
            if is_marked:
                _write_marker(Directory(path, folder), version)
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


def _write_marker(folder: Directory, version: str) -> None:
    fd = os.open(MARKER, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder.fd)
    try:
        os.write(fd, _digest(folder, version))
        os.fsync(fd)
    finally:
        os.close(fd)


def _digest(folder: Directory, version: str) -> bytes:
    return hashlib.sha256(folder.read(file_name(version, PERMALL)) or b"").hexdigest().encode()


def _is_unused(folder: Directory, found: "list[str]") -> bool:
    """Was the state left by a run that was killed before it had written the configuration?"""
    if len(found) != 1:
        return False
    try:
        expected = folder.read(MARKER)
        return any(
            _digest(folder, version) == expected for version in ("1.2", "2.0") if found == [file_name(version, PERMALL)]
        )
    except VtpmError:  # no regular file, or larger than any state: somebody else's
        return False


def _clear(base: int, place: Place) -> Optional[int]:
    """Take away a directory without a state, or with one that nobody has used. What has to stay is given back, open."""
    try:
        folder = os.open(place.name, _FOLDER, dir_fd=base)
    except FileNotFoundError:
        return None
    try:
        names = os.listdir(folder)
        if OURS.issuperset(names):
            # a daemon that waits for its TPM to be powered on has a directory without a state, and would store into
            # what is gone
            is_lockable = LOCK_NAME in names
            lock: AbstractContextManager[object] = (
                StateLock.acquire(folder, place.path) if is_lockable else nullcontext()
            )
            with lock:
                aside = NEW + secrets.token_hex(4)
                try:
                    os.rename(place.name, aside, src_dir_fd=base, dst_dir_fd=base)
                except OSError as error:
                    if error.errno not in (errno.EBUSY, errno.EXDEV):  # something is mounted there
                        raise
                else:
                    _remove(base, aside)
                    return None
        return os.dup(folder)
    finally:
        os.close(folder)


def _undo(base: int, place: Place) -> None:
    stays = _clear(base, place)
    if stays is not None:
        with filling(stays, place.path, place.owner):
            pass


def _remove(base: int, name: str) -> None:
    """Remove as much as can be removed. Somebody else has put there what stays, and it is in nobody's way."""
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
def _opened(path: str) -> Iterator[int]:
    """The directory `path`, made by root if need be; root acts meanwhile as the user whom the way there leads to."""
    groups, gid = os.getgroups(), os.getegid()
    try:
        with _errors_of(path):
            base = _walk(os.path.realpath(path))
        try:
            yield base
        finally:
            os.close(base)
    finally:
        if os.geteuid() != os.getuid():
            os.seteuid(os.getuid())
            os.setegid(gid)
            os.setgroups(groups)


def _walk(path: str) -> int:
    parts = [part for part in path.split("/") if part]
    here = os.open("/", _STEP if parts else _FOLDER)
    for depth, part in enumerate(parts, 1):
        is_last = depth == len(parts)
        try:
            found = _step(here, part, is_last=is_last)
        finally:
            os.close(here)
        here = found
        owner = os.fstat(here)
        if os.geteuid() == 0 and owner.st_uid != 0:
            become(owner)
    return here


def _step(here: int, name: str, *, is_last: bool) -> int:
    flags = _FOLDER if is_last else _STEP
    try:
        return os.open(name, flags, dir_fd=here)
    except FileNotFoundError:
        if not is_last or os.getuid() != 0:
            raise
    with suppress(FileExistsError):
        os.mkdir(name, dir_fd=here)
    made = os.open(name, flags, dir_fd=here)
    os.fchmod(made, _BASE_MODE)  # whatever the umask: the service's user has to come through
    return made


@contextmanager
def _locked(base: int, place: Place) -> Iterator[None]:
    """Nobody else makes a TPM there meanwhile. The lock is not on the directory, which everybody who may read it could
    lock."""
    path = os.path.join(place.base, LOCK)
    deadline = time.monotonic() + LOCK_TIME_S
    while True:
        with _errors_of(path if os.path.lexists(path) else place.path):
            lock = os.open(
                LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600, dir_fd=base
            )
        try:
            if _take(lock, base, path):
                try:
                    yield
                finally:
                    with suppress(OSError):
                        os.unlink(LOCK, dir_fd=base)
                return
        finally:
            os.close(lock)
        if time.monotonic() > deadline:
            cause = f"{path} is held by another process, which makes a TPM"
            raise VtpmError(Code.STATE_LOCKED, cause, remedy=f"find it, as root: lsof {quote(path)}")
        time.sleep(0.005)


def _take(lock: int, base: int, path: str) -> bool:
    """False: somebody has it, or had it and has removed the file."""
    found = os.fstat(lock)
    if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077 or found.st_uid != os.geteuid() or found.st_nlink > 1:
        cause = f"{path} is not a lock made by us: others can hold it"
        raise VtpmError(Code.STATE_UNWRITABLE, cause, remedy=f"see whose it is (ls -l {quote(path)}), and remove it")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(found, os.stat(LOCK, dir_fd=base, follow_symlinks=False))
    except (BlockingIOError, FileNotFoundError):
        return False


@contextmanager
def _errors_of(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise write_error(path, error, denied=_AS_ROOT if os.getuid() else None) from error


@contextmanager
def _as_before() -> Iterator[None]:
    """Root once more, within _opened."""
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
