"""Single files in one directory, read whole and replaced durably. Knows nothing of what is in them.

A replaced file costs one fsync of the file and one of the directory. At every moment in between, the name has its old or its new
content, whole; what a crash leaves behind is at most the temporary, under the name that swtpm gives its own.
"""

import errno
import os
import stat
from typing import Optional

from swtpm_svc.errors import Code, VtpmError

MODE = 0o600
#: No state of any TPM comes near this; a larger file is not read into memory.
MAX_SIZE = 16 << 20
_READ_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_WRITE_FLAGS = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_CREAT | os.O_TRUNC
#: The file system has no hard links, or not of this file (fs.protected_hardlinks).
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS)
#: The file system has no nameless files, or /proc is not there.
_NO_NAMELESS = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT, errno.ENOSYS)
_UNTOUCHED = "nothing was changed"
#: What there is to do when a system call has failed. {path}: what it was about; {folder}: where that is.
_REMEDIES = {
    errno.ENOSPC: "make room on its file system",
    errno.EDQUOT: "make room, or have the quota raised",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f, LimitFSIZE=)",
    errno.EROFS: "mount its file system read-write",
    errno.EBUSY: "unmount what is mounted there, or name another directory",
    errno.ENOENT: "make the directory that is missing: mkdir -p {folder}",
    errno.ENOTDIR: "see what is in the place of a directory: ls -ld {folder} {path}",
    errno.EISDIR: "move away the directory that is in its place: {path}",
    errno.ELOOP: "put the file itself there",
}
_DISK = "see the kernel's log (journalctl -k) for a failing disk"


class Directory:
    """An open directory. All names are relative to it, whatever becomes of its path. Owns the descriptor."""

    def __init__(self, path: str) -> None:
        """Open it. Raises: VtpmError STATE_MISSING, STATE_UNREADABLE."""
        self.path = path
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise VtpmError(
                Code.STATE_MISSING,
                f"the directory {path} does not exist",
                remedy=f"make it: install -d -m 0700 -o {os.geteuid()} -g {os.getegid()} {path}",
            ) from None
        except NotADirectoryError:
            raise VtpmError(
                Code.STATE_MISSING, f"{path} is not a directory", remedy="name a directory in [state] directory"
            ) from None
        except OSError as error:
            raise read_error(path, error) from None

    def close(self) -> None:
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)

    def path_of(self, name: str) -> str:
        return os.path.join(self.path, name)

    def names(self) -> set[str]:
        """Raises: VtpmError STATE_UNREADABLE."""
        try:
            return set(os.listdir(self.fd))
        except OSError as error:
            raise read_error(self.path, error) from None

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
                raise VtpmError(Code.STATE_UNREADABLE, f"{path} is no regular file", remedy=f"see what it is; {_UNTOUCHED}")
            if found.st_size > MAX_SIZE:
                cause = f"{path} has {found.st_size} bytes; no TPM's state is that large"
                raise VtpmError(Code.STATE_CORRUPT, cause, remedy=f"restore it from a backup; {_UNTOUCHED}")
            return _read_all(fd, found.st_size)
        except OSError as error:
            raise read_error(path, error) from None
        finally:
            os.close(fd)

    def replace(self, name: str, temporary: str, data: bytes, *, keep_as: Optional[str] = None) -> None:
        """Make `data` the content of `name`, durable on return. `keep_as` then names what it was before.

        After a failure `name` has its old content and the temporary is gone. One exception: when only the last step failed
        (fsync of the directory) and there was an old content without `keep_as`, `name` has the new one, but may lose it with
        the power.

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
            os.fsync(self.fd)
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
            os.fsync(self.fd)
        except OSError as error:
            self._discard(temporary)
            self._discard(renamed)
            raise write_error(self.path_of(temporary), error, is_kept=True) from None

    def remove(self, name: str) -> bool:
        """Remove a file, durably. False when there was none. Raises: VtpmError STATE_UNWRITABLE."""
        try:
            os.unlink(name, dir_fd=self.fd)
            os.fsync(self.fd)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise write_error(self.path_of(name), error) from None
        return True

    def set_aside(self, name: str, new_name: str) -> bool:
        """Rename a file; durable with the next replace(). False when there is none. Raises: VtpmError STATE_UNWRITABLE."""
        try:
            os.rename(name, new_name, src_dir_fd=self.fd, dst_dir_fd=self.fd)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise write_error(self.path_of(name), error) from None
        return True

    def tidy(self, name: str) -> None:
        """Remove a leftover. It does not matter when it comes back after a loss of power. Raises: VtpmError STATE_UNWRITABLE."""
        try:
            os.unlink(name, dir_fd=self.fd)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise write_error(self.path_of(name), error) from None

    def _create(self, name: str, data: bytes) -> bool:
        """Make a file that was not there, without a temporary name: a crash during a TPM's first store leaves nothing behind.

        False when the file system cannot do that.
        """
        try:
            fd = os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, MODE, dir_fd=self.fd)
        except OSError as error:
            if error.errno in _NO_NAMELESS:
                return False
            raise
        try:
            _write_all(fd, data)
            os.fsync(fd)
            os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=self.fd, follow_symlinks=True)
        except OSError as error:
            if error.errno in _NO_NAMELESS:
                return False
            raise
        finally:
            os.close(fd)
        return True

    def _write(self, temporary: str, data: bytes) -> None:
        fd = os.open(temporary, _WRITE_FLAGS, MODE, dir_fd=self.fd)
        try:
            _write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)

    def _keep(self, name: str, keep_as: str) -> None:
        """Give the old content a second name. No fsync: the content is durable, and the name becomes so with the new one's."""
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
        fd = os.open(target, _WRITE_FLAGS, MODE, dir_fd=self.fd)
        try:
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


def write_error(path: str, error: OSError, *, is_kept: bool = False, denied: Optional[str] = None) -> VtpmError:
    """What a failed write of `path` is to the person who must mend it.

    `is_kept`: what was there before is there still. `denied`: the remedy for missing rights, where they are not the service's.
    """
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    remedy = _remedy(path, error, denied) + ("; the state is as it was before" if is_kept else "")
    code = Code.STATE_FULL if full else Code.STATE_UNWRITABLE
    return VtpmError(code, f"{path} cannot be written: {_cause(error)}", remedy=remedy)


def read_error(path: str, error: OSError, *, denied: Optional[str] = None) -> VtpmError:
    """The same of a failed read."""
    remedy = f"{_remedy(path, error, denied)}; {_UNTOUCHED}"
    return VtpmError(Code.STATE_UNREADABLE, f"{path} cannot be read: {_cause(error)}", remedy=remedy)


def _cause(error: OSError) -> str:
    return "it is a symbolic link" if error.errno == errno.ELOOP else os.strerror(error.errno or 0)


def _remedy(path: str, error: OSError, denied: Optional[str]) -> str:
    folder = os.path.dirname(path)
    if error.errno in (errno.EACCES, errno.EPERM):
        there = path if os.path.lexists(path) else folder
        if os.geteuid() == 0:
            return f"see what keeps root from it: ls -ldZ {there}; lsattr -d {there}; findmnt -T {there}"
        return denied or f"give it to the user that this runs as: chown -R {os.geteuid()}:{os.getegid()} {there}"
    if error.errno == errno.ENOENT and os.path.isdir(folder):
        folder = path
    return _REMEDIES.get(error.errno or 0, _DISK).format(path=path, folder=folder)


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
