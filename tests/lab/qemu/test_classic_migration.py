"""A guest that runs goes on in another QEMU, from one `swtpm socket` of ours to another."""

import pytest
from classic_commands import commands_directory
from dialects import DIALECTS
from memory import NV_TEXT, OUR_PCR, Memory

pytestmark = pytest.mark.needs("qemu", "busybox", "binding")


@pytest.mark.parametrize(("version", "device", "shared"), [("2.0", "tpm-crb", True), ("1.2", "tpm-tis", False)])
def test_a_running_guest_migrates_between_two_commands(lab, version, device, shared):
    """With one folder for the state of both, or each with its own; the source gives a shared one up in time."""
    program = f"{commands_directory(lab.directory)}/swtpm"
    outgoing, incoming = (["--migration", word] if shared else [] for word in ("release-lock-outgoing", "incoming"))
    source = lab.swtpm(f"source-{version}", version, program, outgoing)
    machine = lab.machine(f"machine-{version}", source, device)
    machine.guest.wait_until_booted()
    memory = Memory(machine.guest)

    if shared:
        incoming += ["--tpmstate", f"dir={lab.path(f'source-{version}')}"]  # the last one counts
    target = lab.swtpm(f"target-{version}", version, program, incoming)
    path = lab.path(f"{version}.migration")
    successor = lab.machine(f"successor-{version}", target, device, incoming=path)
    machine.migrate(path)
    machine.quit()
    assert source.wait() == 0  # QEMU has shut it down
    memory.check(successor.guest)

    successor.guest.reboot()  # with what the target has on its disk
    tpm = DIALECTS[version](successor.guest.execute)
    assert tpm.read_nv(len(NV_TEXT)) == NV_TEXT
    assert tpm.read_pcr(OUR_PCR) == bytes(tpm.digest_bytes)
    successor.quit()
    assert target.wait() == 0
