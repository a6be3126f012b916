"""One TPM's state directory: locked, checked before anything is served, written durably, compatible with swtpm's.

    tpm2-00.permall           (tpm-00.permall for a TPM 1.2) the permanent state; without it there is no TPM
    tpm2-00.permall.previous  the generation before: what tpm2-00.permall was until the last store
    tpm2-00.volatilestate     the volatile state, when it was stored
    tpm2-00.savestate         what TPM_SaveState wrote (TPM 1.2 only)
    TMP2-00.*                 a store under way, or one that a crash cut short (swtpm's names for the same thing)
    *.bad                     what a remedy has set aside
    .lock                     see lock.py
    identity.json             the keys by which the TPM was known last, unless that is kept elsewhere: service/identity/
    .rekey                    state under a new key that is about to replace the old: see replacement.py

With a key, all of it is encrypted; without one, none. What is not as configured is refused: state in clear under a key
as well as encrypted state without one, for a mistake must not decide whether secrets are kept. vtpmctl rekey takes it
from one to the other.

State that cannot be used is refused and left as it is. A TPM is only made anew in a directory where there are no traces
of one.
"""

from contextlib import suppress
from types import TracebackType
from typing import Optional

from swtpm_svc.errors import NAME, Code, VtpmError, quote
from swtpm_svc.state import blob, replacement
from swtpm_svc.state.encryption import Keys, StateKey
from swtpm_svc.state.files import Directory, begins
from swtpm_svc.state.lock import StateLock

PERMALL = "permall"
VOLATILESTATE = "volatilestate"
SAVESTATE = "savestate"
NAMES = (PERMALL, VOLATILESTATE, SAVESTATE)
IDENTITY = "identity.json"
#: What a file system has of its own.
LOST_AND_FOUND = "lost+found"
PREVIOUS = ".previous"
BAD = ".bad"
_PREFIX = {"1.2": "tpm-00.", "2.0": "tpm2-00."}
_TEMPORARY_PREFIX = {"1.2": "TMP-00.", "2.0": "TMP2-00."}
#: Bytes that there must be room for beyond what is stored now, for a probe: a command does not add more.
_GROWTH = 4096
_UNTOUCHED = "nothing was changed"
_KEY_REMEDY = (
    f"configure the key that it was encrypted with ([state]); to go over to another: vtpmctl rekey {NAME}; {_UNTOUCHED}"
)


#: From one back end of swtpm's to the other: swtpm has no program for that.
_LINEAR_REMEDY = (
    "serve it once more with swtpm --tpmstate backend-uri=file://FILE, save its state with swtpm_ioctl --save "
    "permanent BLOB,"
    f" and load that: vtpmctl load {NAME} permanent BLOB (vtpm@.service(8), EXAMPLES); {_UNTOUCHED}"
)


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


