"""Mounts a FUSE file system for a TPM at a directory, finds its mounts again, and takes them away.

Root calls mount(2) and umount2(2); anybody else asks fusermount3(1), which is set-user-ID root. Either way the result
is a descriptor of /dev/fuse that is mounted and waits for a server. The mount is recognised by its type in
/proc/self/mountinfo (proc(5)); no other file system is ever touched.
"""

import array
import errno
import os
import re
import socket
import stat
import threading
from typing import NamedTuple, Optional

from swtpm_svc.errors import NAME, Code, VtpmError, quote

#: The name of a mounted descriptor that root hands to the daemon (vtpm-attach).
PASSED_NAME = "fuse"

SOURCE = "vtpm"
TYPE = "fuse.vtpm"
_FUSE_DEVICE = "/dev/fuse"
_MOUNTS = "/proc/self/mountinfo"
_FUSE_NUMBER = (10, 229)  # Linux, Documentation/admin-guide/devices.txt

# sys/mount.h
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 2, 4, 8
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8

#: How long a mount may take to say whether somebody serves it.
_ANSWER_TIMEOUT_S = 5
_HELPER_TIMEOUT_S = 30

_FREE_IT = "give [fuse] an empty directory of its own"  # and leave this one as it is


class Mount(NamedTuple):
    """A line of mountinfo, as far as it matters here."""

    point: str
    type: str
    source: str


def mount(directory: str) -> int:
    """Mount at the empty `directory`; the descriptor of /dev/fuse to serve.

    What a server that is gone left there is taken away first.

    Raises:
        VtpmError FUSE_UNAVAILABLE: no FUSE here. MOUNT_FAILED: not at this directory.
    """
    _make_free(directory)
    if os.geteuid() == 0:
        return _mount_as_root(directory)
    return _mount_by_helper(directory)


def make_directory(directory: str) -> bool:
    """Make the directory for a mount, if there is none yet and its parent is there; was it made?"""
    mask = os.umask(0o022)
    try:
        os.mkdir(directory)
        return True
    except OSError:
        return False  # what is there, or is not, is told when it is mounted
    finally:
        os.umask(mask)


def unmount(directory: str) -> None:
    """Take our mount at `directory` away, also while files on it are open; nothing if there is none.

    Raises:
        VtpmError MOUNT_FAILED
    """
    if not is_ours(directory):
        return
    point = _resolve(directory)
    if os.geteuid() == 0:
        error = _umount2(point)
        reason = os.strerror(error) if error else ""
    else:
        reason = _run_helper(["-u", "-z", "--", point])
    if reason and is_ours(directory):
        raise VtpmError(
            Code.MOUNT_FAILED,
            f"{directory} cannot be unmounted: {reason}",
            remedy=f"as root: umount --lazy {quote(directory)}",
        )


def is_ours(directory: str) -> bool:
    """Is what is mounted at `directory`, on top if it is several, a file system of ours?"""
    mounts = mounts_at(directory)
    return bool(mounts) and mounts[-1].type == TYPE


def has_on_it(path: str) -> bool:
    """Is `path` a mount of ours, or below one? Whoever looks at one waits for ever if its service hangs."""
    with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as file:
        if f" {TYPE} " not in file.read():
            return False  # the answer nearly always, for each path of each instance
    parts = os.path.abspath(path).split("/")
    return any(is_ours("/".join(parts[:depth])) for depth in range(2, len(parts) + 1))  # from above, and no further


def mounts_at(directory: str) -> "list[Mount]":
    """What is mounted at exactly this directory, from the bottom to the top."""
    point = _resolve(directory)
    with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as file:
        return [mount for mount in map(_parse, file) if mount.point == point]


def check_descriptor(fd: int) -> None:
    """
    Raises:
        VtpmError MOUNT_FAILED: it is not a descriptor of /dev/fuse.
    """
    try:
        status = os.fstat(fd)
        is_fuse = stat.S_ISCHR(status.st_mode) and (os.major(status.st_rdev), os.minor(status.st_rdev)) == _FUSE_NUMBER
    except OSError:
        is_fuse = False
    if not is_fuse:
        raise VtpmError(
            Code.MOUNT_FAILED,
            f"descriptor {fd} was passed as a mounted {_FUSE_DEVICE}, which it is not",
            remedy=f"see what was changed in the unit: systemctl cat vtpm@{NAME}.service",
        )


def _parse(line: str) -> Mount:
    before, _, after = line.partition(" - ")  # optional fields come before it
    kind, source = after.split(" ")[:2]
    return Mount(_unescape(before.split(" ")[4]), kind, _unescape(source))


