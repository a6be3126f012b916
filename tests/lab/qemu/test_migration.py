"""A guest that runs goes on with its TPM: in another QEMU with another vtpmd, from and to swtpm, and after loadvm."""

import os
import subprocess

import pytest
from dialects import DIALECTS, Tpm20
from memory import NV_TEXT, OUR_PCR, Memory

pytestmark = pytest.mark.needs("qemu", "busybox", "binding")

PAIRS = {
    "2.0 between two of ours": ("2.0", "tpm-crb", "service", "service"),
    "1.2 between two of ours": ("1.2", "tpm-tis", "service", "service"),
    "2.0 from swtpm": ("2.0", "tpm-tis", "swtpm", "service"),
    "2.0 to swtpm": ("2.0", "tpm-tis", "service", "swtpm"),
    "1.2 from swtpm": ("1.2", "tpm-tis", "swtpm", "service"),
}


@pytest.mark.needs("swtpm")
@pytest.mark.parametrize("pair", PAIRS)
def test_a_running_guest_migrates_with_its_tpm(lab, pair):
    version, device, source_kind, target_kind = PAIRS[pair]
    prefix = pair.replace(" ", "-")
    source = getattr(lab, source_kind)(f"{prefix}-a", version)
    machine = lab.machine(f"{prefix}-source", source, device)
    machine.guest.wait_until_booted()
    memory = Memory(machine.guest)

    target = getattr(lab, target_kind)(f"{prefix}-b", version)
    path = lab.path(f"{prefix}.migration")
    successor = lab.machine(f"{prefix}-target", target, device, incoming=path)
    machine.migrate(path)
    machine.quit()
    assert source.wait() == 0  # QEMU has shut it down

    memory.check(successor.guest)
    if target_kind == "swtpm":
        return
    successor.guest.reboot()  # with what our target has on its disk
    tpm = DIALECTS[version](successor.guest.execute)
    assert tpm.read_nv(len(NV_TEXT)) == NV_TEXT
    assert tpm.read_pcr(OUR_PCR) == bytes(tpm.digest_bytes)


@pytest.mark.needs("qemu-img")
def test_loadvm_goes_back_to_the_snapshot_but_not_to_its_random_numbers(lab):
    disk = lab.path("disk.qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "64M"], check=True)
    machine = lab.machine("snapshots", lab.service("snapshots-vtpm"), "tpm-crb", disk=disk)
    guest = machine.guest
    guest.wait_until_booted()
    memory, tpm = Memory(guest), Tpm20(guest.execute)

    machine.monitor("savevm before")
    number = tpm.random()
    tpm.extend_pcr(OUR_PCR, os.urandom(32))
    machine.monitor("loadvm before")
    assert tpm.random() != number
    memory.check(guest)
