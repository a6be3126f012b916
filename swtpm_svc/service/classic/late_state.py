"""State that is opened when the TPM first has power: until then there is no TPM, no lock, and nobody looks."""

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.state.store import Store
from swtpm_svc.wire.hints import Callable, Optional


class LateState:
    """The storage of a `Tpm`; `open_store` is called once, with the first thing that is asked for."""

    def __init__(self, open_store: Callable[[], Store]) -> None:
        self._open_store = open_store
        self._store: Optional[Store] = None

    @property
    def opened(self) -> Store:
        """Raises: VtpmError as Store.of(); the next one who asks tries again."""
        if self._store is None:
            self._store = self._open_store()
        return self._store

    @property
    def is_locked(self) -> bool:
        return self._store is not None and self._store.is_locked

    def lock(self) -> None:
        """Raises: VtpmError as Store.of(): it cannot be had, or somebody else has it."""
        if not self.opened.is_locked:  # opening it may have taken the lock
            self.opened.lock()

    def unlock(self) -> None:
        self.opened.unlock()

    def load(self, name: str) -> Optional[bytes]:
        return self.opened.load(name)

    def store(self, name: str, payload: bytes) -> None:
        self.opened.store(name, payload)

    def delete(self, name: str, *, must_exist: bool) -> None:
        self.opened.delete(name, must_exist=must_exist)

    def damaged(self, name: str, reason: str) -> VtpmError:
        if self._store is None:
            remedy = "get the blob again from the TPM that it is of"
            return VtpmError(Code.STATE_CORRUPT, f"the {name} is damaged: {reason}", remedy=remedy)
        return self._store.damaged(name, reason)

    def probe(self) -> None:
        self.opened.probe()

    def close(self) -> None:
        """Give the lock up."""
        if self._store is not None:
            self._store.close()
            self._store = None
