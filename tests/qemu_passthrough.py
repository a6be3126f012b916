"""QEMU with a TPM of the host's passed through, and no disk: its firmware starts the TPM, and measures itself."""

import subprocess
from contextlib import contextmanager

_MACHINE = "qemu-system-x86_64 -machine q35,accel=tcg -m 64 -nodefaults -display none -no-reboot -monitor none"


@contextmanager
def firmware(tpm):
    """The process, which runs until the end of the block; `tpm` is the path of a device or a file."""
    devices = ["-tpmdev", f"passthrough,id=t,path={tpm},cancel-path=/dev/null", "-device", "tpm-tis,tpmdev=t"]
    process = subprocess.Popen([*_MACHINE.split(), *devices], stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
