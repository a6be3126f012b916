"""A TPM's storage (tpm.staging.Storage) that is memory, which never fails: of a TPM that is made, or only tried."""

from typing import Callable, Optional

from swtpm_svc.errors import VtpmError


class MemoryStorage:
    """`damaged` words what is wrong with a payload, from its name and the reason."""

    is_locked = True

    def __init__(self, payloads: "dict[str, bytes]", damaged: "Callable[[str, str], VtpmError]") -> None:
        self._payloads = dict(payloads)
        self._damaged = damaged

    def load(self, name: str) -> Optional[bytes]:
        return self._payloads.get(name)

    def store(self, name: str, payload: bytes) -> None:
        self._payloads[name] = payload

    def delete(self, name: str, *, must_exist: bool) -> None:
        self._payloads.pop(name, None)

    def probe(self) -> None:
        pass

    def lock(self) -> None:
        pass

    def unlock(self) -> None:
        pass

    def damaged(self, name: str, reason: str) -> VtpmError:
        return self._damaged(name, reason)
