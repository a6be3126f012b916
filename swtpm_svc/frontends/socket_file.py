"""The file of a UNIX socket: made with its owner and permission bits, in a folder where others may make files, too.

What is done to a path there may be done to what another user has put in its place. So the bits are right when the
file is made, and owner, group and what an access list of the folder took from the bits are given to the file that was
seen to be ours.
"""

import errno
import os
import stat

from swtpm_svc.frontends import plain_socket as socket


def bind(sock: socket.socket, path: str, mode: int, uid: int = -1, gid: int = -1) -> None:
    """Bind `sock` to `path`; -1 leaves the owner or group as it is made.

    Nobody connects before owner and group are right: until then the file is its owner's alone. After a failure there
    is none.

    Raises:
        OSError
    """
    is_given = (uid, gid) != (-1, -1)
    mask = os.umask(0o777 & ~(mode & 0o700 if is_given else mode))
    try:
        sock.bind(path)
    finally:
        os.umask(mask)
    try:
        _settle(path, mode, uid, gid)
    except OSError:
        remove(path)
        raise


def give(path: str, gid: int) -> None:
    """To another group. Raises: OSError."""
    with _Found(path) as found:
        found.chown(-1, gid)


def remove(path: str) -> None:
    """What is there, if it is a socket."""
    try:
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)
    except OSError:
        pass


def _settle(path: str, mode: int, uid: int, gid: int) -> None:
    with _Found(path) as found:
        if (uid, gid) != (-1, -1):
            found.chown(uid, gid)
        found.chmod(mode)


class _Found:
    """The file that is at a path, whatever the path leads to later; a context manager.

    Raises:
        OSError: it is not a socket that this process has made.
    """

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        found = os.fstat(self._fd)
        if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink != 1:
            os.close(self._fd)
            raise OSError(errno.EEXIST, "somebody else has put a file there", path)
        self._mode = stat.S_IMODE(found.st_mode)
        # the one way to these two calls that takes such a descriptor; a root of the caller's may have no /proc
        way = f"/proc/self/fd/{self._fd}"
        self._way = way if os.path.exists(way) else path

    def __enter__(self) -> "_Found":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def chown(self, uid: int, gid: int) -> None:
        os.chown(self._way, uid, gid)

    def chmod(self, mode: int) -> None:
        if mode != self._mode:
            os.chmod(self._way, mode)
