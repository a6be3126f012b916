"""The local CA's directory: a set of files that is there whole or not at all. Knows nothing of what is in them.

    DIRECTORY/             0700
      .lock                held (flock) by who makes or replaces the set
      current/             the set in use; who reads it needs no lock
      next/                whole, about to become current: a replacement cut short here is finished by the next one
      .new-XXXXXXXX/       being written; left by a crash, removed by the next one who has the lock
      replaced-TIME-XXXX/  what an import has replaced

What is written belongs to whom DIRECTORY belongs to, so that root can make a CA that the service's user reads. What
others could have put there is not used: not where they can write to DIRECTORY, and not what is another user's than
DIRECTORY is.
"""

import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple, Optional

from swtpm_svc.errors import Code, VtpmError, quote
from swtpm_svc.state.file_errors import read_error, write_error
from swtpm_svc.state.files import is_draft

#: Where the local CA is.
DIRECTORY = "/var/lib/vtpm-ca"
CURRENT, NEXT, NEW, REPLACED, LOCK = "current", "next", ".new-", "replaced-", ".lock"
#: More than any chain or key; what is larger is not read into memory.
FILE_MAX_BYTES = 1 << 20
_FILES_MAX = 16
#: The lock is held for as long as two keys and some fsyncs take.
LOCK_TIME_S = 60.0
RESTORE = "restore the directory of the CA from a backup; nothing was changed"
_AS_OWNER = "do this as root, or as the user that the CA belongs to"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def unusable(path: str, cause: str, remedy: str = RESTORE) -> VtpmError:
    """A CA that is there and cannot be used.

    It is never replaced by a new one: what it has signed would be worth nothing.
    """
    return VtpmError(Code.CA_UNUSABLE, f"{path} {cause}", remedy=remedy)


def option(directory: str) -> str:
    """The option that names this CA in a remedy's command, which would otherwise be about the one in DIRECTORY."""
    return "" if directory == DIRECTORY else f" --ca {quote(directory)}"


class FileSet(NamedTuple):
    """The files of a set by their names, and the user and group that the set belongs to."""

    files: "dict[str, bytes]"
    uid: int
    gid: int


