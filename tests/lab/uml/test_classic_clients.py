"""tpm2-tools at the device of swtpm_cuse, by their device TCTI; who may is who has the device by its group."""

import os
import runpy
import shutil
import tempfile
from pathlib import Path

import pytest
from device_clients import wait_for
from manager import run

pytestmark = pytest.mark.needs("cuse", "root", "udev", "accounts", "binding", "tpm2-tools", "swtpm_ioctl")

INSTALLER = runpy.run_path(str(Path(__file__).resolve().parents[3] / "tools/install_package.py"))
DEVICE = "/dev/vtpm4"
TCTI = {**os.environ, "TPM2TOOLS_TCTI": f"device:{DEVICE}"}


@pytest.fixture
def folder():
    path = tempfile.mkdtemp(prefix="clients-")
    os.chmod(path, 0o777)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def device(tmp_path):
    """A TPM 2.0, initialised and not started."""
    commands = tmp_path / "bin"
    INSTALLER["install_commands"](INSTALLER["commands_of"](INSTALLER["CLASSIC_COMMANDS"]), commands)
    words = ["--tpm2", "--tpmstate", f"dir={tmp_path}/state", "-n", os.path.basename(DEVICE)]
    done = run(commands / "swtpm_cuse", *words)
    assert done.returncode == 0, done.stderr
    assert run("swtpm_ioctl", "-i", DEVICE).returncode == 0
    yield DEVICE
    assert run("swtpm_ioctl", "-s", DEVICE).returncode == 0
    wait_for(lambda: not os.path.exists(DEVICE), "the end of the device")


def test_a_member_of_the_group_seals_and_unseals(device, folder):
    def tool(*words):
        done = run(*words, user="lab-member", env=TCTI, cwd=folder)
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout

    wait_for(lambda: os.access(device, os.R_OK) and os.stat(device).st_gid, "the group of the device")
    tool("tpm2_startup", "-c")
    tool("tpm2_createprimary", "-C", "o", "-G", "ecc", "-c", "primary")
    tool("tpm2_flushcontext", "-t")
    tool("sh", "-c", "printf sealed >secret")
    tool("tpm2_create", "-C", "primary", "-i", "secret", "-u", "public", "-r", "private")
    tool("tpm2_flushcontext", "-t")
    tool("tpm2_load", "-C", "primary", "-u", "public", "-r", "private", "-c", "loaded")
    tool("tpm2_flushcontext", "-t")
    assert tool("tpm2_unseal", "-c", "loaded") == "sealed"
    assert run("tpm2_getrandom", "8", user="lab-outsider", env=TCTI, cwd=folder).returncode != 0
