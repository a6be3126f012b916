"""The kernel's TPM of an instance: made by root, kept by systemd over restarts, and noted where udev finds it.

The descriptor is in systemd's descriptor store; which number the kernel gave the TPM cannot be asked of it, so root
notes that (kernel_tpm_record.py). The note is there before the kernel's devices are: those wait for our first answers.
So udev's rule can name the instance that a /dev/tpmN belongs to.
"""

import os
import select
import stat
import time

from swtpm_svc.config.loading import Config
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.frontends.kernel.vtpmx import KernelTpm, create
from swtpm_svc.service.kernel_tpm import kernel_tpm_record
from swtpm_svc.service.kernel_tpm.kernel_tpm_record import KernelTpmRecord
from swtpm_svc.service.status_socket import runtime_path
from swtpm_svc.service.systemd import udev
from swtpm_svc.service.systemd.notify import Descriptors, Notifier
from swtpm_svc.wire.hints import Optional
from swtpm_svc.wire.small_tools import suppress

#: The descriptor's name in systemd's store.
PARKED_KERNEL_TPM = "kernel-tpm"

#: The driver's self-tests, a key in work on the worker, and udev: all of them on a slow machine.
NODES_TIMEOUT_S = 30


def make(instance: str, version: str, notifier: Notifier) -> KernelTpm:
    """A new one; its descriptor is parked.

    Raises:
        VtpmError KERNEL_TPM_UNAVAILABLE
    """
    tpm = create(version)
    run = _run_directory(instance)
    if os.path.isdir(f"{run}/{instance}"):  # else started by hand
        try:
            kernel_tpm_record.write(instance, KernelTpmRecord(tpm.number, version), run)
        except OSError as error:
            os.close(tpm.fd)
            cause = f"{run}/{kernel_tpm_record.FOLDER}/{instance} cannot be written: {error.strerror}"
            remedy = f"see what is there: ls -la {run}/{kernel_tpm_record.FOLDER}"
            raise VtpmError(Code.KERNEL_TPM_UNAVAILABLE, cause, remedy=remedy) from error
    notifier.park(PARKED_KERNEL_TPM, tpm.fd)
    return tpm


def has_one(instance: str, version: str) -> bool:
    """Is there one from before a restart?"""
    recorded = kernel_tpm_record.read(instance, _run_directory(instance))
    return (
        recorded is not None and recorded.version == version and os.path.exists(f"/sys/class/tpm/tpm{recorded.number}")
    )


def forget(instance: str) -> None:
    """The instance has no TPM of the kernel any more: remove what was noted, as far as the process may do that."""
    with suppress(OSError):
        kernel_tpm_record.remove(instance, _run_directory(instance))


def _run_directory(instance: str) -> str:
    """The directory that holds the runtime directories of all instances."""
    return os.path.dirname(os.path.dirname(runtime_path(instance, "status")))


def obtain(config: Config, passed: Descriptors, notifier: Notifier) -> Optional[KernelTpm]:
    """The one that was parked, or a new one, which takes root; None if the configuration wants none.

    Raises:
        VtpmError KERNEL_TPM_UNAVAILABLE
        VtpmError DEVICE_NOT_READY: the kernel took it away meanwhile; the next start may make a new one.
    """
    instance, version = config.instance, config.tpm.version
    if not config.kernel_tpm.enabled:
        return None
    fds = passed.pop(PARKED_KERNEL_TPM, [])
    if not fds:
        return make(instance, version, notifier)
    recorded = kernel_tpm_record.read(instance, _run_directory(instance))
    if len(fds) == 1 and recorded is not None and recorded.version == version and _is_alive(fds[0]):
        return KernelTpm(fds[0], recorded.number)
    discard(instance, fds, notifier)
    raise gone()


def gone() -> VtpmError:
    return VtpmError(
        Code.DEVICE_NOT_READY,
        "the kernel has taken the TPM of this instance away",
        remedy="see why: journalctl -k; systemd starts the service again",
    )


def discard(instance: str, fds: "list[int]", notifier: Notifier) -> None:
    """Give the TPM up: the kernel's devices go with the last descriptor."""
    notifier.unpark(PARKED_KERNEL_TPM)
    for fd in fds:
        os.close(fd)
    forget(instance)


def wait_until_made(tpm: KernelTpm, version: str, timeout_s: float = NODES_TIMEOUT_S) -> None:
    """Wait for the nodes, and for udev to have finished them. Not on the serving thread: the kernel asks the TPM first.

    Raises:
        VtpmError DEVICE_NOT_READY
    """
    paths = [tpm.path, tpm.resource_manager] if version == "2.0" else [tpm.path]
    deadline = time.monotonic() + timeout_s
    while not all(_is_finished(path) for path in paths):
        if time.monotonic() > deadline:
            raise VtpmError(
                Code.DEVICE_NOT_READY,
                f"the kernel did not make {' and '.join(paths)}",
                remedy="see what it says: journalctl -k",
            )
        time.sleep(0.01)


def _is_finished(path: str) -> bool:
    try:
        found = os.stat(path)
    except OSError:
        return False
    if not stat.S_ISCHR(found.st_mode):
        return False
    return not udev.is_running() or udev.has_finished(found)


def _is_alive(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return not any(events & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _fd, events in poll.poll(0))
