"""libvirt's emulator backend, the distribution's own, which finds our swtpm, swtpm_setup and swtpm_ioctl in its PATH."""

import base64
import os
import subprocess

import pytest
from classic_commands import commands_directory
from dialects import Tpm20
from libvirt_daemon import ROOT, TREE
from memory import NV_TEXT, OUR_PCR
from tpm_commands import h

pytestmark = pytest.mark.needs("root", "libvirt", "qemu", "qemu-img", "busybox", "swtpm_setup", "binding")

UUID = "7d6f5e4c-3b2a-4190-8f7e-6d5c4b3a2918"
SECRET_UUID = "0f1e2d3c-4b5a-4687-9a8b-7c6d5e4f3a2b"
STATE = f"/var/lib/libvirt/swtpm/{UUID}"
PLAIN = "<backend type='emulator' version='2.0'/>"
ENCRYPTED = f"<backend type='emulator' version='{{version}}'><encryption secret='{SECRET_UUID}'/></backend>"
USAGE = "<usage type='vtpm'><name>guest</name></usage>"
SECRET = f"<secret ephemeral='yes' private='yes'><uuid>{SECRET_UUID}</uuid>{USAGE}</secret>"
#: In a state's header: encrypted, with a key of 256 bits.
ENCRYPTED_256 = "0009"
EK_CERTIFICATE = h("01c00002")


@pytest.fixture(scope="module")
def libvirt(lab):
    commands = commands_directory(lab.directory)
    for launcher in commands.iterdir():  # libvirt runs them as tss
        launcher.write_text(launcher.read_text().replace(ROOT, TREE))
    return lab.libvirt(commands)


@pytest.fixture
def domain(lab, libvirt):
    """Defines the domain with this TPM."""
    disk = lab.path("disk.qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "64M"], check=True)

    def define(model, backend):
        path = libvirt.describe(model, backend)
        with open(path, encoding="utf-8") as file:
            text = file.read()
        devices = f"<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{disk}'/>"
        devices += "<target dev='vda' bus='virtio'/></disk></devices>"
        text = text.replace("</name>", f"</name><uuid>{UUID}</uuid>").replace("</devices>", devices)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        libvirt.virsh("define", path)

    return define


def flags_of_state(libvirt, file="tpm2/tpm2-00.permall"):
    return libvirt.in_its_files("xxd", "-p", "-s", "4", "-l", "2", f"{STATE}/{file}").strip()


def test_the_life_of_a_domain(libvirt, domain):
    domain("tpm-crb", PLAIN)
    guest = libvirt.start_domain()
    with open(libvirt.swtpm_log, encoding="utf-8") as file:
        assert "Successfully created NVRAM area 0x1c00002 for RSA 2048 EK certificate." in file.read()
    assert libvirt.in_its_files("stat", "-c", "%U", f"{STATE}/tpm2/tpm2-00.permall") == "tss\n"
    assert flags_of_state(libvirt) == "0000"
    guest.wait_until_booted()
    tpm = Tpm20(guest.execute)
    assert bytes(32) not in [tpm.read_pcr(number) for number in range(8)]
    key = tpm.endorsement_key()
    assert guest.execute(h("8001 0000000e 00000169") + EK_CERTIFICATE)[6:10] == bytes(4)
    tpm.write_nv(NV_TEXT)

    libvirt.virsh("snapshot-create-as", "guest", "before")
    tpm.extend_pcr(OUR_PCR, os.urandom(32))
    libvirt.revert("before")
    assert tpm.read_pcr(OUR_PCR) == bytes(32)
    assert tpm.endorsement_key() == key

    libvirt.virsh("destroy", "guest")
    guest = libvirt.start_domain()
    guest.wait_until_booted()
    tpm = Tpm20(guest.execute)
    assert tpm.endorsement_key() == key
    assert tpm.read_nv(len(NV_TEXT)) == NV_TEXT
    libvirt.virsh("destroy", "guest")
    assert libvirt.in_its_files("ls", "/run/libvirt/qemu/swtpm") == ""  # socket and pid file
    libvirt.virsh("undefine", "guest", "--tpm", "--snapshots-metadata")
    assert libvirt.in_its_files("sh", "-c", f"ls {STATE} 2>&1 || :").endswith("No such file or directory\n")


@pytest.fixture(scope="module")
def secret(lab, libvirt):
    with open(lab.path("secret.xml"), "w", encoding="utf-8") as file:
        file.write(SECRET)
    libvirt.virsh("secret-define", lab.path("secret.xml"))
    libvirt.virsh("secret-set-value", SECRET_UUID, base64.b64encode(b"a passphrase of some length").decode())


@pytest.mark.usefixtures("secret")
@pytest.mark.parametrize(
    ("version", "model", "file"),
    [("2.0", "tpm-crb", "tpm2/tpm2-00.permall"), ("1.2", "tpm-tis", "tpm1.2/tpm-00.permall")],
    ids=["2.0", "1.2"],
)
def test_the_state_is_encrypted_with_a_secret(libvirt, domain, version, model, file):
    domain(model, ENCRYPTED.format(version=version))
    for _each in range(2):  # made, and found again
        libvirt.start_domain(version)
        assert flags_of_state(libvirt, file) == ENCRYPTED_256
        libvirt.virsh("destroy", "guest")
    libvirt.virsh("undefine", "guest", "--tpm")
