"""QEMU's tpm-emulator with our control socket: the firmware of a real machine finds the TPM and measures into it."""

import subprocess
import time

import pytest
from socket_service import SocketService
from tpm_commands import result_of

pytestmark = pytest.mark.needs("qemu")

PCR_READ_0 = bytes.fromhex("8001000000140000017e00000001000b03010000")
BOOT_S = 60


@pytest.mark.parametrize("device", ["tpm-tis", "tpm-crb"])
def test_seabios_starts_the_tpm_and_measures_into_it(tmp_path, device):
    service = SocketService(str(tmp_path / "tpm"), power=False)
    words = ["qemu-system-x86_64", "-machine", "q35,accel=tcg", "-m", "64", "-nodefaults", "-display", "none", "-no-reboot"]
    words += ["-chardev", f"socket,id=c,path={service.control_path}", "-tpmdev", "emulator,id=t,chardev=c"]
    words += ["-device", f"{device},tpmdev=t", "-monitor", "none"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + BOOT_S
        # TPM2_PCR_Read of PCR 0, which the firmware extends with its version and what it runs
        while True:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline, "the firmware did not measure anything"
            response = service.call(lambda: service.tpm.execute(memoryview(bytearray(PCR_READ_0)), 0x17E))
            if result_of(response) == 0 and any(response[-32:]):
                break
            time.sleep(0.2)
        assert service.call(lambda: service.frontend.connections) == 2
    finally:
        process.kill()
        process.communicate()
        deadline = time.monotonic() + 10
        while service.call(lambda: service.frontend.connections):
            assert time.monotonic() < deadline, "connections of a dead QEMU stay"
        service.close()
    assert service.recorder.failures == []
