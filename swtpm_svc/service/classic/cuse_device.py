"""The character device of swtpm_cuse, made with /dev/cuse under the name and the numbers that were asked for."""

import os
import time

from swtpm_svc.continuity.parking import Waiters
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.frontends.cuse import handshake
from swtpm_svc.frontends.cuse.cuse_frontend import CuseFrontend
from swtpm_svc.frontends.cuse.device_opener import LenientOpener
from swtpm_svc.frontends.dispatch import Dispatcher
from swtpm_svc.service.classic.emulation import Emulation
from swtpm_svc.service.classic.emulation_log import EmulationLog
from swtpm_svc.service.loop import Loop
from swtpm_svc.service.systemd import udev
from swtpm_svc.wire import cuse
from swtpm_svc.wire.hints import Callable

#: As many as the daemon keeps of requests that wait, 8 bytes each.
_WAITERS_BYTES = 8192
#: How long udev may take over the node. A node that it does not finish is served all the same.
_NODE_TIMEOUT_S = 10.0


class NewDevice:
    """Its name is free."""

    def __init__(self, emulation: Emulation, log: EmulationLog) -> None:
        """
        Raises:
            VtpmError DEVICE_NAME_TAKEN
        """
        self._config = emulation.config.device
        self._is_powered = emulation.config.tpm.power_on == "auto"
        self._log = log
        if os.path.lexists(self._config.node):
            cause = f"Error: A device '{self._config.node}' already exists."
            raise VtpmError(Code.DEVICE_NAME_TAKEN, cause, remedy="choose another --name")

    def serve(self, loop: Loop, dispatcher: Dispatcher) -> "Callable[[], None]":
        """
        Raises:
            VtpmError CUSE_MISSING, CUSE_DENIED, DEVICE_REJECTED
        """
        if self._is_powered:
            os.write(1, b"swtpm: CUSE TPM successfully initialized.\n")
        config = self._config
        try:
            fd = handshake.open_cuse()
        except VtpmError as error:
            if error.code is not Code.CUSE_MISSING:
                raise
            cause = "cuse: device not found, try 'modprobe cuse' first"
            raise VtpmError(error.code, cause, remedy=error.remedy) from error
        handshake.initialise(fd, config.name, config.major, config.minor)
        _wait_for_udev(config.node)
        # nobody comes after this process: what the daemon parks is plain memory here
        slot = memoryview(bytearray(cuse.MAX_REQUEST))
        waiters, polls = (Waiters(memoryview(bytearray(_WAITERS_BYTES))) for _ in range(2))
        frontend = CuseFrontend(fd, slot, waiters, polls, dispatcher, loop.lend, LenientOpener)
        loop.add(fd, frontend.serve_one)

        def end() -> None:
            self._log.line("CUSE TPM is shutting down.")
            loop.remove(fd)
            os.close(fd)

        return end


def _wait_for_udev(path: str) -> None:
    deadline = time.monotonic() + _NODE_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            if not udev.is_running() or udev.has_finished(os.stat(path)):
                return
        except FileNotFoundError:
            if not os.path.exists("/dev/cuse"):
                return
        time.sleep(0.01)
