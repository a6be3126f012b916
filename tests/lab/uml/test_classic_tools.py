"""swtpm_ioctl, swtpm_bios and the tools of 2014 at real devices, beside the distribution's."""

import re
import subprocess

import pytest
from bios_lines import FOR_BOTH_VERSIONS
from classic_commands import commands_directory
from ioctl_lines import LIFE_OF_A_TPM
from manager import run
from side_by_side import both, differences

pytestmark = pytest.mark.needs("cuse", "root", "udev", "accounts", "binding", "swtpm")

LINE = r"(?:[0-9A-F]{2} ){15}[0-9A-F]{2}\n"
PUBEK = re.compile(rf"pubek\.pem successfully written\nPubek keylength 256\nModulus:\n((?:{LINE}){{16}})")


@pytest.fixture
def commands(tmp_path):
    return commands_directory(tmp_path)


@pytest.mark.parametrize("version", ["1.2", "2.0"])
def test_the_life_of_a_tpm_is_alike_with_both_tools(instance, tmp_path, commands, version):
    two = [instance(name, version=version, startup="none").start() for name in ("vtpm0", "vtpm1")]
    places = [{"where": f"--tpm-device {one.device}"} for one in two]
    tools = ("/usr/bin/swtpm_ioctl", str(commands / "swtpm_ioctl"))
    theirs, ours = both(LIFE_OF_A_TPM, tmp_path, tools, places)
    assert differences(LIFE_OF_A_TPM, theirs, ours) == ""
    assert [one.wait() for one in two] == [0, 0]  # the last line ends them


@pytest.mark.parametrize("version", ["1.2", "2.0"])
def test_firmware_is_alike_with_both_tools(instance, tmp_path, commands, version):
    option = "--tpm2" if version == "2.0" else "-c"
    two = [instance(name, version=version, startup="none").start() for name in ("vtpm0", "vtpm1")]
    places = [{"where": f"--tpm-device {one.device}", "control": one.device, "version": option} for one in two]
    tools = ("/usr/bin/swtpm_bios", str(commands / "swtpm_bios"))
    theirs, ours = both(FOR_BOTH_VERSIONS, tmp_path, tools, places)
    assert differences(FOR_BOTH_VERSIONS, theirs, ours) == ""


@pytest.mark.parametrize("size", ["1", "100", "5000", "x"])
def test_state_by_read_and_write_is_the_same_as_by_ioctls(instance, tmp_path, commands, size):
    one = instance(startup="none").start()

    def ioctl(*words, **variables):
        command = [str(commands / "swtpm_ioctl"), *words, one.device]
        done = subprocess.run(command, env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    ioctl("-v")
    for kind in ("permanent", "volatile"):
        ioctl("--save", kind, f"{kind}.ioctls")
        ioctl("--save", kind, f"{kind}.reads", SWTPM_IOCTL_BUFFERSIZE=size)
    blobs = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert blobs["permanent.reads"] == blobs["permanent.ioctls"]
    # more than one ioctl carries; its clock goes on
    assert len(blobs["volatile.reads"]) == len(blobs["volatile.ioctls"]) > 2 * 3072
    assert blobs["volatile.reads"][:8000] == blobs["volatile.ioctls"][:8000]
    ioctl("--stop")
    for kind in ("permanent", "volatile"):
        ioctl("--load", kind, f"{kind}.reads", SWTPM_IOCTL_BUFFERSIZE=size)
    ioctl("-i")
    ioctl("--save", "volatile", "again")


def test_a_user_without_rights_is_told(instance, commands):
    one = instance(startup="none").start()
    commands.parent.chmod(0o755)
    for place in list(commands.parents)[:4]:
        place.chmod(place.stat().st_mode | 0o055)
    refused = run(str(commands / "swtpm_ioctl"), "-i", one.device, user="lab-member")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "Could not execute PTM_INIT: Operation not permitted\n"
    refused = run(str(commands / "swtpm_ioctl"), "-c", one.device, user="lab-outsider")
    assert refused.stderr == f"Unable to open device '{one.device}'.\n"


def test_the_transcript_of_2014_for_two_devices(instance, tmp_path, commands):
    moduli = []
    for name in ("vtpm0", "vtpm1"):
        one = instance(name)
        one.configure('[tpm]\nversion = "1.2"\npower-on = "manual"\n')
        one.start()
        folder = tmp_path / name
        folder.mkdir()
        script = (
            f"cuse_tpm_ioctl -i {one.device} ; export TPM_DEVICE={one.device} ; "
            "createek ; takeown -pwdo ownerpass ; getpubek -pwdo ownerpass"
        )
        environment = {"PATH": f"{commands}:/usr/bin:/bin"}
        words = ["bash", "-ec", script]
        done = subprocess.run(words, env=environment, cwd=folder, capture_output=True, text=True, timeout=300)
        assert (done.returncode, done.stderr) == (0, "")
        found = PUBEK.fullmatch(done.stdout)
        assert found
        moduli.append(found[1])
    assert moduli[0] != moduli[1]
