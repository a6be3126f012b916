"""How it began, to the letter: two TPMs 1.2 of cuse_tpm_server, initialised and owned, and each in a guest of QEMU."""

import grp
import os
import re
import runpy
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from device_clients import wait_for
from trousers_guest import run_guest

pytestmark = pytest.mark.needs("cuse", "root", "udev", "accounts", "binding")

INSTALLER = runpy.run_path(str(Path(__file__).resolve().parents[3] / "tools/install_package.py"))
USER = "lab-member"
TAKE_OWNERSHIP = ["tpm_takeownership -u -y -z", "tpm_getpubek -u -z"]  # -y, -z: secrets of twenty zeros


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    directory = tmp_path_factory.mktemp("commands") / "bin"
    INSTALLER["install_commands"](INSTALLER["commands_of"](INSTALLER["CLASSIC_COMMANDS"]), directory)
    return directory


@pytest.fixture
def run(commands):
    """Runs a command as somebody would who has the old names in his PATH; what it printed."""

    def run_it(*words, folder=None, **variables):
        environment = {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}", **variables}
        options = {"capture_output": True, "text": True, "timeout": 120, "env": environment, "cwd": folder}
        done = subprocess.run(words, **options)
        assert (done.returncode, done.stderr) == (0, ""), (words, done)
        return done.stdout

    return run_it


@pytest.fixture
def tpm(run):
    """Starts and initialises a TPM of this name in a folder of its own; its device."""
    started = []

    def start(name):
        folder = tempfile.mkdtemp(prefix=f"{name}-")
        run("cuse_tpm_server", "-n", name, TPM_PATH=folder)
        started.append((name, folder))
        run("cuse_tpm_ioctl", "-i", f"/dev/{name}")
        return f"/dev/{name}"

    yield start
    for name, folder in started:
        run("cuse_tpm_ioctl", "-s", f"/dev/{name}")
        wait_for(lambda name=name: not os.path.exists(f"/dev/{name}"), f"the end of {name}")
        shutil.rmtree(folder)


def test_two_tpms_have_owners_and_keys_of_their_own(run, tpm, tmp_path):
    moduli = []
    for name in ("vtpm0", "vtpm1"):
        device = tpm(name)
        assert run("createek", TPM_DEVICE=device) == ""
        assert run("takeown", "-pwdo", "ownerpass", TPM_DEVICE=device) == ""
        shown = run("getpubek", "-pwdo", "ownerpass", TPM_DEVICE=device, folder=tmp_path).splitlines()
        assert shown[:3] == ["pubek.pem successfully written", "Pubek keylength 256", "Modulus:"]
        moduli.append(bytes.fromhex("".join(shown[3:])))
    assert [len(modulus) for modulus in moduli] == [256, 256]
    assert moduli[0] != moduli[1]


@pytest.mark.needs("qemu", "busybox", "tcsd", "tpm-tools")
def test_each_is_given_to_a_guest_that_takes_ownership(run, tpm, tmp_path):
    """One has its key from the host, the other from the guest; QEMU has the device by its user's group alone."""
    moduli = []
    for name, orders in (("vtpm0", TAKE_OWNERSHIP), ("vtpm1", ["tpm_createek", *TAKE_OWNERSHIP])):
        device = tpm(name)
        if "tpm_createek" not in orders:
            run("createek", TPM_DEVICE=device)
            shown = run("getpubek", TPM_DEVICE=device, folder=tmp_path)
            from_host = bytes.fromhex("".join(shown.splitlines()[3:]))
        group = grp.getgrnam("vtpm").gr_gid  # udev's rule gives it to any /dev/vtpm*
        wait_for(lambda device=device, group=group: os.stat(device).st_gid == group, f"the group of {device}")
        folder = tempfile.mkdtemp(prefix="guest-")
        os.chmod(folder, 0o755)
        try:
            answers = run_guest(device, USER, orders, folder)
        finally:
            shutil.rmtree(folder)
        assert re.findall(r"^\+ (.*)$", answers, re.MULTILINE) == orders
        assert re.findall(r"^= (.*)$", answers, re.MULTILINE) == ["0"] * len(orders), answers
        assert "2048 bits" in answers
        moduli.append(bytes.fromhex(re.search(r"Public Key:\n([\s0-9a-f]+)", answers)[1]))
    assert moduli[0] == from_host
    assert len(moduli[1]) == 256
    assert moduli[1] != moduli[0]