def _unescape(field: str) -> str:
    """The kernel writes space, tab, newline and backslash as three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _resolve(directory: str) -> str:
    # not realpath() of all of it: a mount whose server is gone cannot even be looked at
    parent, name = os.path.split(os.path.abspath(directory))
    return os.path.join(os.path.realpath(parent), name)


def _make_free(directory: str) -> None:
    """See that `directory` is an empty directory with nothing mounted on it, but for what a dead server left."""
    while is_ours(directory):
        if _is_served(directory):
            raise VtpmError(
                Code.MOUNT_FAILED,
                f"{directory} is a mount that another service serves",
                remedy="stop that one first, or give each instance a [fuse] directory of its own",
            )
        unmount(directory)
    mounts = mounts_at(directory)
    if mounts:
        raise VtpmError(
            Code.MOUNT_FAILED, f"{directory} has a {mounts[-1].type} file system mounted on it", remedy=_FREE_IT
        )
    try:
        if os.listdir(directory):
            raise VtpmError(Code.MOUNT_FAILED, f"{directory} is not empty", remedy=_FREE_IT)
    except FileNotFoundError as error:
        raise VtpmError(
            Code.MOUNT_FAILED,
            f"{directory} does not exist",
            remedy=f"make it: mkdir -p {quote(directory)}; or name another one",
        ) from error
    except OSError as error:
        raise VtpmError(Code.MOUNT_FAILED, f"{directory}: {error.strerror}", remedy=_FREE_IT) from error


def _is_served(directory: str) -> bool:
    """Does anybody answer for the mount? One that hangs counts as served: only a dead one is ours to take away."""
    dead = threading.Event()

    def look() -> None:
        try:
            os.stat(directory)
        except OSError as error:
            if error.errno in (errno.ENOTCONN, errno.ECONNABORTED):
                dead.set()

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(_ANSWER_TIMEOUT_S)
    return not dead.is_set()


def _mount_as_root(directory: str) -> int:
    try:
        fd = os.open(_FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise VtpmError(
            Code.FUSE_UNAVAILABLE,
            f"{_FUSE_DEVICE}: {error.strerror}",
            remedy="modprobe fuse; a container needs the device: --device /dev/fuse",
        ) from error
    options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other"
    error_number = _mount(_resolve(directory), options)
    if error_number:
        os.close(fd)
        raise VtpmError(
            Code.MOUNT_FAILED,
            f"cannot mount at {directory}: {os.strerror(error_number)}",
            remedy="mounting takes CAP_SYS_ADMIN, which a container may lack",
        )
    return fd


# ctypes is imported where it is needed: it wants memory that is writable and executable, which the service's sandbox,
# where nothing is mounted, does not let anybody have.


def _mount(point: str, options: str) -> int:
    """mount(2); returns the errno."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    flags = ctypes.c_ulong(_MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    try:
        # the directory above may be another user's, who must not lead root elsewhere with a link
        target = os.open(point, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        return error.errno or errno.EIO
    try:
        failed = libc.mount(SOURCE.encode(), f"/proc/self/fd/{target}".encode(), TYPE.encode(), flags, options.encode())
        return ctypes.get_errno() if failed else 0
    finally:
        os.close(target)


def _umount2(point: str) -> int:
    """umount2(2), lazily; returns the errno."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    return ctypes.get_errno() if libc.umount2(os.fsencode(point), _MNT_DETACH | _UMOUNT_NOFOLLOW) else 0


def _mount_by_helper(directory: str) -> int:
    """Have fusermount3 mount: it hands the descriptor over on the socket that _FUSE_COMMFD names."""
    options = f"nosuid,nodev,noexec,default_permissions,fsname={SOURCE},subtype={TYPE.partition('.')[2]}"
    if _others_may_be_let_in():
        options += ",allow_other"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        reason = _run_helper(["-o", options, "--", _resolve(directory)], channel=theirs.fileno())
        theirs.close()
        if not reason:
            _data, ancillary, _flags, _address = ours.recvmsg(1, socket.CMSG_SPACE(4))
            for level, kind, payload in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    fd = array.array("i", payload)[0]
                    os.set_inheritable(fd, False)
                    return int(fd)
    raise VtpmError(
        Code.MOUNT_FAILED,
        f"cannot mount at {directory}: {reason or 'fusermount3 gave no descriptor'}",
        remedy=(
            "the directory must belong to the service's user, who must have an account; or start the service as root"
        ),
    )


def _run_helper(arguments: "list[str]", channel: Optional[int] = None) -> str:
    """Run fusermount3; why it failed, or nothing."""
    import subprocess  # long to import, and seldom needed

    environment = dict(os.environ, LC_ALL="C")
    if channel is not None:
        environment["_FUSE_COMMFD"] = str(channel)
    try:
        result = subprocess.run(
            ["fusermount3", *arguments],
            env=environment,
            pass_fds=[] if channel is None else [channel],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_HELPER_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise VtpmError(
            Code.FUSE_UNAVAILABLE, "there is no fusermount3", remedy="install fuse3, or start the service as root"
        ) from error
    except subprocess.TimeoutExpired:
        return "fusermount3 does not end"
    if result.returncode == 0:
        return ""
    words = " ".join(result.stderr.split()) or f"status {result.returncode}"
    return words if words.startswith("fusermount3") else f"fusermount3: {words}"


def _others_may_be_let_in() -> bool:
    """Does root let every user's mounts be open to others (/etc/fuse.conf, mount.fuse3(8))?"""
    try:
        with open("/etc/fuse.conf", encoding="utf-8", errors="replace") as file:
            return any(line.strip() == "user_allow_other" for line in file)
    except OSError:
        return False
