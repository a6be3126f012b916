"""QEMU's passthrough on the CUSE device: to QEMU it is a TPM of the host, as /dev/tpm0 is."""

import pytest
from device_clients import Client, wait_for
from qemu_passthrough import firmware
from tpm_commands import TPM12_GET_MANUFACTURER, result_of

pytestmark = pytest.mark.needs("cuse", "root", "accounts", "qemu")

PCR_READ_0 = bytes.fromhex("8001000000140000017e00000001000b03010000")
TPM12_PCR_READ_0 = bytes.fromhex("00c10000000e00000015 00000000")
BOOT_S = 120


@pytest.mark.parametrize(("version", "pcr_read", "size"), [("2.0", PCR_READ_0, 32), ("1.2", TPM12_PCR_READ_0, 20)])
def test_firmware_measures_into_the_device(instance, version, pcr_read, size):
    daemon = instance("vtpm1", version=version, startup="none").start()
    client = Client(daemon.device)
    with firmware(daemon.device) as process:

        def has_measured():
            assert process.poll() is None, process.stderr.read()
            response = client(pcr_read)
            return result_of(response) == 0 and any(response[-size:])

        # another opener looks at PCR 0, into which SeaBIOS measures its version and what it runs
        wait_for(has_measured, "a measurement of the firmware", BOOT_S, pause_s=0.2)
        assert daemon.status()["opener_count"] == 2
        if version == "1.2":
            assert client(TPM12_GET_MANUFACTURER)[-4:] == b"IBM\0"
    wait_for(lambda: daemon.status()["opener_count"] == 1, "QEMU's file to be closed")
    client.close()
