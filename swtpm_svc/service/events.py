"""What front ends tell of their clients, in the journal: who was refused, what the TPM answered, what went wrong."""

import time

from swtpm_svc.errors import TABLE, Code, VtpmError
from swtpm_svc.frontends.dispatch import NOTABLE
from swtpm_svc.service.systemd.journal import COMMAND_ID, COUNT_ID, HEALED_ID, Journal
from swtpm_svc.service.throttle import Throttle
from swtpm_svc.tpm.power import Failure
from swtpm_svc.wire import ptm, return_codes
from swtpm_svc.wire.caller import Caller
from swtpm_svc.wire.command_codes import name as command_name
from swtpm_svc.wire.hints import Any, Callable, Hashable, Optional

#: Pieces of a blob or of a hash are one operation.
Fields = dict[str, Any]

_PIECES = (ptm.GetStateBlob, ptm.SetStateBlob, ptm.HashData)


#: Entries of one kind in a minute that are not refusals: of control operations, of what went wrong.
_BURST = 20


class EventLog:
    """The dispatcher's `Events`. `on_controlled` is called after each control operation, `on_device_gone` once."""

    def __init__(
        self,
        journal: Journal,
        throttle: Throttle,
        tpm_version: str,
        on_controlled: Callable[[], None],
        on_device_gone: Callable[[], None],
        name: "Callable[[Caller, Callable[[str], None]], None]",
    ) -> None:
        """`name` calls back with who a caller is, in words."""
        self.last_error: Optional[dict[str, Any]] = None
        self._journal = journal
        self._throttle = throttle
        self._tpm_version = tpm_version
        self._on_controlled = on_controlled
        self._on_device_gone = on_device_gone
        self._name = name

    def refused(self, caller: Caller, error: VtpmError) -> None:
        """One entry for each user and kind of refusal, then a count."""
        fields: Fields = {"VTPM_ERROR": error.code.value}
        kind = caller.uid, error.message if error.code is Code.NOT_PERMITTED else error.code
        if self._admits(kind, "warning", error.message, fields, caller=caller):

            def tell(who: str) -> None:
                named = VtpmError(error.code, f"{error.message}: refused to {who}", remedy=error.remedy)
                named.__cause__ = error.__cause__
                self._journal.error(named, level="warning", CLIENT_PID=caller.pid, CLIENT_UID=caller.uid)

            self._name(caller, tell)

    def executed(self, caller: Caller, command: bytes, response: bytes) -> None:
        code, result = int.from_bytes(command[6:10], "big"), int.from_bytes(response[6:10], "big")
        words = f"{command_name(self._tpm_version, code)}: {return_codes.describe(self._tpm_version, result)}"
        fields: Fields = {"TPM_CC": f"{code:#x}", "TPM_RC": f"{result:#x}"}
        level = "warning" if response[6:10] in NOTABLE[self._tpm_version] else "debug"
        if level == "debug" or self._admits((caller.uid, result), level, words, fields, caller=caller):
            self._journal.log(
                level, words, message_id=COMMAND_ID, **fields, CLIENT_PID=caller.pid, CLIENT_UID=caller.uid
            )

    def controlled(self, caller: Caller, request: ptm.Request, result: int) -> None:
        """A control operation was carried out: the journal says who did what, systemd what came of it."""
        words = return_codes.describe("1.2", result)
        name = ptm.command_of(request).name
        level = "debug" if isinstance(request, _PIECES) else "info"
        what, fields = f"{name}: {words}", {"TPM_RC": f"{result:#x}"}
        kind = caller.uid, name, result
        if level == "debug" or self._admits(kind, level, what, fields, caller=caller, burst=_BURST):

            def tell(who: str) -> None:
                words = f"{what}, asked by {who}"
                self._journal.log(level, words, **fields, CLIENT_PID=caller.pid, CLIENT_UID=caller.uid)

            if level == "debug":
                self._journal.log(level, what, **fields, CLIENT_PID=caller.pid, CLIENT_UID=caller.uid)
            else:
                self._name(caller, tell)
        self._on_controlled()

    def failed(self, error: VtpmError) -> None:
        self.last_error = {"time": time.time(), "code": error.code.value, "message": error.message}
        if self._admits(error.message, "error", error.message, {"VTPM_ERROR": error.code.value}, burst=_BURST):
            self._journal.error(error)

    def tpm_failed(self, failure: Optional[Failure]) -> None:
        """The TPM has failed, or (None) goes on. From any thread."""
        if failure is None:
            words = "the state can be stored again: the TPM goes on from the last command that was acknowledged"
            self._tell("notice", words, HEALED_ID)
        elif failure.heals:
            self._tell(
                "error",
                "the TPM has failed: its state cannot be stored; it answers each command with failure until it can be, "
                "and then goes on with its PCRs and sessions",
                TABLE[Code.TPM_FAILED].message_id,
                VTPM_ERROR=failure.cause.code.value,
            )

    def _tell(self, level: str, words: str, message_id: str, **fields: str) -> None:
        """At most so often: clients can repeat it at will where a disk takes a probe and refuses a state."""
        if self._admits(words, level, words, fields, burst=_BURST):
            self._journal.log(level, words, message_id=message_id, **fields)

    def _admits(
        self, kind: Hashable, level: str, what: str, fields: Fields, *, caller: Optional[Caller] = None, burst: int = 1
    ) -> bool:
        """Is an entry of `kind` to be written now? Later ones are counted, as `what` that `caller` did."""

        def write_count(more: int) -> None:
            user = f"user {caller.uid}: " if caller is not None else ""
            uid = caller.uid if caller is not None else None
            self._journal.log(
                level, f"{more} more times within a minute: {user}{what}", message_id=COUNT_ID, **fields, CLIENT_UID=uid
            )

        return self._throttle.admit(kind, write_count, burst=burst)

    def device_gone(self) -> None:
        self._on_device_gone()
