"""How a file that a person or a caller names is opened, whatever is there under the name.

A FIFO of which nobody has the other end would keep the opener for ever, and so would a terminal line without a
carrier: nothing here waits. A directory, a disk or a FIFO is refused before anything is read, written or cut off. What
a shell puts in a file's place, <(command) and >(command), is a pipe without a name, which somebody holds: it is taken.
"""

import errno
import fcntl
import os
import stat

from swtpm_svc.wire.hints import Optional

#: With each name that somebody gives: the open file is closed on exec, and neither waited for nor made our terminal.
FLAGS = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
#: Why a folder does not take a new file in the place of one: it is not ours to write to, or that file is mounted there.
_NO_NEW_FILE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY)
_WHAT = {
    stat.S_IFDIR: os.strerror(errno.EISDIR),
    stat.S_IFBLK: "it is a block device",
    stat.S_IFCHR: "it is a character device",
    stat.S_IFIFO: "it is a named pipe",
    stat.S_IFSOCK: "it is a socket",
}


def open_input(path: str) -> int:
    """A descriptor for reading from a regular file, a character device or a pipe of the caller's.

    Raises:
        OSError
    """
    return _kept(_open(path, os.O_RDONLY), path, takes_devices=True)


def open_regular(path: str, flags: int, mode: int = 0o600) -> int:
    """The same of a regular file and nothing else, with the `flags` of open(2).

    Raises:
        OSError
    """
    return _kept(_open(path, flags & ~os.O_TRUNC, mode), path, cut=bool(flags & os.O_TRUNC))


def open_output(path: str, flags: int, mode: int, *, takes_readers: bool = False) -> int:
    """A descriptor for writing, with these `flags` besides, to a regular file, a character device or a pipe of the
    caller's.

    `takes_readers`: to a named pipe, too, while somebody reads it. What there is no room for in it is then lost, and
    nobody waits.

    Raises:
        OSError
    """
    fd = _open(path, (flags | os.O_WRONLY) & ~os.O_TRUNC, mode)
    return _kept(fd, path, takes_devices=True, takes_readers=takes_readers, cut=bool(flags & os.O_TRUNC))


def read_input(path: str, max_bytes: int) -> bytes:
    """All of a file, and no more than `max_bytes`.

    Raises:
        OSError
    """
    with open(open_input(path), "rb") as file:
        return file.read(max_bytes) or b""  # None: a device has nothing now


def replace(
    path: str, content: bytes, mode: int, *, is_exact: bool = False, syncs: bool = False, in_place: bool = False
) -> None:
    """Make `content` that of a regular file, which has what it had before until all of it is written.

    The file is a new one with this `mode`, less the umask unless it `is_exact`. `syncs`: all of it is on the disk on
    return. `in_place`: what cannot be replaced is written into: a character device; or a file in a folder that takes no
    new one, as the caller may have been given that file alone (a container's mount).

    Raises:
        OSError: also of a symbolic link, and of anything else that is no file.
    """
    found = _stat(path)
    kind = stat.S_IFREG if found is None else stat.S_IFMT(found.st_mode)
    if kind == stat.S_IFLNK:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
    is_device = in_place and kind == stat.S_IFCHR
    if kind != stat.S_IFREG and not is_device:
        raise OSError(errno.EINVAL, _WHAT.get(kind, "it is no regular file"), path)
    try:
        if not is_device:
            _replace(path, content, mode if is_exact else None, mode, syncs=syncs)
            return
    except OSError as error:
        if not in_place or found is None or error.errno not in _NO_NEW_FILE:
            error.filename = path  # write() names none, and the new file is nobody's business
            raise
    fd = open_output(path, os.O_TRUNC | os.O_NOFOLLOW, mode)
    _fill(fd, content, mode if is_exact and not is_device else None, syncs=syncs)


def refuse_unwritable(fd: int, *, only_regular: bool = False) -> None:
    """Of a descriptor that the caller passes: is it open for writing?

    Raises:
        OSError
    """
    try:
        kind = stat.S_IFMT(os.fstat(fd).st_mode)
    except OverflowError:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None
    if kind == stat.S_IFDIR or (only_regular and kind != stat.S_IFREG):
        raise OSError(errno.EINVAL, _WHAT.get(kind, "it is no regular file"))
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, "it is not open for writing")


def _stat(path: str) -> Optional[os.stat_result]:
    try:
        return os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _replace(path: str, content: bytes, mode: Optional[int], created_mode: int, *, syncs: bool) -> None:
    folder, name = os.path.split(path)
    new = os.path.join(folder, f".{name[:200]}.{os.urandom(6).hex()}")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, created_mode)
    try:
        _fill(fd, content, mode, syncs=syncs)
        os.rename(new, path)
    except BaseException:
        os.unlink(new)
        raise
    if syncs:
        fd = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _fill(fd: int, content: bytes, mode: Optional[int], *, syncs: bool) -> None:
    with open(fd, "wb") as file:
        if mode is not None:
            os.fchmod(fd, mode)
        file.write(content)
        file.flush()
        if syncs:
            os.fsync(fd)


def _open(path: str, flags: int, mode: int = 0o600) -> int:
    try:
        return os.open(path, flags | FLAGS, mode)
    except ValueError:  # a name with a NUL in it, which each version of Python words otherwise
        raise OSError(errno.EINVAL, "embedded null byte", path) from None
    except OSError as error:
        # open() says "no such device or address" of both
        if error.errno != errno.ENXIO:
            raise
        kind = stat.S_IFMT(os.stat(path, follow_symlinks=not flags & os.O_NOFOLLOW).st_mode)
        if kind == stat.S_IFIFO:
            raise OSError(errno.ENXIO, "it is a named pipe, and nobody reads it", path) from None
        raise OSError(errno.ENXIO, _WHAT.get(kind, error.strerror), path) from None


def _kept(fd: int, path: str, *, takes_devices: bool = False, takes_readers: bool = False, cut: bool = False) -> int:
    """The descriptor, if what it is of is taken; else it is closed."""
    try:
        kind = stat.S_IFMT(os.fstat(fd).st_mode)
        is_taken = kind == stat.S_IFREG
        if takes_devices and kind == stat.S_IFIFO and _has_no_name(fd):
            os.set_blocking(fd, True)  # its other end is somebody's who has started us
            is_taken = True
        elif takes_devices and kind == stat.S_IFCHR:
            os.set_blocking(fd, os.isatty(fd))  # a person types
            is_taken = True
        elif takes_readers and kind == stat.S_IFIFO:
            is_taken = True
        if not is_taken:
            raise OSError(errno.EINVAL, _WHAT.get(kind, "it is no regular file"), path)
        if cut and kind == stat.S_IFREG:
            os.ftruncate(fd, 0)
        return fd
    except OSError:
        os.close(fd)
        raise


def _has_no_name(fd: int) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:")
    except OSError:
        return False  # nobody's <(command) was opened without /proc
