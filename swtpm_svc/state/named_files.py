"""How a file that a person or a caller names is opened, whatever is there under the name.

A FIFO of which nobody has the other end would keep the opener for ever, and so would a terminal line without a
carrier: nothing here waits. A directory, a disk or a FIFO is refused before anything is read, written or cut off. What
a shell puts in a file's place, <(command) and >(command), is a pipe without a name, which somebody holds: it is taken.
"""

import errno
import fcntl
import os
import stat

#: With each name that somebody gives: the open file is closed on exec, and neither waited for nor made our terminal.
FLAGS = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
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


def _open(path: str, flags: int, mode: int = 0o600) -> int:
    try:
        return os.open(path, flags | FLAGS, mode)
    except ValueError as error:  # a name with a NUL in it
        raise OSError(errno.EINVAL, str(error), path) from None
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
