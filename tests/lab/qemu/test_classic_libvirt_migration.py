"""A domain moves to another host's libvirt while it runs, and its TPM with it: both find our swtpm in their PATH."""

import pytest
from classic_commands import commands_directory
from dialects import Tpm20
from libvirt_daemon import ROOT, TREE
from memory import NV_TEXT, OUR_PCR, Memory

pytestmark = pytest.mark.needs("root", "libvirt", "qemu", "busybox", "swtpm_setup", "binding")

FILES_OF_STATE = ("find", "/var/lib/libvirt", "-name", "*.permall")


def test_a_running_domain_migrates_to_another_libvirt(lab):
    """Each host has its own disk: the TPM's state is in what QEMU sends."""
    commands = commands_directory(lab.directory)
    for launcher in commands.iterdir():  # libvirt runs them as tss
        launcher.write_text(launcher.read_text().replace(ROOT, TREE))
    source, target = lab.libvirt(commands, "source"), lab.libvirt(commands, "target")
    source.virsh("define", source.describe("tpm-crb", "<backend type='emulator' version='2.0'/>"))
    guest = source.start_domain()
    guest.wait_until_booted()
    memory = Memory(guest)
    assert target.in_its_files(*FILES_OF_STATE) == ""

    guest = source.migrate(target)
    memory.check(guest)
    assert source.virsh("list", "--name") == ""
    assert source.in_its_files("ls", "/run/libvirt/qemu/swtpm") == ""  # its swtpm has ended
    assert target.virsh("list", "--name") == "guest"
    assert target.in_its_files(*FILES_OF_STATE).count("permall") == 1

    guest.reboot()  # with what the target has on its disk
    tpm = Tpm20(guest.execute)
    assert tpm.read_nv(len(NV_TEXT)) == NV_TEXT
    assert tpm.read_pcr(OUR_PCR) == bytes(32)
    target.virsh("destroy", "guest")
