"""Making the character device: /dev/cuse, the CUSE_INIT handshake, and waiting until udev has finished the node.

The device lives as long as the open file description of /dev/cuse. The kernel makes it while the CUSE_INIT reply is
written, and says of a refusal only ENODEV at the next read (fs/fuse/cuse.c); so what can be refused is checked first,
and the result is checked in sysfs.
"""

import errno
import os
import select
import stat
import time

from swtpm_svc.errors import NAME, Code, VtpmError
from swtpm_svc.wire import cuse, fuse
from swtpm_svc.wire.hints import Optional
from swtpm_svc.wire.values import NamedTuple

CUSE_PATH = "/dev/cuse"

#: How long a device may take to go after its last descriptor was closed, by systemd or the end of a process.
LEAVING_S = 2.0


class Node(NamedTuple):
    """What the device's node is to be: numeric owner and group, permission bits."""

    name: str
    uid: int
    gid: int
    mode: int

    @property
    def path(self) -> str:
        return f"/dev/{self.name}"


def open_cuse() -> int:
    """Open a new /dev/cuse, close-on-exec.

    Raises:
        VtpmError CUSE_MISSING, CUSE_DENIED
    """
    try:
        return os.open(CUSE_PATH, os.O_RDWR | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _cuse_missing() from error
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.ENXIO):
            raise _cuse_missing() from error
        raise VtpmError(
            Code.CUSE_DENIED,
            f"{CUSE_PATH} cannot be opened: {error.strerror}",
            remedy=(
                f"start the service by systemctl start vtpm@{NAME}, or as root; with SELinux, see ausearch -m avc "
                "-ts recent"
            ),
        ) from error


def _cuse_missing() -> VtpmError:
    return VtpmError(
        Code.CUSE_MISSING,
        f"{CUSE_PATH} does not exist: this kernel has no CUSE, or its module is not loaded",
        remedy="modprobe cuse; the module may be in a package of its own (kernel-modules-extra, linux-image)",
    )


def check_free(name: str, major: int, minor: int) -> None:
    """Are the name and the numbers free for a new device, or soon will be? A predecessor's device may just be going.

    Raises:
        VtpmError DEVICE_NAME_TAKEN, DEVICE_NUMBER_TAKEN
    """
    deadline = time.monotonic() + LEAVING_S
    while os.path.exists(f"/sys/class/cuse/{name}") and time.monotonic() < deadline:
        time.sleep(0.02)
    if os.path.exists(f"/sys/class/cuse/{name}") or os.path.lexists(f"/dev/{name}"):
        raise VtpmError(
            Code.DEVICE_NAME_TAKEN,
            f"/dev/{name} exists already",
            remedy=(
                f"see what it is: ls -l /dev/{name}, vtpmctl list; choose another [device] name, or stop what "
                "provides it"
            ),
        )
    if major and os.path.exists(f"/sys/dev/char/{major}:{minor}"):
        raise VtpmError(
            Code.DEVICE_NUMBER_TAKEN,
            f"character device {major}:{minor} exists already",
            remedy="choose other [device] major and minor numbers, or major = 0 to have the kernel choose",
        )


def initialise(fd: int, name: str, major: int, minor: int) -> None:
    """Have the kernel make the device on `fd`, a new /dev/cuse, and switch `fd` to non-blocking.

    Raises:
        VtpmError DEVICE_REJECTED: the kernel did not make it.
    """
    frame = bytearray(cuse.MAX_REQUEST)
    request = cuse.decode(memoryview(frame)[: os.readv(fd, [frame])])
    if not isinstance(request, cuse.Init) or request.major != fuse.KERNEL_VERSION:
        cause = f"the kernel began with {request!r} in place of CUSE_INIT 7.x"
        raise VtpmError(
            Code.DEVICE_REJECTED, cause, remedy="see which kernel it is: uname -r; and report this line as a bug"
        )
    version = min(request.minor, fuse.MINOR_VERSION)
    os.write(fd, cuse.reply_init(request.unique, version, cuse.MAX_READ, cuse.MAX_WRITE, 0, major, minor, name))
    os.set_blocking(fd, False)
    # a name with a slash has another sign there; and a root of the caller's may have no sysfs
    if not os.path.exists(f"/sys/class/cuse/{name.replace('/', '!')}") and os.path.isdir("/sys/class"):
        raise VtpmError(
            Code.DEVICE_REJECTED,
            f"the kernel did not make the device {name}",
            remedy="see journalctl -k; the major number may be in use by another driver (/proc/devices)",
        )


def is_alive(fd: int) -> bool:
    """Has the kernel still the device of this initialised /dev/cuse? (It goes by /sys/class/cuse/NAME/abort.)"""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return not any(events & (select.POLLERR | select.POLLHUP | select.POLLNVAL) for _fd, events in poll.poll(0))


def device_numbers(name: str) -> "tuple[int, int]":
    """The major and minor number of a CUSE device that exists."""
    with open(f"/sys/class/cuse/{name}/dev", encoding="ascii") as file:
        major, minor = file.read().split(":")
    return int(major), int(minor)


def finish_by_hand(node: Node) -> None:
    """Where no udev runs (containers): give the node its owner and mode ourselves; needs root.

    Raises:
        VtpmError DEVICE_NOT_READY
    """
    try:
        os.chown(node.path, node.uid, node.gid)
        os.chmod(node.path, node.mode)
    except OSError as error:
        raise VtpmError(
            Code.DEVICE_NOT_READY,
            f"{node.path} cannot be given its owner and mode: {error.strerror}",
            remedy="start systemd-udevd, or vtpmd as root with CAP_CHOWN and CAP_FOWNER",
        ) from error


def wait_until_finished(node: Node, timeout_s: float) -> None:
    """Wait until udev has given the node its owner, group and mode: only then can clients open it.

    Raises:
        VtpmError DEVICE_NOT_READY: it has not within `timeout_s` seconds.
    """
    deadline = time.monotonic() + timeout_s
    pause_s = 0.0005
    while True:
        found = _stat(node.path)
        if found is not None and _is_finished(found, node):
            return
        if time.monotonic() > deadline:
            raise VtpmError(Code.DEVICE_NOT_READY, _unfinished(found, node), remedy=_remedy(found, node))
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.05)


def _stat(path: str) -> Optional[os.stat_result]:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _is_finished(found: os.stat_result, node: Node) -> bool:
    return (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (node.uid, node.gid, node.mode)


def _unfinished(found: Optional[os.stat_result], node: Node) -> str:
    if found is None:
        return f"{node.path} did not appear"
    have = f"{found.st_uid}:{found.st_gid} {stat.S_IMODE(found.st_mode):04o}"
    return f"{node.path} is {have}, not {node.uid}:{node.gid} {node.mode:04o}"


def _remedy(found: Optional[os.stat_result], node: Node) -> str:
    if found is None:
        return "see whether /dev is a devtmpfs (findmnt /dev), or who else makes the nodes there"
    return (
        f"install 70-vtpm.rules for udev and run udevadm control --reload; see udevadm test /sys/class/cuse/{node.name}"
    )
