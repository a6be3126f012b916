"""The kernel's vtpm_proxy: a TPM of ours as the host's own /dev/tpmN, with its resource manager /dev/tpmrmN.

The ioctl on /dev/vtpmx gives a descriptor on which the kernel's TPM driver asks one command at a time, and waits for its
response; the devices live as long as the descriptor (Documentation/security/tpm/tpm_vtpm_proxy.rst, linux/vtpm_proxy.h).
The driver first sends a few commands of its own, among them TPM_Startup, and makes the device nodes when they were
answered. Before its commands it says at which locality they are meant, with a command that is for us and not for the TPM.
"""

import errno
import fcntl
import os
from struct import Struct
from typing import Callable, NamedTuple

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.frontends.channel import Watcher
from swtpm_svc.frontends.dispatch import Dispatcher
from swtpm_svc.tpm.controller import MAX_LOCALITY
from swtpm_svc.tpm.libtpms import BUFFER_SIZE
from swtpm_svc.wire.command_codes import VTPM_PROXY_SET_LOCALITY
from swtpm_svc.wire.cuse import Caller
from swtpm_svc.wire.tpm import ERROR_TAG, HEADER, HEADER_SIZE, encode_response

VTPMX_PATH = "/dev/vtpmx"

#: struct vtpm_proxy_new_dev: flags, and from the kernel: number of the TPM, descriptor, major, minor of /dev/tpmN.
_NEW_DEVICE = Struct("=5I")
_NEW_DEVICE_IOCTL = 0xC014A100  # _IOWR(0xa1, 0x00, struct vtpm_proxy_new_dev)
_FLAG_TPM2 = 1

#: Who asks is behind the kernel's driver, and not told.
KERNEL = Caller(uid=0, gid=0, pid=0)


class KernelTpm(NamedTuple):
    """A TPM of the kernel that is served on `fd`."""

    fd: int
    number: int

    @property
    def path(self) -> str:
        return f"/dev/tpm{self.number}"

    @property
    def resource_manager(self) -> str:
        """Of a TPM 2.0; the kernel makes none for a 1.2."""
        return f"/dev/tpmrm{self.number}"


def create(version: str) -> KernelTpm:
    """Have the kernel make a TPM. Needs CAP_SYS_ADMIN. Its device nodes come when its first commands were answered.

    Raises:
        VtpmError KERNEL_TPM_UNAVAILABLE
    """
    try:
        vtpmx = os.open(VTPMX_PATH, os.O_RDWR | os.O_CLOEXEC)
        try:
            request = bytearray(_NEW_DEVICE.pack(_FLAG_TPM2 if version == "2.0" else 0, 0, 0, 0, 0))
            fcntl.ioctl(vtpmx, _NEW_DEVICE_IOCTL, request, True)
        finally:
            os.close(vtpmx)
    except OSError as error:
        missing = error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO)
        raise VtpmError(
            Code.KERNEL_TPM_UNAVAILABLE,
            f"{VTPMX_PATH}: {error.strerror}",
            remedy="modprobe tpm_vtpm_proxy; some kernels have it in a package of extra modules, some not at all"
            if missing
            else "it takes root with CAP_SYS_ADMIN: start the service by systemctl start vtpm@NAME",
        ) from error
    _flags, number, fd, _major, _minor = _NEW_DEVICE.unpack(request)
    os.set_inheritable(fd, False)
    return KernelTpm(fd, number)


class VtpmProxyFrontend:
    """Answers the kernel on `tpm.fd`, which it owns. `on_gone` is called once if the kernel takes the TPM away."""

    def __init__(self, watcher: Watcher, dispatcher: Dispatcher, tpm: KernelTpm, on_gone: Callable[[], None]) -> None:
        self.tpm = tpm
        self._watcher = watcher
        self._dispatcher = dispatcher
        self._on_gone = on_gone
        self._locality = 0
        self._open = True
        self._done = encode_response(ERROR_TAG[dispatcher.tpm.version], 0)
        watcher.add(tpm.fd, self._on_readable)

    def give_up(self) -> None:
        """Answer what a killed predecessor had taken: the driver waits for minutes otherwise. Harmless if there is nothing."""
        self._answer(self._dispatcher.tpm.fatal())

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
        dispatcher = self._dispatcher
        dispatcher.commands += 1
        if dispatcher.executor.busy or code in dispatcher.long_running:
            dispatcher.execute_later(KERNEL, command, code, self._answer, locality=self._locality)
        else:
            self._answer(dispatcher.execute(KERNEL, command, code, self._locality))

    def _set_locality(self, command: bytearray) -> bytes:
        locality = command[HEADER_SIZE] if len(command) > HEADER_SIZE else 0
        if locality > MAX_LOCALITY:
            return self._dispatcher.tpm.bad_locality()
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
