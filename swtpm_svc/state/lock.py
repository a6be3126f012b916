"""The lock on a state directory: DIRECTORY/.lock, the same one that swtpm takes.

swtpm 0.7.1 takes a classic POSIX write lock on the whole file (fcntl F_SETLK, l_start 0, l_len 0; seen with strace). We
take an open file description lock (F_OFD_SETLK) on the same bytes: the kernel lets the two kinds exclude each other,
but ours belongs to the open file, so neither a fork nor the closing of another descriptor of the same file loses it
(fcntl(2), "Open file description locks").

State that is all in one file has its lock on that file.
"""

import fcntl
import os
import struct

from swtpm_svc.errors import Code, VtpmError, quote
from swtpm_svc.state.file_errors import write_error
from swtpm_svc.state.files import MODE
from swtpm_svc.wire.hints import Iterator, Optional, TracebackType
from swtpm_svc.wire.values import NamedTuple

LOCK_NAME = ".lock"
_FLOCK = struct.Struct("@hhqqi0q")  # struct flock with a 64-bit off_t: l_type l_whence l_start l_len l_pid
_WHOLE_FILE = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
_ATTEMPTS = 10
#: A service's name that can stand in a command: root is not to type what others have written into the file or chosen as
#: a name.
_UNIT_PATTERN = r"[A-Za-z0-9_][A-Za-z0-9:_.@-]{0,200}\.service"


class Holder(NamedTuple):
    """The process that has the lock, as far as this process may see it.

    `unit` is the systemd service that it belongs to.
    """

    pid: int
    command: str
    unit: Optional[str]
    user_unit: bool