class Store:
    """The state of one TPM. A context manager; owns the directory's descriptor and the lock.

    Payloads are what libtpms' callbacks hand over and want back; the names are libtpms'.
    """

    def __init__(self, directory: Directory, lock: StateLock, version: str, key: Optional[StateKey]) -> None:
        self.version = version
        #: `generation` and `sizes` as of what this process did last: to look at them again may take as long as a disk
        #: does.
        self.seen: tuple[str, dict[str, int]] = ("-", {})
        self.key = key
        self._directory = directory
        self._lock = lock

    @classmethod
    def open(cls, directory: str, version: str, key: Optional[StateKey] = None, fd: Optional[int] = None) -> "Store":
        """Lock the directory and check all that is in it. An empty directory is good: the TPM is then yet to be made.

        `key` encrypts the files; None: they are in clear. `fd`: the directory, where it is open already; closed with
        the rest.

        The check reads and decodes; libtpms alone can say whether it likes a payload (see `damaged`).

        Raises:
            VtpmError: STATE_MISSING, STATE_LOCKED, STATE_UNREADABLE, STATE_UNWRITABLE, STATE_FULL (no room for .lock),
                STATE_CORRUPT, STATE_FOREIGN, STATE_KEY. No state file was changed, whichever it is.
        """
        opened, lock = open_locked(directory, fd)
        store = cls(opened, lock, version, key)
        try:
            store._check()
            store._look()
        except BaseException:
            store.close()
            raise
        return store

    def close(self) -> None:
        """Give the lock up."""
        self._lock.close()
        self._directory.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    @property
    def directory(self) -> str:
        return self._directory.path

    @property
    def generation(self) -> str:
        """Names the permanent state that is on disk now: when it was written, seconds since 1970 to the nanosecond;
        "-": never.

        Two equal values are the same generation; a larger one is later, as far as the clock was never set back. Costs
        one stat.
        """
        found = self._directory.stat(self._file(PERMALL))
        if found is None:
            return "-"
        return f"{found.st_mtime_ns // 10**9}.{found.st_mtime_ns % 10**9:09d}"

    def sizes(self) -> dict[str, int]:
        """Bytes on disk of each state file that there is, by libtpms' name."""
        sizes = ((name, self._directory.size(self._file(name))) for name in NAMES)
        return {name: size for name, size in sizes if size is not None}

    def load(self, name: str) -> Optional[bytes]:
        """The payload; None when there is no such file. Raises: VtpmError as open()."""
        data = self.raw(name)
        return None if data is None else self._payload(name, data)

    def raw(self, name: str) -> Optional[bytes]:
        """The whole file, header and all; None when there is none. Raises: VtpmError STATE_UNREADABLE,
        STATE_CORRUPT."""
        return self._directory.read(self._file(name))

    def store(self, name: str, payload: bytes) -> None:
        """Write the payload; it is durable on return. Of the permanent state the generation before is kept.

        Raises:
            VtpmError: STATE_FULL, STATE_UNWRITABLE. The old content is there still (one exception:
                files.Directory.replace).
        """
        keep_as = self._file(name) + PREVIOUS if name == PERMALL else None
        data = blob.encode_checked(payload, self.key)
        self._directory.replace(self._file(name), self._temporary(name), data, keep_as=keep_as)
        with suppress(VtpmError):  # it is stored
            self._look()

    def probe(self) -> None:
        """Can the permanent state be stored? Tries with as many bytes, in the same steps; all state stays as it is.

        Raises:
            VtpmError: as store(), and as open() if what is there cannot be read any more
        """
        self._directory.check_writable()
        for name in NAMES:
            self.load(name)
        previous = self._directory.read(self._file(PERMALL) + PREVIOUS)
        needed = max(len(self.raw(PERMALL) or b""), len(previous or b"")) + _GROWTH
        self._directory.try_write(self._temporary(PERMALL), self._temporary(VOLATILESTATE), bytes(needed))

    def unwrap(self, name: str, data: bytes) -> bytes:
        """The payload of a state blob that someone handed over.

        Raises: VtpmError STATE_CORRUPT, STATE_FOREIGN, STATE_KEY.
        """
        remedy = "get the blob again from the TPM that it is of"
        return unwrap(data, self.version, self.key, f"the {name} blob", remedy=remedy, may_be_clear=True)

    def delete(self, name: str, *, must_exist: bool) -> None:
        """Remove a state file, durably. Raises: VtpmError STATE_MISSING (only with must_exist), STATE_UNWRITABLE."""
        was_there = self._directory.remove(self._file(name))
        with suppress(VtpmError):
            self._look()
        if must_exist and not was_there:
            remedy = "nothing is to be done: it was not stored, or is gone already"
            raise VtpmError(Code.STATE_MISSING, f"there is no {self._path(name)} to remove", remedy=remedy)

    def _look(self) -> None:
        self.seen = self.generation, self.sizes()

    def load_identity(self) -> Optional[bytes]:
        """Raises: VtpmError STATE_UNREADABLE, STATE_CORRUPT."""
        return self._directory.read(IDENTITY)

    def store_identity(self, data: bytes) -> None:
        """Raises: VtpmError STATE_FULL, STATE_UNWRITABLE."""
        self._directory.replace(IDENTITY, f"{IDENTITY}.new", data)

    def remove_identity(self) -> None:
        """Raises: VtpmError STATE_UNWRITABLE."""
        self._directory.remove(IDENTITY)

    def damaged(self, name: str, reason: str) -> VtpmError:
        """The error to raise when libtpms refuses a payload that load() gave (TPMLIB_ValidateState,
        TPMLIB_MainInit)."""
        return VtpmError(Code.STATE_CORRUPT, f"{self._path(name)} is damaged: {reason}", remedy=self._remedy(name))

    def _file(self, name: str) -> str:
        return _PREFIX[self.version] + name

    def _path(self, name: str) -> str:
        return self._directory.path_of(self._file(name))

    def _temporary(self, name: str) -> str:
        return _TEMPORARY_PREFIX[self.version] + name

    def _check(self) -> None:
        self._directory.check_writable()
        present = self._directory.names()
        if self._file(PERMALL) not in present:
            self._check_unused()
            return
        for name in NAMES:
            self.load(name)
        for name in NAMES:
            if self._temporary(name) in present:
                self._directory.tidy(self._temporary(name))

    def _check_unused(self) -> None:
        """There is no permanent state. Refuse if there are traces of a TPM."""
        other = "1.2" if self.version == "2.0" else "2.0"
        found = traces(self._directory)
        ours = [file for file in found if file.startswith((_PREFIX[self.version], _TEMPORARY_PREFIX[self.version]))]
        if ours:
            cause = f"{self._path(PERMALL)} is missing, but {', '.join(ours)} is there"
            raise VtpmError(Code.STATE_CORRUPT, cause, remedy=self._missing_remedy(ours))
        foreign = [file for file in found if file.startswith(_PREFIX[other])]
        if foreign:
            named = file_name(other, PERMALL) if file_name(other, PERMALL) in foreign else foreign[0]
            raise VtpmError(
                Code.STATE_FOREIGN,
                f"{self.directory} holds {named}, which is a TPM {other}'s, and no {self._file(PERMALL)} of a TPM "
                f"{self.version}",
                remedy=f'set version = "{other}" in [tpm], or another directory in [state]; {_UNTOUCHED}',
            )
        for file in found:
            if self._directory.begins(file, *blob.LINEAR_BEGINNINGS):
                raise _linear(self._directory.path_of(file))

    def _payload(self, name: str, data: bytes) -> bytes:
        return unwrap(data, self.version, self.key, self._path(name), remedy=self._remedy(name))

    def _previous_is_good(self) -> bool:
        try:
            data = self._directory.read(self._file(PERMALL) + PREVIOUS)
            return data is not None and bool(unwrap(data, self.version, self.key, "", remedy=""))
        except VtpmError:
            return False

    def _remedy(self, name: str) -> str:
        """What to do about a damaged file."""
        path = self._path(name)
        if name != PERMALL:
            return f"{_UNTOUCHED}; without it the TPM starts as after a loss of power: {self._move(name)}"
        if self._previous_is_good():
            return f"{_UNTOUCHED}; restore the previous generation: {self._restore([name, VOLATILESTATE, SAVESTATE])}"
        return f"{_UNTOUCHED}; restore it from a backup (there is no good {path}{PREVIOUS})"

    def _restore(self, aside: list[str]) -> str:
        """Commands that make the previous generation the current one; what belongs to the one that goes is set aside
        first."""
        path = self._path(PERMALL)
        moves = [self._move(name) for name in aside if self._directory.stat(self._file(name)) is not None]
        return " && ".join([*moves, f"cp -p {quote(path + PREVIOUS)} {quote(path)}"])

    def _move(self, name: str) -> str:
        return f"mv {quote(self._path(name))} {quote(self._free(self._file(name)))}"

    def _free(self, name: str) -> str:
        """A path for what is set aside, at which nothing lies."""
        present = self._directory.names()
        endings = ["", *(f".{number}" for number in range(2, 100))]
        return self._directory.path_of(
            next(name + ending + BAD for ending in endings if name + ending + BAD not in present)
        )

    def _missing_remedy(self, traces: list[str]) -> str:
        if self._previous_is_good():
            return f"{_UNTOUCHED}; restore the previous generation: {self._restore([VOLATILESTATE, SAVESTATE])}"
        if traces == [self._temporary(PERMALL)]:
            aside = f"mv {quote(self._directory.path_of(traces[0]))} {quote(self._free('unfinished'))}"
            return f"{_UNTOUCHED}; restore it from a backup, or if this TPM was never used: {aside}"
        return f"{_UNTOUCHED}; restore it from a backup; for a new TPM give it an empty directory"


