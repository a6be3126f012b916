"""Single files in one directory, read whole and replaced durably. Knows nothing of what is in them.

A replaced file costs one fsync of the file and one of the directory. At every moment in between, the name has its old
or its new content, whole; what a crash leaves behind is at most the temporary, under the name that swtpm gives its own.
"""

import errno
import os
import stat
from itertools import islice

from swtpm_svc.errors import Code, VtpmError, quote
from swtpm_svc.state.file_errors import UNTOUCHED, read_error, write_error
from swtpm_svc.wire.hints import Optional, TracebackType

MODE = 0o600
#: What swtpm makes its files with, less what the umask takes away.
_SWTPM_MODE = 0o640
#: No state of any TPM comes near this; a larger file is not read into memory.
MAX_SIZE = 16 << 20
_READ_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_WRITE_FLAGS = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_CREAT | os.O_TRUNC
#: The file system has no hard links, or not of this file (fs.protected_hardlinks).
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS)
#: The file system has no nameless files, or /proc is not there.
_NO_NAMELESS = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT, errno.ENOSYS)
#: What is being made, before it gets its name: these characters, and secrets.token_hex(4).
_DRAFT, _DRAFT_DIGITS = ".new-", 8
#: Another user may have filled a directory that is looked at.
NAMES_MAX = 10_000


def swtpm_mode() -> int:
    """The permission bits of a file that swtpm would make now."""
    umask = os.umask(0o077)
    os.umask(umask)
    return _SWTPM_MODE & ~umask


def is_draft(name: str) -> bool:
    """Is that a draft, left by a run that was killed? Others may have a .new-release there."""
    digits = name[len(_DRAFT) :]
    return name.startswith(_DRAFT) and len(digits) == _DRAFT_DIGITS and set(digits) <= set("0123456789abcdef")


