"""`swtpm chardev --vtpm-proxy` with the kernel's own driver."""

import os
import re
import signal
import stat
import sys

import pytest
from device_clients import Client, wait_for
from services import run
from tpm_commands import GET_RANDOM, PCR_EXTEND_16, PCR_READ_16, TPM12_GET_MANUFACTURER

pytestmark = pytest.mark.needs("root", "vtpm-proxy", "swtpm", "swtpm_ioctl")

OURS = [sys.executable, "-I", "-c", "import sys; from swtpm_svc.start import swtpm; sys.exit(swtpm())"]


class Chardev:
    """The daemon, whose first process has ended; `path` of the TPM is what it said, which is what incus reads."""

    def __init__(self, directory, *words):
        self.control, self.pid_file = directory / "ctrl", directory / "pid"
        (directory / "state").mkdir(exist_ok=True)
        words = ["chardev", "--vtpm-proxy", "--daemon", "--tpmstate", f"dir={directory}/state", *words]
        words += ["--ctrl", f"type=unixio,path={self.control}", "--pid", f"file={self.pid_file}"]
        # the kernel gives a self-test two seconds, or takes its driver away; an emulated machine under load may need more
        for _ in range(4):
            if self._has_started([*OURS, *words]):
                return
        pytest.fail("the kernel has taken its driver away each time")

    def _has_started(self, command):
        done = run(*command)
        said = re.fullmatch(r"New TPM device: (/dev/tpm\d+) \(major/minor = (\d+)/(\d+)\)\n", done.stdout)
        assert said, done
        self.path, self.number = said[1], os.makedev(int(said[2]), int(said[3]))
        wait_for(lambda: os.path.exists(self.path) or not self.pid_file.exists(), self.path)
        return os.path.exists(self.path)

    def ioctl(self, *words):
        return run("swtpm_ioctl", "--unix", str(self.control), *words)

    def is_gone(self):
        wait_for(lambda: not any(map(os.path.exists, (self.path, self.control, self.pid_file))), "the end")


@pytest.fixture
def driver():
    run("modprobe", "tpm_vtpm_proxy")


@pytest.mark.usefixtures("driver")
def test_the_kernel_has_a_tpm_2(tmp_path):
    """Until the control channel ends it, with a node for its resource manager too; the state is there at the next start."""
    tpm = Chardev(tmp_path, "--tpm2")
    found = os.stat(tpm.path)
    assert (stat.S_ISCHR(found.st_mode), found.st_rdev) == (True, tpm.number)
    client = Client(tpm.path)
    assert len(client(GET_RANDOM)) == 20
    client(PCR_EXTEND_16)
    extended = client(PCR_READ_16)[-32:]
    assert extended != bytes(32)
    client.close()
    manager = tpm.path.replace("tpm", "tpmrm")
    wait_for(lambda: os.path.exists(manager), manager)
    environment = dict(os.environ, TPM2TOOLS_TCTI=f"device:{manager}")
    run("tpm2_createprimary", "-Q", "-C", "o", "-G", "ecc", "-c", str(tmp_path / "context"), env=environment)
    run("tpm2_evictcontrol", "-Q", "-C", "o", "-c", str(tmp_path / "context"), "0x81000005", env=environment)
    assert tpm.ioctl("-c").stdout.startswith("ptm capability is 0x")
    tpm.ioctl("-s")
    tpm.is_gone()
    # who starts the TPM is swtpm: it is a cold start
    tpm = Chardev(tmp_path, "--tpm2")
    client = Client(tpm.path)
    assert client(PCR_READ_16)[-32:] == bytes(32)
    client.close()
    environment["TPM2TOOLS_TCTI"] = f"device:{tpm.path}"
    assert "0x81000005" in run("tpm2_getcap", "handles-persistent", env=environment).stdout
    os.kill(int(tpm.pid_file.read_text()), signal.SIGTERM)
    tpm.is_gone()


@pytest.mark.usefixtures("driver")
def test_the_kernel_has_a_tpm_1_2(tmp_path):
    tpm = Chardev(tmp_path)
    client = Client(tpm.path)
    assert client(TPM12_GET_MANUFACTURER)[-4:] == b"IBM\0"
    client.close()
    tpm.ioctl("-s")
    tpm.is_gone()


def test_without_the_driver_nothing_is_made(tmp_path):
    """By both in the same words. The module is loaded again by who wants it."""
    run("rmmod", "tpm_vtpm_proxy", expect=None)
    (tmp_path / "state").mkdir()
    words = ["chardev", "--vtpm-proxy", "--tpm2", "--tpmstate", f"dir={tmp_path}/state"]
    for program in (OURS, ["swtpm"]):
        done = run(*program, *words, expect=1)
        assert "Could not open /dev/vtpmx: No such file or directory" in done.stderr
        assert done.stdout == ""
