"""What front ends tell of their clients, in the journal: who was refused, what the TPM answered, what went wrong."""

import time
from typing import Any, Callable, Optional

from swtpm_svc.errors import VtpmError
from swtpm_svc.frontends.dispatch import NOTABLE
from swtpm_svc.service.journal import COMMAND_ID, Journal
from swtpm_svc.wire import ptm, return_codes
from swtpm_svc.wire.command_codes import name as command_name
from swtpm_svc.wire.cuse import Caller

#: Pieces of a blob or of a hash are one operation.
_PIECES = (ptm.GetStateBlob, ptm.SetStateBlob, ptm.HashData)


class EventLog:
    """The dispatcher's `Events`. `on_controlled` is called after each control operation, `on_device_gone` once."""

    def __init__(
        self, journal: Journal, tpm_version: str, on_controlled: Callable[[], None], on_device_gone: Callable[[], None]
    ) -> None:
        self.last_error: Optional[dict[str, Any]] = None
        self._journal = journal
        self._tpm_version = tpm_version
        self._on_controlled = on_controlled
        self._on_device_gone = on_device_gone

    def refused(self, caller: Caller, error: VtpmError) -> None:
        self._journal.error(error, level="warning", CLIENT_PID=caller.pid, CLIENT_UID=caller.uid)

    def executed(self, caller: Caller, command: bytes, response: bytes) -> None:
        code, result = int.from_bytes(command[6:10], "big"), int.from_bytes(response[6:10], "big")
        self._journal.log(
            "warning" if response[6:10] in NOTABLE[self._tpm_version] else "debug",
            f"{command_name(self._tpm_version, code)}: {return_codes.describe(self._tpm_version, result)}",
            message_id=COMMAND_ID,
            TPM_CC=f"{code:#x}",
            TPM_RC=f"{result:#x}",
            CLIENT_PID=caller.pid,
            CLIENT_UID=caller.uid,
        )

    def controlled(self, caller: Caller, request: ptm.Request, result: int) -> None:
        """A control operation was carried out: the journal says who did what, systemd what came of it."""
        words = return_codes.describe("1.2", result)
        name = ptm.command_of(request).name
        level = "debug" if isinstance(request, _PIECES) else "info"
        self._journal.log(level, f"{name}: {words}", TPM_RC=f"{result:#x}", CLIENT_PID=caller.pid, CLIENT_UID=caller.uid)
        self._on_controlled()

    def failed(self, error: VtpmError) -> None:
        self.last_error = {"time": time.time(), "code": error.code.value, "message": error.message}
        self._journal.error(error)

    def device_gone(self) -> None:
        self._on_device_gone()