class CaDirectory:
    """One CA's directory, which need not exist yet."""

    def __init__(self, path: str) -> None:
        self.path = path

    def file(self, name: str) -> str:
        """The path of a file of the set in use, for messages."""
        return os.path.join(self.path, CURRENT, name)

    def read(self) -> Optional[FileSet]:
        """The set in use; None when there is none.

        Raises:
            VtpmError CA_UNUSABLE: something is damaged, or others may read it. STATE_UNREADABLE: it may not be read.
        """
        found = self._read_current()
        if found is None and os.path.lexists(os.path.join(self.path, NEXT)):
            with self.locked():  # a replacement is under way, or was cut short
                pass
            found = self._read_current()
        return found

    def _read_current(self) -> Optional[FileSet]:
        path = os.path.join(self.path, CURRENT)
        try:
            above = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                _refuse_writable(above, self.path, self.path)
                folder = os.open(CURRENT, _FOLDER, dir_fd=above)
                owner = os.fstat(above)
            finally:
                os.close(above)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unreadable(path, error) from error
        try:
            found = os.fstat(folder)
            if found.st_uid != owner.st_uid:
                cause = f"belongs to the user {found.st_uid}, and {self.path} to {owner.st_uid}"
                raise unusable(path, cause, f"see who put it there: ls -l {quote(self.path)}")
            _refuse_writable(folder, path, self.path)
            names = sorted(os.listdir(folder))
            if len(names) > _FILES_MAX:
                raise unusable(path, f"has {len(names)} files, which no CA has")
            return FileSet({name: self._read_file(folder, name) for name in names}, found.st_uid, found.st_gid)
        except OSError as error:
            raise self._unreadable(path, error) from error
        finally:
            os.close(folder)

    def _read_file(self, folder: int, name: str) -> bytes:
        path = self.file(name)
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        except OSError as error:
            raise self._unreadable(path, error) from error
        with open(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise unusable(path, "is not a regular file")
            if found.st_mode & 0o077:
                another = f"vtpmctl ca import --force{option(self.path)}"
                remedy = f"chmod 600 {quote(path)}; if others can have read a key there, have another CA: {another}"
                raise unusable(path, f"has the mode {found.st_mode & 0o777:04o}, others may use it", remedy)
            if found.st_uid not in (os.geteuid(), 0, os.fstat(folder).st_uid):
                raise unusable(
                    path,
                    f"belongs to the user {found.st_uid}, not to the CA's",
                    f"see who put it there: ls -l {quote(path)}",
                )
            return file.read(FILE_MAX_BYTES)

    @staticmethod
    def _unreadable(path: str, error: OSError) -> VtpmError:
        if isinstance(error, PermissionError):
            return read_error(path, error, denied=_AS_OWNER)
        return unusable(path, f"cannot be read: {error.strerror}")

    @contextmanager
    def locked(self) -> Iterator["LockedCaDirectory"]:
        """The directory, made if need be, with its lock; what a crash has left in it is settled.

        Raises:
            VtpmError CA_UNUSABLE, STATE_LOCKED, STATE_UNWRITABLE, STATE_FULL.
        """
        try:
            with suppress(FileExistsError):
                os.mkdir(self.path, 0o700)
            folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise _write_error(self.path, error) from error
        try:
            _refuse_writable(folder, self.path, self.path)
            lock = self._lock(folder)
            try:
                locked = LockedCaDirectory(self.path, folder)
                locked.settle()
                yield locked
            finally:
                os.close(lock)
        finally:
            os.close(folder)

    def _lock(self, folder: int) -> int:
        path = os.path.join(self.path, LOCK)
        try:
            lock = os.open(
                LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600, dir_fd=folder
            )
        except OSError as error:
            raise _write_error(path, error) from error
        try:
            self._make_lock_owners(lock, folder, path)
            deadline = time.monotonic() + LOCK_TIME_S
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return lock
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise VtpmError(
                            Code.STATE_LOCKED,
                            f"{path} is held by another process",
                            remedy=f"find it, as root: lsof {quote(path)}; and stop it",
                        ) from None
                    time.sleep(0.005)
        except OSError as error:
            os.close(lock)
            raise _write_error(path, error) from error
        except BaseException:
            os.close(lock)
            raise

    @staticmethod
    def _make_lock_owners(lock: int, folder: int, path: str) -> None:
        """Let only its owner hold the lock. Root gives away nothing but the empty file that it has just made."""
        found, owner = os.fstat(lock), os.fstat(folder)
        is_plain = stat.S_ISREG(found.st_mode) and found.st_nlink == 1
        is_new = found.st_uid == os.geteuid() and found.st_size == 0
        if not is_plain or not (is_new or found.st_uid == owner.st_uid):
            cause = f"is not a lock that was made here: a link, or the user {found.st_uid}'s"
            raise unusable(path, cause, f"see what it is (ls -l {quote(path)}), and remove it")
        _give_to_owner(lock, folder)
        if found.st_mode & 0o077:
            os.fchmod(lock, 0o600)


class LockedCaDirectory:
    """What the holder of the lock can do.

    Paths are relative to the open directory: nobody can put another in its place.
    """

    def __init__(self, path: str, folder: int) -> None:
        self.path = path
        self._folder = folder

    def settle(self) -> None:
        """Finish the replacement, and remove the drafts, of processes that are gone: whoever had the lock before."""
        try:
            names = os.listdir(self._folder)
            for name in names:
                if is_draft(name):
                    self._remove(name)
            if NEXT in names:
                self._promote()
        except OSError as error:
            raise _write_error(self.path, error) from error

    def is_in_use(self) -> bool:
        """Whether there is a set, good or not."""
        return CURRENT in os.listdir(self._folder)

    def refuse_leftovers(self) -> None:
        """A first CA is made only where there never was one.

        Raises:
            VtpmError CA_UNUSABLE: the directory holds something else.
        """
        found = sorted(set(os.listdir(self._folder)) - {LOCK})
        if found:
            raise unusable(
                self.path,
                f"has no CA in {CURRENT}, but is not empty: {', '.join(found[:3])}",
                "name an empty or a new directory; if there was a CA in this one, put it back as "
                f"{quote(self.path)}/{CURRENT}",
            )

    def replace(self, files: "dict[str, bytes]") -> Optional[str]:
        """Make `files` the set in use, and return the path at which the set before is kept, if there was one."""
        new = NEW + secrets.token_hex(4)
        try:
            self._write(new, files)
            os.rename(new, NEXT, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            return self._promote()
        except OSError as error:
            with suppress(OSError):
                self._remove(new)
            raise _write_error(self.path, error) from error

    def _promote(self) -> Optional[str]:
        kept = f"{REPLACED}{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(2)}"
        try:
            os.rename(CURRENT, kept, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except FileNotFoundError:
            kept = ""
        os.rename(NEXT, CURRENT, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        os.fsync(self._folder)
        return os.path.join(self.path, kept) if kept else None

    def _write(self, name: str, files: "dict[str, bytes]") -> None:
        os.mkdir(name, 0o700, dir_fd=self._folder)
        folder = os.open(name, _FOLDER, dir_fd=self._folder)
        try:
            for file_name, content in files.items():
                descriptor = os.open(
                    file_name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder
                )
                with open(descriptor, "wb") as file:
                    file.write(content)
                    file.flush()
                    _give_to_owner(descriptor, self._folder)
                    os.fsync(descriptor)
            _give_to_owner(folder, self._folder)
            os.fsync(folder)
        finally:
            os.close(folder)

    def _remove(self, name: str) -> None:
        folder = os.open(name, _FOLDER, dir_fd=self._folder)
        try:
            for file_name in os.listdir(folder):
                os.unlink(file_name, dir_fd=folder)
        finally:
            os.close(folder)
        os.rmdir(name, dir_fd=self._folder)


def _refuse_writable(folder: int, path: str, directory: str) -> None:
    if os.fstat(folder).st_mode & 0o022:
        raise unusable(path, "may be written by others", _close_remedy(path, directory))


def _close_remedy(path: str, directory: str) -> str:
    """The remedy closes what is in a CA's directory, or the directory if it has nothing else: /tmp, named by mistake,
    stays as it is."""
    try:
        names = set(os.listdir(directory))
        is_everybodys = bool(os.stat(directory).st_mode & stat.S_ISVTX)
    except OSError:
        names, is_everybodys = set(), True
    others = [name for name in names if name not in (CURRENT, NEXT, LOCK) and not name.startswith((NEW, REPLACED))]
    if is_everybodys or (others and CURRENT not in names):
        return "name a directory that has nothing but the CA in it: --ca DIR, or ca in [provision]"
    if others:
        return f"move what is not the CA's to another place: ls -la {quote(directory)}; then chmod go-w {quote(path)}"
    return f"see that nothing in it is a stranger's: ls -laR {quote(path)}; then chmod go-w {quote(path)}"


def _write_error(path: str, error: OSError) -> VtpmError:
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        remedy = f"see which directory is missing: namei -l {quote(os.path.abspath(path))}; and make that first"
        return VtpmError(Code.STATE_UNWRITABLE, f"{path} cannot be made: {error.strerror}", remedy=remedy)
    return write_error(path, error, denied=_AS_OWNER)


def _give_to_owner(descriptor: int, folder: int) -> None:
    owner, ours = os.fstat(folder), os.fstat(descriptor)
    if (owner.st_uid, owner.st_gid) != (ours.st_uid, ours.st_gid) and os.geteuid() == 0:
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