class Directory:
    """An open directory. All names are relative to it, whatever becomes of its path. Owns the descriptor."""

    def __init__(self, path: str, fd: Optional[int] = None) -> None:
        """Open it, unless it is open already: `fd`. Raises: VtpmError STATE_MISSING, STATE_UNREADABLE."""
        self.path = path
        #: The permission bits of files that are written.
        self.mode = MODE
        #: Is each step durable before the next? Without, all of it takes part in what a loss of power takes.
        self.syncs = True
        if fd is not None:
            self.fd = fd
            return
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise VtpmError(
                Code.STATE_MISSING,
                f"the directory {path} does not exist",
                # the mount first: an empty directory, where a file system is not mounted, would mean a new TPM
                remedy="mount what belongs there; only where there never was a TPM, make it: "
                f"install -d -m 0700 -o {os.geteuid()} -g {os.getegid()} {quote(path)}",
            ) from None
        except NotADirectoryError:
            raise VtpmError(
                Code.STATE_MISSING,
                f"{path} is not a directory",
                remedy=f"see what it is: ls -ld {quote(path)}; name a directory in [state] directory",
            ) from None
        except OSError as error:
            raise read_error(path, error) from None

    def close(self) -> None:
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)

    def __enter__(self) -> "Directory":
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def path_of(self, name: str) -> str:
        return os.path.join(self.path, name)

    def names(self) -> set[str]:
        """Raises: VtpmError STATE_UNREADABLE: also where there are too many to be those of a TPM."""
        try:
            with os.scandir(self.fd) as entries:
                found = {entry.name for entry in islice(entries, NAMES_MAX + 1)}
        except OSError as error:
            raise read_error(self.path, error) from None
        if len(found) > NAMES_MAX:
            cause = f"{self.path} has more than {NAMES_MAX} files, which no TPM's directory has"
            raise VtpmError(Code.STATE_UNREADABLE, cause, remedy=f"see what they are: ls -bU {quote(self.path)} | head")
        return found

    def check_writable(self) -> None:
        """Raises: VtpmError STATE_UNWRITABLE."""
        _refuse_unwritable(self.fd, self.path, denied=None)

    def size(self, name: str) -> Optional[int]:
        """In bytes; None when there is no such file."""
        found = self.stat(name)
        return None if found is None else found.st_size

    def stat(self, name: str) -> Optional[os.stat_result]:
        """None when there is no such file. Raises: VtpmError STATE_UNREADABLE."""
        try:
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise read_error(self.path_of(name), error) from None

    def begins(self, name: str, *beginnings: bytes) -> bool:
        """Is that a regular file, to be read, with one of these beginnings?"""
        return begins(name, *beginnings, dir_fd=self.fd)

    def read(self, name: str) -> Optional[bytes]:
        """The whole file; None when there is none. Raises: VtpmError STATE_UNREADABLE, STATE_CORRUPT."""
        path = self.path_of(name)
        try:
            fd = os.open(name, _READ_FLAGS, dir_fd=self.fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise read_error(path, error) from None
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                remedy = f"see what it is: ls -ld {quote(path)}; {UNTOUCHED}"
                raise VtpmError(Code.STATE_UNREADABLE, f"{path} is not a regular file", remedy=remedy)
            if found.st_size > MAX_SIZE:
                cause = f"{path} has {found.st_size} bytes; no TPM's state is that large"
                raise VtpmError(Code.STATE_CORRUPT, cause, remedy=f"restore it from a backup; {UNTOUCHED}")
            return _read_all(fd, found.st_size)
        except OSError as error:
            raise read_error(path, error) from None
        finally:
            os.close(fd)

    def replace(self, name: str, temporary: str, data: bytes, *, keep_as: Optional[str] = None) -> None:
        """Make `data` the content of `name`, durable on return. `keep_as` then names what it was before.

        After a failure `name` has its old content and the temporary is gone. One exception: when only the last step
        failed (fsync of the directory) and there was an old content without `keep_as`, `name` has the new one, but may
        lose it with the power.

        Raises:
            VtpmError: STATE_FULL, STATE_UNWRITABLE
        """
        try:
            exists = self.stat(name) is not None
            kept = keep_as if exists else None
            if exists or not self._create(name, data):
                self._write(temporary, data)
                if kept:
                    self._keep(name, kept)
                os.rename(temporary, name, src_dir_fd=self.fd, dst_dir_fd=self.fd)
        except OSError as error:
            self._discard(temporary)
            raise write_error(self.path_of(name), error, is_kept=True) from None
        try:
            self._sync(self.fd)
        except OSError as error:
            if kept:
                self._put_back(kept, name)
            elif not exists:
                self._discard(name)
            raise write_error(self.path, error, is_kept=bool(kept) or not exists) from None

    def try_write(self, temporary: str, renamed: str, data: bytes) -> None:
        """Take all steps of `replace`, for nothing: both names are those of leftovers.

        Raises:
            VtpmError: STATE_FULL, STATE_UNWRITABLE
        """
        try:
            self._write(temporary, data)
            os.rename(temporary, renamed, src_dir_fd=self.fd, dst_dir_fd=self.fd)
            os.unlink(renamed, dir_fd=self.fd)
            self._sync(self.fd)
        except OSError as error:
            self._discard(temporary)
            self._discard(renamed)
            raise write_error(self.path_of(temporary), error, is_kept=True) from None

    def remove(self, name: str) -> bool:
        """Remove a file, durably. False when there was none. Raises: VtpmError STATE_UNWRITABLE."""
        try:
            os.unlink(name, dir_fd=self.fd)
            self._sync(self.fd)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise write_error(self.path_of(name), error) from None
        return True

    def rename(self, name: str, new_name: str) -> None:
        """Of a file that is there; durable. Raises: VtpmError STATE_UNWRITABLE."""
        try:
            os.rename(name, new_name, src_dir_fd=self.fd, dst_dir_fd=self.fd)
            self._sync(self.fd)
        except OSError as error:
            raise write_error(self.path_of(name), error) from None

    def exchange(self, name: str, other: str, temporary: str) -> None:
        """Each gets the other's name, durably. A crash on the way leaves `name` missing, or what it was as `temporary`.

        Raises: VtpmError STATE_UNWRITABLE.
        """
        try:
            for old, new in ((name, temporary), (other, name), (temporary, other)):
                os.rename(old, new, src_dir_fd=self.fd, dst_dir_fd=self.fd)
            self._sync(self.fd)
        except OSError as error:
            raise write_error(self.path_of(name), error) from None

    def change_mode(self, name: str) -> None:
        """To `mode`, of a file that is there. Raises: VtpmError STATE_UNWRITABLE."""
        try:
            fd = os.open(name, _READ_FLAGS, dir_fd=self.fd)
        except OSError:
            return  # there is none, or it is refused when it is read
        try:
            if stat.S_IMODE(os.fstat(fd).st_mode) != self.mode:
                os.fchmod(fd, self.mode)
        except OSError as error:
            raise write_error(self.path_of(name), error) from None
        finally:
            os.close(fd)

    def tidy(self, name: str) -> None:
        """Remove a leftover.

        It does not matter when it comes back after a loss of power. Raises: VtpmError STATE_UNWRITABLE.
        """
        try:
            os.unlink(name, dir_fd=self.fd)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise write_error(self.path_of(name), error) from None

    def _sync(self, fd: int) -> None:
        if self.syncs:
            os.fsync(fd)

    def _set_mode(self, fd: int) -> None:
        if self.mode != MODE:  # whatever the umask says
            os.fchmod(fd, self.mode)

    def _create(self, name: str, data: bytes) -> bool:
        """Make a file that was not there, without a temporary name: a crash during a TPM's first store leaves nothing
        behind.

        False when the file system cannot do that.
        """
        try:
            fd = os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, self.mode, dir_fd=self.fd)
        except OSError as error:
            if error.errno in _NO_NAMELESS:
                return False
            raise
        try:
            self._set_mode(fd)
            _write_all(fd, data)
            self._sync(fd)
            os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=self.fd, follow_symlinks=True)
        except OSError as error:
            if error.errno in _NO_NAMELESS:
                return False
            raise
        finally:
            os.close(fd)
        return True

    def _write(self, temporary: str, data: bytes) -> None:
        fd = os.open(temporary, _WRITE_FLAGS, self.mode, dir_fd=self.fd)
        try:
            self._set_mode(fd)
            _write_all(fd, data)
            self._sync(fd)
        finally:
            os.close(fd)

    def _keep(self, name: str, keep_as: str) -> None:
        """Give the old content a second name.

        No fsync: the content is durable, and the name becomes so with the new one's.
        """
        try:
            os.unlink(keep_as, dir_fd=self.fd)
        except FileNotFoundError:
            pass
        try:
            os.link(name, keep_as, src_dir_fd=self.fd, dst_dir_fd=self.fd, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            self._copy(name, keep_as)

    def _copy(self, name: str, target: str) -> None:
        data = self.read(name)
        fd = os.open(target, _WRITE_FLAGS, self.mode, dir_fd=self.fd)
        try:
            self._set_mode(fd)
            _write_all(fd, data or b"")
        finally:
            os.close(fd)

    def _put_back(self, kept: str, name: str) -> None:
        try:
            os.rename(kept, name, src_dir_fd=self.fd, dst_dir_fd=self.fd)
        except OSError:
            pass  # the directory is failing: there is an error to report already

    def _discard(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self.fd)
        except OSError:
            pass  # it was never made, or cannot be removed: the next start tidies up


def begins(path: str, *beginnings: bytes, dir_fd: Optional[int] = None) -> bool:
    """Is that a regular file, to be read, with one of these beginnings? Follows no link, and waits for nothing."""
    try:
        # first: to open a device can have an effect (a watchdog, a tape), and a link of another user's may lead into
        # /dev
        if not stat.S_ISREG(os.stat(path, dir_fd=dir_fd, follow_symlinks=False).st_mode):
            return False
        fd = os.open(path, _READ_FLAGS, dir_fd=dir_fd)
    except OSError:
        return False
    try:
        is_regular = stat.S_ISREG(os.fstat(fd).st_mode)
        return is_regular and os.read(fd, max(map(len, beginnings))).startswith(beginnings)
    except OSError:
        return False
    finally:
        os.close(fd)


def check_directory(path: str, *, denied: Optional[str] = None) -> None:
    """Can files be made there? Raises: VtpmError STATE_UNWRITABLE."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise write_error(path, error, denied=denied) from None
    try:
        _refuse_unwritable(fd, path, denied=denied)
    finally:
        os.close(fd)


def _refuse_unwritable(fd: int, path: str, *, denied: Optional[str]) -> None:
    if os.access(".", os.W_OK | os.X_OK, dir_fd=fd, effective_ids=True):
        return
    read_only = os.fstatvfs(fd).f_flag & os.ST_RDONLY
    raise write_error(path, OSError(errno.EROFS if read_only else errno.EACCES, ""), denied=denied)


def _read_all(fd: int, size: int) -> bytes:
    data = os.read(fd, size + 1)
    while 0 < len(data) < size:
        more = os.read(fd, size - len(data))
        if not more:
            break
        data += more
    return data


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
