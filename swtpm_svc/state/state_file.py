"""One TPM's state in one file or on one block device, as swtpm's file back end has it (linear.py). A back end.

Nothing is ever renamed or removed, and a block device keeps its size: it works where that is all there is. A blob is
replaced in two steps, each durable before the next: the new one is written where there is room, then the header, whose
sector is written as one. So after a kill or a power cut there is the old blob or the new one. A file without a header
is given one with the first store, not before.

There is no generation before, and no record of the TPM's keys: the layout has no place for them.
"""

import errno
import os
import stat
import time
from typing import Optional

from swtpm_svc.errors import Code, VtpmError, quote
from swtpm_svc.state import linear
from swtpm_svc.state.backend import NAMES, PERMALL, IsGood
from swtpm_svc.state.file_errors import read_error, write_error
from swtpm_svc.state.files import MAX_SIZE, MODE
from swtpm_svc.state.linear import Layout, LinearError, NewerLinear, Section
from swtpm_svc.state.lock import lock_file, unlock_file
from swtpm_svc.state.payloads import UNTOUCHED

_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
#: Bytes that there must be room for beyond what is stored now, for a probe: a command does not add more.
_GROWTH = 4096


class StateFile:
    """Owns the descriptor, and with it the lock."""

    def __init__(self, path: str, fd: int, *, locks: bool, syncs: bool, formats: bool) -> None:
        self._path = path
        self._fd = fd
        self._is_device = stat.S_ISBLK(os.fstat(fd).st_mode)
        self._locks, self._syncs, self._formats = locks, syncs, formats
        self._is_locked = False
        self.remarks: list[str] = []
        #: When this process stored the permanent state: a device does not say.
        self._stored = 0

    @classmethod
    def open(
        cls,
        path: str,
        *,
        mode: Optional[int] = None,
        changes_modes: bool = True,
        locks: bool = True,
        syncs: bool = True,
        formats: bool = False,
    ) -> "StateFile":
        """Make the file if there is none; not locked yet.

        `mode`: of the file, and where that `changes_modes` also of one that there is; None: its owner's, if it is made.
        `locks`: False leaves it to the caller that nobody else has the state. `syncs`: False trusts that the machine
        does not lose its power. `formats`: whatever has no header is given one, as swtpm does it; else only what is
        empty or begins with zeros.

        Raises:
            VtpmError STATE_MISSING, STATE_UNREADABLE, STATE_UNWRITABLE
        """
        try:
            fd = _open(path, MODE if mode is None else mode)
        except FileNotFoundError:
            raise VtpmError(
                Code.STATE_MISSING,
                f"{path} does not exist, nor does its directory",
                remedy=f"mount what belongs there, or name another file; see how far it goes: namei -l {quote(path)}",
            ) from None
        except OSError as error:
            raise (read_error if os.path.exists(path) else write_error)(path, error) from None
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) and not stat.S_ISBLK(found.st_mode):
                raise VtpmError(
                    Code.STATE_UNREADABLE,
                    f"{path} is neither a regular file nor a block device",
                    remedy=f"see what it is: ls -ld {quote(path)}; name another one in [state] file",
                )
            is_changed = changes_modes and stat.S_ISREG(found.st_mode)
            if mode is not None and is_changed and stat.S_IMODE(found.st_mode) != mode:
                os.fchmod(fd, mode)
            return cls(path, fd, locks=locks, syncs=syncs, formats=formats)
        except OSError as error:
            os.close(fd)
            raise write_error(path, error) from None
        except VtpmError:
            os.close(fd)
            raise

    @property
    def path(self) -> str:
        return self._path

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._is_locked = False
            os.close(fd)

    # --- the lock ------------------------------------------------------------------------------------------------

    @property
    def is_locked(self) -> bool:
        return self._is_locked

    def lock(self) -> None:
        if self._locks and not self._is_locked:
            lock_file(self._fd, self._path)
        self._is_locked = True

    def unlock(self) -> None:
        if self._locks and self._is_locked:
            unlock_file(self._fd)
        self._is_locked = False

    # --- what is there -------------------------------------------------------------------------------------------

    def check(self, is_good: IsGood) -> bool:
        layout = self._layout()
        number = linear.NUMBERS[PERMALL]
        others = [name for name in NAMES if linear.NUMBERS[name] in layout]
        if number not in layout and others:
            raise VtpmError(
                Code.STATE_CORRUPT,
                f"{self._path} has no {PERMALL}, but {', '.join(others)}",
                remedy=f"restore it from a backup; for a new TPM name another file; {UNTOUCHED}",
            )
        return number in layout

    def go_back(self, is_good: IsGood) -> bool:
        return False

    def tidy(self) -> None:
        """What a crash has left is room."""

    def generation(self) -> str:
        if linear.NUMBERS[PERMALL] not in self._layout():
            return "-"
        written = self._stored if self._is_device else os.fstat(self._fd).st_mtime_ns
        return f"{written // 10**9}.{written % 10**9:09d}"

    def size(self, name: str) -> Optional[int]:
        section = self._layout().get(linear.NUMBERS[name])
        return None if section is None else section.length

    def read(self, name: str) -> Optional[bytes]:
        section = self._layout().get(linear.NUMBERS[name])
        if section is None:
            return None
        if section.length > MAX_SIZE:
            raise VtpmError(
                Code.STATE_CORRUPT,
                f"{self.path_of(name)} has {section.length} bytes; no TPM's state is that large",
                remedy=f"restore it from a backup; {UNTOUCHED}",
            )
        data = self._read(section.length, section.offset)
        # without the lock somebody may have replaced it meanwhile, and have its room used for another one
        return data if self._is_locked or self._layout().get(linear.NUMBERS[name]) == section else self.read(name)

    def path_of(self, name: str) -> str:
        return f"{name} in {self._path}"

    def remedy(self, name: str, is_good: IsGood) -> str:
        return f"{UNTOUCHED}; restore {self._path} from a backup"

    # --- what is stored ------------------------------------------------------------------------------------------

    def write(self, name: str, data: bytes) -> None:
        self.replace_all({name: data})
        if name == PERMALL:
            self._stored = time.time_ns()

    def replace_all(self, contents: "dict[str, bytes]", *, rest_stays: bool = True) -> None:
        """Write several: after a crash there are all of the old ones or all of the new ones.

        `rest_stays`: False has what is not among them go at the same moment.

        Raises: VtpmError STATE_FULL, STATE_UNWRITABLE: there are the old ones.
        """
        layout = self._layout()
        # what is written before it belongs to an entry must be in nobody's way: each has one of its own meanwhile
        new: Layout = {}
        for name, data in contents.items():
            beside = {**layout, **{-1 - number: section for number, section in new.items()}}
            new[linear.NUMBERS[name]] = self._write_beside(beside, data)
        self._commit({**layout, **new} if rest_stays else new)

    def remove(self, name: str) -> bool:
        layout = self._layout()
        was_there = layout.pop(linear.NUMBERS[name], None) is not None
        if was_there:
            self._commit(layout)
        return was_there

    def probe(self) -> None:
        layout = self._layout()
        found = layout.get(linear.NUMBERS[PERMALL])
        self._write_beside(layout, bytes((found.length if found is not None else 0) + _GROWTH))

    def read_identity(self) -> Optional[bytes]:
        return None

    def write_identity(self, data: bytes) -> None:
        pass

    def remove_identity(self) -> None:
        pass

    # --- below ---------------------------------------------------------------------------------------------------

    def _layout(self) -> Layout:
        """Raises: VtpmError STATE_UNREADABLE, STATE_CORRUPT, STATE_FOREIGN."""
        header = self._read(linear.HEADER_SIZE, 0)
        is_foreign = not linear.is_linear(header)
        if not header.strip(b"\0") or (is_foreign and (self._formats or not header[:8].strip(b"\0"))):
            return {}
        try:
            return linear.decode(header, self._capacity())
        except LinearError as error:
            code = Code.STATE_FOREIGN if is_foreign or isinstance(error, NewerLinear) else Code.STATE_CORRUPT
            remedy = f"restore it from a backup; {UNTOUCHED}"
            if is_foreign:
                remedy = f"name another file in [state]; or if nobody needs what is in it, empty it; {UNTOUCHED}"
            elif isinstance(error, NewerLinear):
                remedy = f"serve it with the program that wrote it; {UNTOUCHED}"
            raise VtpmError(code, f"{self._path}: {error}", remedy=remedy) from None

    def _write_beside(self, layout: Layout, data: bytes) -> Section:
        """Raises: VtpmError STATE_FULL, STATE_UNWRITABLE."""
        section = linear.place(layout, len(data), self._capacity() if self._is_device else None)
        if section is None:
            needed = linear.end_of(layout) + linear.room_for(len(data))
            raise VtpmError(
                Code.STATE_FULL,
                f"{self._path} has no room for {len(data)} bytes beside what is there",
                remedy=f"make the device larger, to at least {needed} bytes; the state is as it was before",
            )
        try:
            if not self._is_device and os.fstat(self._fd).st_size < section.end:
                os.ftruncate(self._fd, section.end)  # swtpm writes as far as that, through a mapping
            self._put(data, section.offset)
        except OSError as error:
            raise write_error(self._path, error, is_kept=True) from None
        return section

    def _commit(self, layout: Layout) -> None:
        """From here on it is the new one. Raises: VtpmError STATE_UNWRITABLE."""
        try:
            before = self._read(linear.HEADER_SIZE, 0)
            try:
                self._put(linear.encode(layout), 0)
            except OSError:
                if before:
                    os.pwrite(self._fd, before, 0)  # in the machine's memory at least
                raise
            kept = linear.kept_size(layout)
            if not self._is_device and os.fstat(self._fd).st_size > kept:
                os.ftruncate(self._fd, kept)
        except OSError as error:
            raise write_error(self._path, error) from None

    def _put(self, data: bytes, offset: int) -> None:
        rest = memoryview(data)
        while rest:
            written = os.pwrite(self._fd, rest, offset)
            rest, offset = rest[written:], offset + written
        if self._syncs:
            os.fdatasync(self._fd)

    def _read(self, size: int, offset: int) -> bytes:
        try:
            data = os.pread(self._fd, size, offset)
            while 0 < len(data) < size:
                more = os.pread(self._fd, size - len(data), offset + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            raise read_error(self._path, error) from None
        return data

    def _capacity(self) -> int:
        return os.lseek(self._fd, 0, os.SEEK_END)


def _open(path: str, mode: int) -> int:
    """Made with `mode`, whatever the umask says, if it is made."""
    try:
        return _open_existing(path, _FLAGS)
    except FileNotFoundError:
        fd = os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, mode)
        os.fchmod(fd, mode)
        return fd


def _open_existing(path: str, flags: int) -> int:
    """A disk may be named by a link: its lasting names (/dev/disk/by-id, /dev/mapper) are links that udev makes.

    Raises: OSError; ELOOP: a link that is not root's, or that leads to something else than a disk.
    """
    try:
        return os.open(path, flags)
    except OSError as error:
        if error.errno != errno.ELOOP or os.lstat(path).st_uid != 0 or not _is_disk(path):
            raise
        return os.open(os.path.realpath(path), flags)


def _is_disk(path: str) -> bool:
    try:
        return stat.S_ISBLK(os.stat(path).st_mode)
    except OSError:
        return False


def look(path: str) -> "tuple[bytes, int, str]":
    """The header, the size and the time of the last change (as Store.generation) of such a file, without its lock.

    Raises: OSError.
    """
    fd = _open_existing(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) and not stat.S_ISBLK(found.st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        generation = f"{found.st_mtime_ns // 10**9}.{found.st_mtime_ns % 10**9:09d}"
        return os.pread(fd, linear.HEADER_SIZE, 0), os.lseek(fd, 0, os.SEEK_END), generation
    finally:
        os.close(fd)
