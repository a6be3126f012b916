"""What ends the service besides the signals of systemd, and what that means for its successor."""

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.wire.hints import Callable, Optional


class Ending:
    """Why it ends: `stop` makes it end, `tell` hears of what was wrong. All methods belong to the serving thread."""

    def __init__(self, node: str, stop: Callable[[], None], tell: Callable[[VtpmError], None]) -> None:
        #: The exit status comes of it; None: the service was asked to end.
        self.fault: Optional[VtpmError] = None
        #: A client has shut the TPM down: nothing is left to a successor.
        self.is_shut_down = False
        #: The device `node` is gone, and a successor has to make a new one.
        self.device_is_gone = False
        self._node = node
        self._stop = stop
        self._tell = tell

    def shut_down(self) -> None:
        self.is_shut_down = True
        self._stop()

    def lose_device(self) -> None:
        self.device_is_gone = True
        # no end that anybody asked for: the status is one of those after which systemd starts the service again
        self.fail(
            VtpmError(
                Code.DEVICE_NOT_READY,
                f"the kernel has taken {self._node} away",
                remedy="see why: journalctl -k; systemd starts the service again",
            )
        )

    def fail(self, fault: VtpmError) -> None:
        """What the service cannot do without is gone."""
        self._tell(fault)
        self.fault = fault
        self._stop()
