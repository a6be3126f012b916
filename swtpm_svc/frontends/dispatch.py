"""What every front end does with a request: may the caller, does it run now or after the long command, who is told.

A front end decodes and encodes; here is the policy between it and the TPM. All methods belong to the serving thread.
"""

from typing import Callable, Optional, Protocol

from swtpm_svc.errors import VtpmError
from swtpm_svc.tpm.controller import Controller, Rights, authorize, is_immediate, needs_control
from swtpm_svc.tpm.executor import Executor
from swtpm_svc.tpm.libtpms import TPM_SUCCESS
from swtpm_svc.tpm.tpm import Tpm
from swtpm_svc.wire import ptm
from swtpm_svc.wire.command_codes import LONG_RUNNING
from swtpm_svc.wire.cuse import Caller


class Events(Protocol):
    """What a front end tells the service."""

    def refused(self, caller: Caller, error: VtpmError) -> None: ...

    def executed(self, caller: Caller, command: bytes, response: bytes) -> None: ...

    def controlled(self, caller: Caller, request: ptm.Request, result: int) -> None: ...

    def failed(self, error: VtpmError) -> None: ...

    def device_gone(self) -> None: ...


class Dispatcher:
    """One for all front ends of a TPM. `trace` makes `events.executed` hear of each command; else they are only counted."""

    def __init__(
        self, tpm: Tpm, controller: Controller, executor: Executor, rights_of: Callable[[Caller], Rights], events: Events
    ) -> None:
        self.tpm = tpm
        self.controller = controller
        self.executor = executor
        self.events = events
        self.commands = 0
        self.trace = False
        self.long_running = LONG_RUNNING[tpm.version]
        self._rights_of = rights_of

    def must_wait(self, request: ptm.Request) -> bool:
        """Has the request to wait for a long command?"""
        return self.executor.busy and not is_immediate(request)

    def execute_later(self, caller: Caller, command: bytearray, code: int, done: Callable[[bytes], None]) -> None:
        """Execute a command on the worker, then `done(response)`. `command` is the dispatcher's from here on."""

        def finish(response: bytes) -> None:
            if self.trace:
                self.events.executed(caller, bytes(command), response)
            done(response)

        self.executor.submit(lambda: self.tpm.execute(memoryview(command), code), finish)

    def control(
        self,
        caller: Caller,
        request: ptm.Request,
        done: Callable[[ptm.Reply], None],
        *,
        perform: Optional[Callable[[ptm.Request], ptm.Reply]] = None,
        is_own: bool = False,
    ) -> None:
        """Carry out a control request, now or after what runs, then `done(reply)`.

        `perform` stands in for the controller where a front end has more to do. `is_own`: the command in work is the
        caller's, who may cancel it whatever his rights.

        Raises:
            VtpmError NOT_PERMITTED
        """
        is_cancel = isinstance(request, ptm.CancelTpmCommand)
        if not (is_cancel and is_own):
            try:
                authorize(request, self._rights_of(caller))
            except VtpmError as error:
                self.events.refused(caller, error)
                raise
        work = perform or self.controller.handle

        def finish(reply: ptm.Reply) -> None:
            if needs_control(request):
                self.events.controlled(caller, request, 0 if isinstance(reply, ptm.CapabilityReply) else reply.tpm_result)
            done(reply)

        if is_cancel and self.tpm.is_running and not self.executor.busy:
            finish(ptm.Result(TPM_SUCCESS))  # nothing runs: nothing to cancel
        elif self.must_wait(request):
            self.executor.submit(lambda: work(request), finish)
        else:
            finish(work(request))
