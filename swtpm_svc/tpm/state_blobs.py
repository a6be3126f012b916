"""The state blobs of a TPM: by name, and those that were set and wait for the next power-on.

Libtpms' names are those of swtpm's files. What is set is libtpms' to keep; here is what storage must say afterwards.
"""

from swtpm_svc.tpm import libtpms
from swtpm_svc.tpm.libtpms import LibtpmsError
from swtpm_svc.tpm.staging import Staging
from swtpm_svc.wire.hints import Optional

VOLATILE_STATE = "volatilestate"
PERMANENT_STATE = "permall"
SAVE_STATE = "savestate"

_KINDS = {PERMANENT_STATE: libtpms.PERMANENT, VOLATILE_STATE: libtpms.VOLATILE, SAVE_STATE: libtpms.SAVE_STATE}


def refusal(error: LibtpmsError) -> str:
    return f"libtpms does not accept it (TPM result {error.result:#x})"


class StateBlobs:
    """Those of the TPM whose storage is `storage`."""

    def __init__(self, storage: Staging) -> None:
        self._storage = storage
        #: Those that were set and wait for the next power-on.
        self.offered: dict[str, bytes] = {}

    def get(self, name: str) -> Optional[bytes]:
        """The payload of a blob of the running TPM; None where there is none (a savestate that was not made)."""
        if name == SAVE_STATE:
            return self._storage.load(SAVE_STATE)
        return libtpms.get_state(_KINDS[name]) or None

    def offer(self, name: str, payload: bytes) -> None:
        """Offer a blob to the next power-on. Only while stopped; the permanent state comes first.

        Raises:
            VtpmError: libtpms did not accept it; what is stored is as before.
        """
        try:
            libtpms.set_state(_KINDS[name], payload)
        except LibtpmsError:
            self.offered = {}  # libtpms forgets all of them when it refuses one (TPMLIB_SetState(3))
            raise
        self.offered[name] = payload

    def offer_all(self, blobs: "dict[str, bytes]") -> None:
        """The same with several."""
        for name in (PERMANENT_STATE, VOLATILE_STATE, SAVE_STATE):
            if name in blobs:
                self.offer(name, blobs[name])

    def take_offered(self) -> "dict[str, bytes]":
        """Those that wait no longer, as the TPM is powered on now."""
        offered, self.offered = self.offered, {}
        return offered

    def validate(self, offered: "dict[str, bytes]") -> None:
        """Have libtpms look at what is stored, before it starts and while storage is still as it was.

        What was offered it has seen already, and must not again: in a TPM 1.2 it is then used up, and what is stored
        starts (measured).

        Raises:
            VtpmError: it does not accept a blob, or one cannot be loaded.
        """
        for name in (PERMANENT_STATE, VOLATILE_STATE):
            if name in offered or self._storage.load(name) is None:
                continue
            try:
                libtpms.validate_state(_KINDS[name])
            except LibtpmsError as error:
                raise self._storage.damaged(name, refusal(error)) from error

    def settle(self, offered: "dict[str, bytes]") -> None:
        """Make storage say what the TPM was powered on with; libtpms itself has stored the permanent state."""
        for name in (VOLATILE_STATE, SAVE_STATE):
            if name in offered:
                self._storage.store(name, offered[name])
            elif PERMANENT_STATE in offered:
                self._storage.delete(name, must_exist=False)
