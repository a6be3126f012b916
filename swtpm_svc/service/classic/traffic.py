"""What front ends of a classic command tell, and where it goes: the log."""

from swtpm_svc.errors import VtpmError
from swtpm_svc.service.classic.emulation_log import EmulationLog
from swtpm_svc.wire import ptm
from swtpm_svc.wire.caller import Caller
from swtpm_svc.wire.hints import Callable


class Traffic:
    """The dispatcher's `Events`. `on_device_gone` is called once when the kernel takes the device away.

    With the dispatcher's `trace` it hears of each command, and shows it if the log wants traffic.
    """

    def __init__(self, log: EmulationLog, on_device_gone: Callable[[], None]) -> None:
        self._log = log
        self._on_device_gone = on_device_gone

    def refused(self, caller: Caller, error: VtpmError) -> None:
        self._log.line(f"user {caller.uid}: {error.message}")

    def executed(self, _caller: Caller, command: bytes, response: bytes) -> None:
        self.own_command(command, response)

    def own_command(self, command: bytes, response: bytes) -> None:
        """A command was executed, whoever sent it."""
        if self._log.has_traffic:
            self._log.traffic("SWTPM_IO_Read", command)
            self._log.traffic("SWTPM_IO_Write", response)

    def controlled(self, _caller: Caller, _request: ptm.Request, _result: int) -> None:
        """The channel has shown it."""

    def failed(self, error: VtpmError) -> None:
        self._log.error(error)

    def device_gone(self) -> None:
        self._on_device_gone()
