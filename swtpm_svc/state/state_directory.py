"""One TPM's state in a directory, as swtpm has it there: a file for each blob, written durably, and a lock.

    tpm2-00.permall           (tpm-00.permall for a TPM 1.2) the permanent state; without it there is no TPM
    tpm2-00.permall.previous  the generation before: what tpm2-00.permall was until the last store
    tpm2-00.permall.bak       the same where [state] backup wants it: swtpm 0.11 has this name for it
    tpm2-00.volatilestate     the volatile state, when it was stored
    tpm2-00.savestate         what TPM_SaveState wrote (TPM 1.2 only)
    TMP2-00.*                 a store under way, or one that a crash cut short (swtpm's names for the same thing)
    *.bad                     what a remedy has set aside
    .lock                     see lock.py
    identity.json             the keys by which the TPM was known last, unless that is kept elsewhere: service/identity/
    .rekey                    state under a new key that is about to replace the old: see replacement.py

A TPM is only made anew in a directory where there are no traces of one.
"""

from swtpm_svc.errors import Code, VtpmError, quote
from swtpm_svc.state import blob, replacement
from swtpm_svc.state.backend import NAMES, PERMALL, SAVESTATE, VOLATILESTATE, IsGood
from swtpm_svc.state.files import Directory, begins
from swtpm_svc.state.lock import StateLock
from swtpm_svc.state.payloads import LINEAR_REMEDY, UNTOUCHED
from swtpm_svc.wire.hints import Optional

IDENTITY = "identity.json"
#: What a file system has of its own.
LOST_AND_FOUND = "lost+found"
PREVIOUS = ".previous"
#: The same by swtpm's name (0.11, backup).
BACKUP = ".bak"
BAD = ".bad"
_PREFIX = {"1.2": "tpm-00.", "2.0": "tpm2-00."}
_TEMPORARY_PREFIX = {"1.2": "TMP-00.", "2.0": "TMP2-00."}
#: Bytes that there must be room for beyond what is stored now, for a probe: a command does not add more.
_GROWTH = 4096


def traces(directory: Directory) -> "list[str]":
    """What says that there is a TPM, of either version, or that there was one: sorted names of files.

    Where there are none the directory is empty, whatever else is in it: a lock, a file system's lost+found, what is
    known of the TPM of before, an administrator's notes. Raises: VtpmError STATE_UNREADABLE.
    """
    return sorted(name for name in directory.names() if _is_trace(directory, name))


def _is_trace(directory: Directory, name: str) -> bool:
    if name == LOST_AND_FOUND:  # root's: not to be opened
        return False
    known = (*_PREFIX.values(), *_TEMPORARY_PREFIX.values())
    return name.startswith(known) or name == replacement.COMMITTED or directory.begins(name, *blob.LINEAR_BEGINNINGS)


def is_state_file(version: str, name: str) -> bool:
    """Is that a state file of such a TPM, of this or another generation?"""
    return name.startswith(_PREFIX[version])


def is_leftover(version: str, name: str) -> bool:
    return name.startswith(_TEMPORARY_PREFIX[version])


def file_name(version: str, name: str) -> str:
    """The file of `name`, one of NAMES, of a TPM "1.2" or "2.0"."""
    return _PREFIX[version] + name


