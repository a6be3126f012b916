"""The controller of a classic command, which logs what swtpm logs: an INIT that fails, and blobs of a device.

The lines are those that were seen of swtpm 0.7.1 to 0.11 (swtpm_cuse's for the blobs).
"""

from swtpm_svc.tpm.controller import BLOB_NAMES, Controller
from swtpm_svc.tpm.tpm import Tpm
from swtpm_svc.wire import ptm
from swtpm_svc.wire.hints import Any, Callable


class LoggedController(Controller):
    """`log` gets the lines. `tells_blobs`: also of each state blob that is asked for or brought."""

    def __init__(self, tpm: Tpm, *, log: Callable[[str], None], tells_blobs: bool, **words: Any) -> None:
        super().__init__(tpm, **words)
        self._log = log
        self._tells_blobs = tells_blobs

    def handle(self, request: ptm.Request) -> ptm.Reply:
        reply = super().handle(request)
        result = 0 if isinstance(reply, ptm.CapabilityReply) else reply.tpm_result
        if isinstance(request, ptm.Init):
            if result:
                self._log("Error: Could not initialize libtpms.")
                self._log("Error: Could not initialize the TPM")
        elif self._tells_blobs and isinstance(request, ptm.GetStateBlob):
            size = len(reply.data) if isinstance(reply, ptm.StateBlobReply) else 0
            self._log(f"Serialized state type {request.type}, length={size}, totlength={size}, res={result}")
        elif self._tells_blobs and isinstance(request, ptm.SetStateBlob):
            name = BLOB_NAMES.get(request.type, "unknown")
            self._log(f"Deserialized state type {request.type} ({name}), length={len(request.data)}, res={result}")
        return reply
