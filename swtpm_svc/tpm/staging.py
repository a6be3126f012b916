"""Storage as libtpms sees it: what a command stores is staged, and goes to the storage proper when the command is done.

So libtpms never waits for a disk, a disk that is full does not put it into failure mode, in which it would stay, and
what a command stores in two steps is stored once. No response may leave before `commit` has succeeded (decisions/0020).
"""

import time

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.tpm.libtpms import Storage as Loader
from swtpm_svc.wire.hints import Optional, Protocol


class Storage(Loader, Protocol):
    """The storage proper.

    `damaged` is the error that tells a person what to do when libtpms refuses what `load` gave. `probe` raises, as
    `store` would, when nothing can be stored. `lock` says nobody else has it, or raises; `unlock` lets another one have
    it.
    """

    @property
    def is_locked(self) -> bool: ...

    def lock(self) -> None: ...

    def unlock(self) -> None: ...

    def damaged(self, name: str, reason: str) -> VtpmError: ...

    def probe(self) -> None: ...


class Staging:
    """One for a TPM. It belongs to the thread that executes commands; `since` may be read by others."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        #: What is to be stored, by name; None: to be removed.
        self.staged: dict[str, Optional[bytes]] = {}
        #: State blobs laid over the storage that come from memory, or (None) are hidden.
        self.blobs: dict[str, Optional[bytes]] = {}
        #: When the storage was asked for what it has not done yet, of time.monotonic(); None: it is idle.
        self.since: Optional[float] = None

    def load(self, name: str) -> Optional[bytes]:
        for layer in (self.staged, self.blobs):
            if name in layer:
                return layer[name]
        return self._storage.load(name)

    def store(self, name: str, payload: bytes) -> None:
        self.staged.pop(name, None)  # the order is that of the last time
        self.staged[name] = payload

    def delete(self, name: str, *, must_exist: bool) -> None:
        # whether it exists is not asked here, on the way of a command: what somebody else has removed is removed
        self.staged.pop(name, None)
        self.staged[name] = None

    def commit(self) -> int:
        """Store what is staged, then remove; returns how much that was.

        Raises:
            VtpmError: what failed and what comes after it is staged still.
        """
        if not self.staged:
            return 0
        self.since = time.monotonic()
        try:
            steps = sorted(self.staged.items(), key=lambda step: step[1] is None)  # a removal cannot be undone
            for name, payload in steps:
                if payload is None:
                    self._storage.delete(name, must_exist=False)
                else:
                    self._storage.store(name, payload)
                del self.staged[name]
            return len(steps)
        finally:
            self.since = None

    def probe(self) -> None:
        """Store what is staged, or find out whether anything could be stored. Raises: VtpmError: it could not."""
        if self.staged:
            self.commit()
            return
        self.since = time.monotonic()
        try:
            self._storage.probe()
        finally:
            self.since = None

    def lock(self) -> None:
        """Raises: VtpmError: somebody else has it."""
        self._storage.lock()

    def unlock(self) -> None:
        self._storage.unlock()

    def damaged(self, name: str, reason: str) -> VtpmError:
        if self.blobs.get(name) is None:
            return self._storage.damaged(name, reason)
        return VtpmError(
            Code.HANDOVER_REFUSED,
            f"the {name} that was kept in memory cannot be used: {reason}; the state on disk is untouched",
            remedy="nothing is to be done: the TPM is powered on from the state on disk, as after a power cut",
        )