def open_locked(path: str, fd: Optional[int] = None) -> tuple[Directory, StateLock]:
    """The directory, locked, and with all of one set of files in it. Raises: VtpmError as Store.open()."""
    problem = None if fd is not None else wrong_place(path)
    if problem is not None:
        raise problem
    directory = Directory(path, fd)
    try:
        lock = StateLock.acquire(directory.fd, path)
        try:
            replacement.settle(directory)
        except BaseException:
            lock.close()
            raise
        return directory, lock
    except BaseException:
        directory.close()
        raise


def wrong_place(path: str) -> Optional[VtpmError]:
    """What is wrong with a state directory that is a file with all of a TPM; None: it is something else, or not to be
    read."""
    return _linear(path) if begins(path, *blob.LINEAR_BEGINNINGS) else None


def _linear(path: str) -> VtpmError:
    cause = (
        f"{path} is a file in which swtpm's file back end keeps all of a TPM, where a directory with its files "
        "should be"
    )
    return VtpmError(Code.STATE_FOREIGN, cause, remedy=_LINEAR_REMEDY)


def unwrap(
    data: bytes, version: str, key: Optional[StateKey], what: str, *, remedy: str, may_be_clear: bool = False
) -> bytes:
    """The payload of a blob, `what` being its name in an error, `remedy` what to do if it is damaged.

    `may_be_clear`: under a key too, as what a TPM takes from another one (swtpm does so).

    Raises:
        VtpmError: STATE_CORRUPT, STATE_FOREIGN, STATE_KEY
    """
    try:
        decoded = blob.decode(data)
        payload = blob.payload(decoded, Keys(state=key))
    except (blob.EncryptedBlob, blob.WrongKey) as error:
        raise VtpmError(Code.STATE_KEY, f"{what}: {error}", remedy=_KEY_REMEDY) from None
    except blob.LinearFile as error:
        raise VtpmError(Code.STATE_FOREIGN, f"{what}: {error}", remedy=_LINEAR_REMEDY) from None
    except blob.NewerBlob as error:
        raise VtpmError(
            Code.STATE_FOREIGN, f"{what}: {error}", remedy=f"serve it with the program that wrote it; {_UNTOUCHED}"
        ) from None
    except blob.BlobError as error:
        raise VtpmError(Code.STATE_CORRUPT, f"{what} is damaged: {error}", remedy=remedy) from None
    found = blob.payload_version(payload)
    if found not in (None, version):
        raise VtpmError(
            Code.STATE_FOREIGN,
            f"{what} is the state of a TPM {found}, not of a TPM {version}",
            remedy=f'set version = "{found}" in [tpm]; {_UNTOUCHED}',
        )
    if key is not None and not blob.is_encrypted(decoded) and not may_be_clear:
        raise VtpmError(
            Code.STATE_KEY,
            f"{what} is not encrypted, but a key is configured",
            remedy=f"encrypt it with that key: vtpmctl rekey {NAME}; {_UNTOUCHED}",
        )
    return payload
