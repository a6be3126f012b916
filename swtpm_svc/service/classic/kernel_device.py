"""The character device of `swtpm chardev`: one of the caller's, or one that the kernel's driver vtpm_proxy makes."""

import os
from typing import Callable

from swtpm_svc.errors import VtpmError
from swtpm_svc.frontends.dispatch import Dispatcher
from swtpm_svc.frontends.kernel import vtpmx
from swtpm_svc.frontends.kernel.char_device_frontend import CharDeviceFrontend
from swtpm_svc.frontends.kernel.kernel_frontend import KernelFrontend
from swtpm_svc.service.classic.emulation import Emulation
from swtpm_svc.service.classic.emulation_log import EmulationLog
from swtpm_svc.service.loop import Loop


class CallersDevice:
    """Made or open already; the end of it is that of the process."""

    def __init__(self, emulation: Emulation, log: EmulationLog) -> None:
        """
        Raises:
            VtpmError KERNEL_TPM_UNAVAILABLE
        """
        self._emulation = emulation
        self._log = log
        if emulation.character_device < 0:
            self._kernel_tpm = _make(emulation.config.tpm.version)

    def serve(self, loop: Loop, dispatcher: Dispatcher) -> "Callable[[], None]":
        if self._emulation.character_device >= 0:
            return CharDeviceFrontend(
                loop,
                dispatcher,
                self._emulation.character_device,
                self._hang_up(loop),
                obeys_set_locality=self._emulation.obeys_set_locality,
            ).close
        tpm = self._kernel_tpm
        frontend = KernelFrontend(loop, dispatcher, tpm, self._hang_up(loop))
        # incus reads this line
        line = f"New TPM device: {tpm.path} (major/minor = {tpm.major}/{tpm.minor})\n"
        os.write(1, line.encode())
        return frontend.close

    def _hang_up(self, loop: Loop) -> "Callable[[], None]":
        def stop() -> None:
            self._log.line("Data client disconnected")
            loop.stop()

        return stop


def _make(version: str) -> vtpmx.KernelTpm:
    try:
        return vtpmx.create(version)
    except VtpmError as error:
        raise VtpmError(error.code, f"Could not open {error.message}", remedy=error.remedy) from error
