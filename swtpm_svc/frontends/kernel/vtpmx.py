"""/dev/vtpmx makes a TPM that the kernel takes for its own, and that is served on a descriptor.

Its driver is vtpm_proxy. An ioctl makes the TPM, which lives as long as the descriptor that the ioctl gives
(Documentation/security/tpm/tpm_vtpm_proxy.rst, linux/vtpm_proxy.h).
"""

import errno
import fcntl
import os
from struct import Struct

from swtpm_svc.errors import NAME, Code, VtpmError
from swtpm_svc.wire.values import NamedTuple

VTPMX_PATH = "/dev/vtpmx"

#: struct vtpm_proxy_new_dev: flags, and from the kernel: number of the TPM, descriptor, major, minor of /dev/tpmN.
_NEW_DEVICE = Struct("=5I")
_NEW_DEVICE_IOCTL = 0xC014A100  # _IOWR(0xa1, 0x00, struct vtpm_proxy_new_dev)
_FLAG_TPM2 = 1


class KernelTpm(NamedTuple):
    """A TPM of the kernel that is served on `fd`."""

    fd: int
    number: int
    #: Of /dev/tpmN; 0: not known any more.
    major: int = 0
    minor: int = 0

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
            else f"it takes root with CAP_SYS_ADMIN: start the service by systemctl start vtpm@{NAME}",
        ) from error
    _flags, number, fd, major, minor = _NEW_DEVICE.unpack(request)
    os.set_inheritable(fd, False)
    return KernelTpm(fd, number, major, minor)
