"""The state of one TPM: locked, checked before anything is served, written durably, compatible with swtpm's.

With a key, all of it is encrypted; without one, none. What is not as configured is refused: state in clear under a key
as well as encrypted state without one, for a mistake must not decide whether secrets are kept. vtpmctl rekey takes it
from one to the other.

State that cannot be used is refused and left as it is. A TPM is only made anew where there are no traces of one.
"""

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.state import blob
from swtpm_svc.state.backend import NAMES, PERMALL, Backend
from swtpm_svc.state.encryption import StateKey
from swtpm_svc.state.payloads import unwrap
from swtpm_svc.state.state_directory import StateDirectory
from swtpm_svc.wire.hints import Optional, TracebackType
from swtpm_svc.wire.small_tools import suppress


class Store:
    """A context manager; owns the back end.

    Payloads are what libtpms' callbacks hand over and want back; the names are libtpms'.
    """

    def __init__(self, backend: Backend, version: str, key: Optional[StateKey]) -> None:
        self.version = version
        #: `generation` and `sizes` as of what this process did last: to look at them again may take as long as a disk
        #: does.
        self.seen: tuple[str, dict[str, int]] = ("-", {})
        self.key = key
        self._backend = backend

    @classmethod
    def open(cls, directory: str, version: str, key: Optional[StateKey] = None, fd: Optional[int] = None) -> "Store":
        """That of a directory: `of`, with the directory open already as `fd`, which is closed with the rest."""
        return cls.of(StateDirectory.open(directory, version, fd), version, key)

    @classmethod
    def of(
        cls, backend: Backend, version: str, key: Optional[StateKey] = None, *, is_incoming: bool = False
    ) -> "Store":
        """Lock it and check all that is in it. Nothing there is good: the TPM is then yet to be made.

        `is_incoming`: another one may have it; it is locked and checked later.

        `key` encrypts the state; None: it is in clear.

        The check reads and decodes; libtpms alone can say whether it likes a payload (see `damaged`).

        Raises:
            VtpmError: STATE_MISSING, STATE_LOCKED, STATE_UNREADABLE, STATE_UNWRITABLE, STATE_FULL (no room for .lock),
                STATE_CORRUPT, STATE_FOREIGN, STATE_KEY. No state was changed, whichever it is.
        """
        store = cls(backend, version, key)
        if is_incoming:
            return store
        try:
            store.lock()
        except BaseException:
            store.close()
            raise
        return store

    @property
    def is_locked(self) -> bool:
        return self._backend.is_locked

    def lock(self) -> None:
        """Take the lock, and look at all that is there once more. Raises: VtpmError as `of`."""
        self._backend.lock()
        try:
            self._check()
            self._look()
        except BaseException:
            self._backend.unlock()
            raise

    def unlock(self) -> None:
        """Let another one have it. What is stored from here on takes the lock again first."""
        self._backend.unlock()

    def take_remarks(self) -> "list[str]":
        """What was done, since the last time, that a person should hear of."""
        found, self._backend.remarks = self._backend.remarks, []
        return found

    def close(self) -> None:
        """Give the lock up."""
        self._backend.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    @property
    def path(self) -> str:
        """Where it is kept."""
        return self._backend.path

    @property
    def generation(self) -> str:
        """Names the permanent state that is on disk now: when it was written, seconds since 1970 to the nanosecond;
        "-": never.

        Two equal values are the same generation; a larger one is later, as far as the clock was never set back. Costs
        one stat.
        """
        return self._backend.generation()

    def sizes(self) -> dict[str, int]:
        """Bytes on disk of each blob that there is, by libtpms' name."""
        sizes = ((name, self._backend.size(name)) for name in NAMES)
        return {name: size for name, size in sizes if size is not None}

    def load(self, name: str) -> Optional[bytes]:
        """The payload; None when there is none. Raises: VtpmError as `of`."""
        data = self.raw(name)
        if data is None:
            return None
        return unwrap(
            data,
            self.version,
            self.key,
            self._backend.path_of(name),
            remedy=lambda: self._backend.remedy(name, self._is_good),
        )

    def raw(self, name: str) -> Optional[bytes]:
        """The whole blob, header and all; None when there is none. Raises: VtpmError STATE_UNREADABLE,
        STATE_CORRUPT."""
        return self._backend.read(name)

    def store(self, name: str, payload: bytes) -> None:
        """Write the payload; it is durable on return. Of the permanent state a directory keeps the generation before.

        Raises:
            VtpmError: STATE_FULL, STATE_UNWRITABLE. The old content is there still (one exception:
                files.Directory.replace).
        """
        self._have_lock()
        self._backend.write(name, blob.encode_checked(payload, self.key))
        with suppress(VtpmError):  # it is stored
            self._look()

    def probe(self) -> None:
        """Can the permanent state be stored? Tries with as many bytes, in the same steps; all state stays as it is.

        Raises:
            VtpmError: as store(), and as `of` if what is there cannot be read any more
        """
        self._have_lock()
        for name in NAMES:
            self.load(name)
        self._backend.probe()

    def unwrap(self, name: str, data: bytes) -> bytes:
        """The payload of a state blob that someone handed over.

        Raises: VtpmError STATE_CORRUPT, STATE_FOREIGN, STATE_KEY.
        """
        remedy = "get the blob again from the TPM that it is of"
        return unwrap(data, self.version, self.key, f"the {name} blob", remedy=remedy, may_be_clear=True)

    def delete(self, name: str, *, must_exist: bool) -> None:
        """Remove a blob, durably. Raises: VtpmError STATE_MISSING (only with must_exist), STATE_UNWRITABLE."""
        self._have_lock()
        was_there = self._backend.remove(name)
        with suppress(VtpmError):
            self._look()
        if must_exist and not was_there:
            remedy = "nothing is to be done: it was not stored, or is gone already"
            raise VtpmError(Code.STATE_MISSING, f"there is no {self._backend.path_of(name)} to remove", remedy=remedy)

    def load_identity(self) -> Optional[bytes]:
        """Raises: VtpmError STATE_UNREADABLE, STATE_CORRUPT."""
        return self._backend.read_identity()

    def store_identity(self, data: bytes) -> None:
        """Raises: VtpmError STATE_FULL, STATE_UNWRITABLE."""
        self._have_lock()
        self._backend.write_identity(data)

    def remove_identity(self) -> None:
        """Raises: VtpmError STATE_UNWRITABLE."""
        self._have_lock()
        self._backend.remove_identity()

    def damaged(self, name: str, reason: str) -> VtpmError:
        """The error to raise when libtpms refuses a payload that load() gave (TPMLIB_ValidateState,
        TPMLIB_MainInit)."""
        remedy = self._backend.remedy(name, self._is_good)
        return VtpmError(Code.STATE_CORRUPT, f"{self._backend.path_of(name)} is damaged: {reason}", remedy=remedy)

    def _have_lock(self) -> None:
        if not self._backend.is_locked:
            self.lock()

    def _look(self) -> None:
        self.seen = self.generation, self.sizes()

    def _check(self) -> None:
        if not self._backend.check(self._is_good):
            return
        try:
            self.load(PERMALL)
        except VtpmError:
            if not self._backend.go_back(self._is_good):
                raise
        for name in NAMES:
            self.load(name)
        self._backend.tidy()

    def _is_good(self, data: bytes) -> bool:
        try:
            return bool(unwrap(data, self.version, self.key, "", remedy=""))
        except VtpmError:
            return False