class StateDirectory:
    """A back end (backend.py). Owns the directory's descriptor and the lock."""

    def __init__(
        self,
        directory: Directory,
        version: str,
        *,
        locks: bool,
        backs_up: bool,
        shares: bool = False,
        changes_modes: bool = False,
    ) -> None:
        self._directory = directory
        self._version = version
        self._locks = locks
        self._shares = shares
        self._changes_modes = changes_modes
        self._lock: Optional[StateLock] = None
        self._is_locked = False
        self._previous = BACKUP if backs_up else PREVIOUS
        self.remarks: list[str] = []

    @classmethod
    def open(
        cls,
        path: str,
        version: str,
        fd: Optional[int] = None,
        *,
        mode: Optional[int] = None,
        changes_modes: bool = True,
        locks: bool = True,
        syncs: bool = True,
        backs_up: bool = False,
        shares: bool = False,
    ) -> "StateDirectory":
        """Not locked yet. `fd`: the directory, where it is open already.

        `mode`: of the state files, and where that `changes_modes` also of those that there are; None: their owner's, if
        they are made. `locks`: False leaves it to the caller that nobody else has the state. `syncs`: False trusts that
        the machine does not lose its power. `backs_up`: the generation before has the name that swtpm's option has for
        it, and a start that cannot read the last one goes back to it. `shares`: a TPM of the other version may be there
        too, under the same lock.

        Raises: VtpmError as open_directory().
        """
        directory = open_directory(path, fd)
        directory.syncs = syncs
        if mode is not None:
            directory.mode = mode
        is_changed = mode is not None and changes_modes
        return cls(directory, version, locks=locks, backs_up=backs_up, shares=shares, changes_modes=is_changed)

    @property
    def path(self) -> str:
        return self._directory.path

    def close(self) -> None:
        self.unlock()
        self._directory.close()

    @property
    def is_locked(self) -> bool:
        return self._is_locked

    def lock(self) -> None:
        if self._is_locked:
            return
        if self._locks:
            self._lock = lock(self._directory)
        else:
            replacement.settle(self._directory)
        self._is_locked = True

    def unlock(self) -> None:
        self._is_locked = False
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def check(self, is_good: IsGood) -> bool:
        self._directory.check_writable()
        file, present = self._file(PERMALL), self._directory.names()
        if file not in present and file + BACKUP in present:
            self._directory.rename(file + BACKUP, file)
            self.remarks.append(f"{self.path_of(PERMALL)} was missing: its backup, {file}{BACKUP}, is in its place now")
            present = self._directory.names()
        if self._changes_modes:
            for name in NAMES:
                self._directory.change_mode(self._file(name))
        if file in present:
            return True
        self._check_unused(is_good)
        return False

    def go_back(self, is_good: IsGood) -> bool:
        file = self._file(PERMALL)
        if self._previous != BACKUP or not self._previous_is_good(is_good):
            return False
        self._directory.exchange(file, file + BACKUP, f"{file}.tmp")
        self.remarks.append(
            f"{self.path_of(PERMALL)} cannot be used: it and its backup, {file}{BACKUP}, changed places"
        )
        return True

    def tidy(self) -> None:
        present = self._directory.names()
        for name in NAMES:
            if self._temporary(name) in present:
                self._directory.tidy(self._temporary(name))

    def generation(self) -> str:
        found = self._directory.stat(self._file(PERMALL))
        if found is None:
            return "-"
        return f"{found.st_mtime_ns // 10**9}.{found.st_mtime_ns % 10**9:09d}"

    def size(self, name: str) -> Optional[int]:
        return self._directory.size(self._file(name))

    def read(self, name: str) -> Optional[bytes]:
        return self._directory.read(self._file(name))

    def write(self, name: str, data: bytes) -> None:
        keep_as = self._file(name) + self._previous if name == PERMALL else None
        self._directory.replace(self._file(name), self._temporary(name), data, keep_as=keep_as)

    def remove(self, name: str) -> bool:
        return self._directory.remove(self._file(name))

    def probe(self) -> None:
        self._directory.check_writable()
        previous = self._directory.read(self._file(PERMALL) + self._previous)
        needed = max(len(self.read(PERMALL) or b""), len(previous or b"")) + _GROWTH
        self._directory.try_write(self._temporary(PERMALL), self._temporary(VOLATILESTATE), bytes(needed))

    def path_of(self, name: str) -> str:
        return self._directory.path_of(self._file(name))

    def read_identity(self) -> Optional[bytes]:
        return self._directory.read(IDENTITY) if self._is_locked else None

    def write_identity(self, data: bytes) -> None:
        self._directory.replace(IDENTITY, f"{IDENTITY}.new", data)

    def remove_identity(self) -> None:
        self._directory.remove(IDENTITY)

    def _file(self, name: str) -> str:
        return _PREFIX[self._version] + name

    def _temporary(self, name: str) -> str:
        return _TEMPORARY_PREFIX[self._version] + name

    def _check_unused(self, is_good: IsGood) -> None:
        """There is no permanent state. Refuse if there are traces of a TPM."""
        other = "1.2" if self._version == "2.0" else "2.0"
        found = traces(self._directory)
        ours = [file for file in found if file.startswith((_PREFIX[self._version], _TEMPORARY_PREFIX[self._version]))]
        if ours:
            cause = f"{self.path_of(PERMALL)} is missing, but {', '.join(ours)} is there"
            raise VtpmError(Code.STATE_CORRUPT, cause, remedy=self._missing_remedy(ours, is_good))
        foreign = [file for file in found if file.startswith(_PREFIX[other])]
        if foreign and not self._shares:
            named = file_name(other, PERMALL) if file_name(other, PERMALL) in foreign else foreign[0]
            raise VtpmError(
                Code.STATE_FOREIGN,
                f"{self.path} holds {named}, which is a TPM {other}'s, and no {self._file(PERMALL)} of a TPM "
                f"{self._version}",
                remedy=f'set version = "{other}" in [tpm], or another directory in [state]; {UNTOUCHED}',
            )
        for file in found:
            if self._directory.begins(file, *blob.LINEAR_BEGINNINGS):
                raise _linear(self._directory.path_of(file))

    def _previous_is_good(self, is_good: IsGood) -> bool:
        try:
            data = self._directory.read(self._file(PERMALL) + self._previous)
        except VtpmError:
            return False
        return data is not None and is_good(data)

    def remedy(self, name: str, is_good: IsGood) -> str:
        path = self.path_of(name)
        if name != PERMALL:
            return f"{UNTOUCHED}; without it the TPM starts as after a loss of power: {self._move(name)}"
        if self._previous_is_good(is_good):
            return f"{UNTOUCHED}; restore the previous generation: {self._restore([name, VOLATILESTATE, SAVESTATE])}"
        return f"{UNTOUCHED}; restore it from a backup (there is no good {path}{self._previous})"

    def _restore(self, aside: list[str]) -> str:
        """Commands that make the previous generation the current one; what belongs to the one that goes is set aside
        first."""
        path = self.path_of(PERMALL)
        moves = [self._move(name) for name in aside if self._directory.stat(self._file(name)) is not None]
        return " && ".join([*moves, f"cp -p {quote(path + self._previous)} {quote(path)}"])

    def _move(self, name: str) -> str:
        return f"mv {quote(self.path_of(name))} {quote(self._free(self._file(name)))}"

    def _free(self, name: str) -> str:
        """A path for what is set aside, at which nothing lies."""
        present = self._directory.names()
        endings = ["", *(f".{number}" for number in range(2, 100))]
        return self._directory.path_of(
            next(name + ending + BAD for ending in endings if name + ending + BAD not in present)
        )

    def _missing_remedy(self, traces: list[str], is_good: IsGood) -> str:
        if self._previous_is_good(is_good):
            return f"{UNTOUCHED}; restore the previous generation: {self._restore([VOLATILESTATE, SAVESTATE])}"
        if traces == [self._temporary(PERMALL)]:
            aside = f"mv {quote(self._directory.path_of(traces[0]))} {quote(self._free('unfinished'))}"
            return f"{UNTOUCHED}; restore it from a backup, or if this TPM was never used: {aside}"
        return f"{UNTOUCHED}; restore it from a backup; for a new TPM give it an empty directory"


