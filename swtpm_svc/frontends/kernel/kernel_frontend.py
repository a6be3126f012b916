"""The front end for the kernel: answers its TPM driver, behind which are /dev/tpmN and its resource manager
/dev/tpmrmN.

The driver asks one command at a time on the descriptor (vtpm_proxy_device), and waits for its response. It first sends
a few commands of its own, among them TPM_Startup, and makes the device nodes when they were answered. Before its
commands it says at which locality they are meant, with a command that is for us and not for the TPM.
"""

import os

from swtpm_svc.frontends.dispatch import ALL_RIGHTS, Dispatcher
from swtpm_svc.frontends.kernel.vtpmx import KernelTpm
from swtpm_svc.frontends.watcher import Watcher
from swtpm_svc.tpm.controller import MAX_LOCALITY
from swtpm_svc.tpm.libtpms import BUFFER_SIZE
from swtpm_svc.wire.caller import Caller
from swtpm_svc.wire.command_codes import VTPM_PROXY_SET_LOCALITY
from swtpm_svc.wire.hints import Callable
from swtpm_svc.wire.tpm_header import ERROR_TAG, HEADER, HEADER_SIZE, encode_response

#: The kernel's driver does not tell who asks.
KERNEL = Caller(uid=0, gid=0, pid=0)


class KernelFrontend:
    """Answers the kernel on `tpm.fd`, which it owns. `on_gone` is called once if the kernel takes the TPM away."""

    def __init__(self, watcher: Watcher, dispatcher: Dispatcher, tpm: KernelTpm, on_gone: Callable[[], None]) -> None:
        self.tpm = tpm
        self._watcher = watcher
        self._dispatcher = dispatcher
        self._on_gone = on_gone
        self._locality = 0
        self._open = True
        #: A command waits for the worker.
        self._is_waiting = False
        self._done = encode_response(ERROR_TAG[dispatcher.tpm.version], 0)
        watcher.add(tpm.fd, self._on_readable)

    def give_up(self) -> None:
        """Answer what a killed predecessor had taken: the driver waits for minutes otherwise.

        Harmless if there is nothing.
        """
        self._answer(self._dispatcher.tpm.dialect.fatal)

    def _on_readable(self) -> None:
        try:
            command = bytearray(os.read(self.tpm.fd, BUFFER_SIZE))  # the driver's buffer is as large
        except OSError:
            command = bytearray()
        if not command:
            self.close()
            self._on_gone()
            return
        code = HEADER.unpack_from(command)[2] if len(command) >= HEADER_SIZE else 0
        if code == VTPM_PROXY_SET_LOCALITY:
            self._answer(self._set_locality(command))
            return
        # essential: for a command that is not answered, the driver waits for minutes
        self._is_waiting = not self._dispatcher.run(
            KERNEL, command, self._answer_command, locality=self._locality, rights=ALL_RIGHTS, is_essential=True
        )
        if self._is_waiting:
            self._watcher.remove(self.tpm.fd)

    def _answer_command(self, response: bytes) -> None:
        """Answer a command, then have the next one read: until it is, the driver takes no answer to one that it has
        given up."""
        self._answer(response)
        if self._is_waiting and self._open:
            self._is_waiting = False
            self._watcher.add(self.tpm.fd, self._on_readable)

    def _set_locality(self, command: bytearray) -> bytes:
        locality = command[HEADER_SIZE] if len(command) > HEADER_SIZE else 0
        if locality > MAX_LOCALITY:
            return self._dispatcher.tpm.dialect.bad_locality
        self._locality = locality
        return self._done

    def _answer(self, response: bytes) -> None:
        if not self._open:
            return
        try:
            os.write(self.tpm.fd, response)
        except OSError:
            pass  # nobody waits: the driver gave the command up, or the device is going

    def close(self) -> None:
        """The devices go, unless systemd keeps the descriptor too."""
        if self._open:
            self._open = False
            self._watcher.remove(self.tpm.fd)
            os.close(self.tpm.fd)