class StateLock:
    """The lock, held until close() or the process' end. Owns its descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def acquire(cls, directory_fd: int, directory: str) -> "StateLock":
        """Take the lock of the open directory, or say who has it. Does not wait; makes the lock file when there is
        none.

        Raises:
            VtpmError: STATE_LOCKED, STATE_UNWRITABLE
        """
        path = os.path.join(directory, LOCK_NAME)
        for _ in range(_ATTEMPTS):
            fd = _open_lock_file(directory_fd, path)
            try:
                if _try_lock(fd, path):
                    if _is_still_named(fd, directory_fd):
                        _sign(fd)
                        lock, fd = cls(fd), -1
                        return lock
                    continue  # someone removed or replaced the file between open and lock: ours would exclude nobody
                pid = _blocking_pid(fd)
                if pid is not None:
                    raise _locked(path, find_holder(fd, pid))
            finally:
                if fd >= 0:
                    os.close(fd)
        raise VtpmError(
            Code.STATE_LOCKED, f"{path} changes hands again and again", remedy=f"see who does: lsof {quote(path)}"
        )

    def close(self) -> None:
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)

    def __enter__(self) -> "StateLock":
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()


def lock_file(fd: int, path: str) -> None:
    """Take the lock on an open file that is itself the state (state_file.py). It goes with the last descriptor.

    Raises:
        VtpmError: STATE_LOCKED, STATE_UNWRITABLE
    """
    while not _try_lock(fd, path):
        pid = _blocking_pid(fd)
        if pid is not None:
            raise _locked(path, find_holder(fd, pid, os.path.basename(os.path.realpath(path))))


def unlock_file(fd: int) -> None:
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0))


def _sign(fd: int) -> None:
    """Write down who has the lock: a process that gave up root's rights is hidden from others of its user (proc(5),
    dumpable and hidepid)."""
    holder = _describe(os.getpid())
    fields = (str(holder.pid), holder.command, holder.unit or "", "user" if holder.user_unit else "system", "")
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, "\n".join(fields).encode(), 0)
    except OSError:
        pass  # a full disk: only a name in an error is lost


def _read_signature(fd: int) -> Optional[Holder]:
    try:
        words = os.pread(fd, 512, 0).decode(errors="replace").split("\n")
    except OSError:
        return None
    if len(words) != 5 or not (words[0].isascii() and words[0].isdigit()):
        return None
    # the state's owner may write what he likes into the file: nothing but a TPM is stopped on his word
    unit = words[2] if words[2].startswith("vtpm@") else None
    return Holder(int(words[0]), words[1], unit, words[3] == "user")


def refuse_held(directory: str) -> None:
    """Look whether somebody has the lock of that directory. Takes nothing and makes nothing.

    Raises:
        VtpmError: STATE_LOCKED
    """
    path = os.path.join(directory, LOCK_NAME)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return  # whoever takes it says what is wrong with it
    try:
        pid = _blocking_pid(fd)
        if pid is not None:
            raise _locked(path, find_holder(fd, pid))
    finally:
        os.close(fd)


def find_holder(fd: int, pid: int, name: str = LOCK_NAME) -> Optional[Holder]:
    """Who holds a lock on this open file, whose name has `name` in it.

    `pid` when it is above 0 (a POSIX lock), else whoever /proc shows with an OFD lock, else who signed the lock file.
    """
    if pid <= 0:
        file = os.fstat(fd)
        pid = next((other for other in _pids() if _has_lock(other, file, name)), 0)
    if pid > 0:
        return _describe(pid)
    return _read_signature(fd) if name == LOCK_NAME else None


def _open_lock_file(directory_fd: int, path: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        fd = os.open(LOCK_NAME, flags, MODE, dir_fd=directory_fd)
    except OSError as error:
        raise write_error(path if os.path.lexists(path) else os.path.dirname(path), error) from None
    found = os.fstat(fd)
    if found.st_mode & 0o077 and found.st_uid == os.geteuid():
        os.fchmod(
            fd, MODE
        )  # a copy's, or another program's: whoever can read it could lock it, and keep the TPM from starting
    return fd


def _try_lock(fd: int, path: str) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _WHOLE_FILE)
    except (BlockingIOError, PermissionError):  # EAGAIN, EACCES: someone has it
        return False
    except OSError as error:
        raise VtpmError(
            Code.STATE_UNWRITABLE,
            f"{path} cannot be locked: {os.strerror(error.errno or 0)}",
            remedy="keep the state on a file system that has file locks",
        ) from None
    return True


def _is_still_named(fd: int, directory_fd: int) -> bool:
    try:
        named = os.stat(LOCK_NAME, dir_fd=directory_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(named, os.fstat(fd))


def _blocking_pid(fd: int) -> Optional[int]:
    """The process that has a conflicting lock: -1 for an OFD lock, 0 for one of another pid namespace, None when it is
    gone."""
    kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _WHOLE_FILE))
    return None if kind == fcntl.F_UNLCK else int(pid)


def _locked(path: str, holder: Optional[Holder]) -> VtpmError:
    if holder is None:
        cause = f"{path} is held by a process that this one may not see"
        return VtpmError(Code.STATE_LOCKED, cause, remedy=f"find it, as root: lsof {quote(path)}; and stop it")
    import re  # which a start does not wait for

    if holder.unit and re.fullmatch(_UNIT_PATTERN, holder.unit):
        systemctl = "systemctl --user" if holder.user_unit else "systemctl"
        remedy = f"stop it first: {systemctl} stop {holder.unit}"
    else:
        remedy = f"stop process {holder.pid} first; what it is: ps -fp {holder.pid}"
    who = ", ".join(part for part in (holder.command, holder.unit) if part and part.isprintable())
    return VtpmError(
        Code.STATE_LOCKED, f"{path} is held by process {holder.pid}" + (f" ({who})" if who else ""), remedy=remedy
    )


def _pids() -> Iterator[int]:
    try:
        names = os.listdir("/proc")
    except OSError:
        return
    for name in names:
        if name.isdigit():
            yield int(name)


def _has_lock(pid: int, file: os.stat_result, name: str) -> bool:
    """Whether the process has the file open with a lock on that open file.

    A descriptor that may not be looked at has none.
    """
    base = f"/proc/{pid}/fd"
    try:
        numbers = os.listdir(base)
    except OSError:
        return False
    for number in numbers:
        try:
            # readlink before stat: stat would ask the file's own file system, which may not answer
            if name not in os.readlink(f"{base}/{number}"):
                continue
            found = os.stat(f"{base}/{number}")
            if os.path.samestat(found, file) and "\nlock:" in _read(f"/proc/{pid}/fdinfo/{number}"):
                return True
        except OSError:
            continue
    return False


def _describe(pid: int) -> Holder:
    unit, user_unit = _unit(_read(f"/proc/{pid}/cgroup"))
    return Holder(pid, _read(f"/proc/{pid}/comm").strip(), unit, user_unit)


def _unit(cgroups: str) -> tuple[Optional[str], bool]:
    """The innermost service in the systemd hierarchy's line of /proc/PID/cgroup, and whether a user's manager runs it.

    A scope is not named: stopping a login session's scope would end the session.
    """
    for line in cgroups.splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers in ("", "name=systemd"):
            parts = path.split("/")
            service = next((part for part in reversed(parts) if part.endswith((".service", ".scope"))), "")
            if service.endswith(".service") and not service.startswith("user@"):
                return service, any(part.startswith("user@") for part in parts)
    return None, False


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