def open_locked(path: str, fd: Optional[int] = None) -> tuple[Directory, StateLock]:
    """The directory, locked, and with all of one set of files in it. Raises: VtpmError as Store.of()."""
    directory = open_directory(path, fd)
    try:
        return directory, lock(directory)
    except BaseException:
        directory.close()
        raise


def open_directory(path: str, fd: Optional[int] = None) -> Directory:
    """Raises: VtpmError STATE_MISSING, STATE_UNREADABLE, STATE_FOREIGN."""
    problem = None if fd is not None else wrong_place(path)
    if problem is not None:
        raise problem
    return Directory(path, fd)


def lock(directory: Directory) -> StateLock:
    """The lock of the directory, which then has all of one set of files in it. Raises: VtpmError as Store.of()."""
    held = StateLock.acquire(directory.fd, directory.path)
    try:
        replacement.settle(directory)
    except BaseException:
        held.close()
        raise
    return held


def wrong_place(path: str) -> Optional[VtpmError]:
    """What is wrong with a state directory that is a file with all of a TPM; None: it is something else, or not to be
    read."""
    return _linear(path) if begins(path, *blob.LINEAR_BEGINNINGS) else None


def _linear(path: str) -> VtpmError:
    cause = (
        f"{path} is a file in which swtpm's file back end keeps all of a TPM, where a directory with its files "
        "should be"
    )
    return VtpmError(Code.STATE_FOREIGN, cause, remedy=LINEAR_REMEDY)
