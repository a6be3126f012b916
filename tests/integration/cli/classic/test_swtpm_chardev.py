"""`swtpm chardev` on a character device of the caller's: a terminal's, as there is one everywhere."""

import os
import select
import socket
import sys
import time
import tty

import pytest
from classic_commands import commands_directory
from classic_swtpm import DEADLINE_S, GET_RANDOM, ioctl, running

pytestmark = pytest.mark.needs("swtpm_ioctl")


@pytest.fixture(scope="module")
def swtpm(tmp_path_factory):
    return commands_directory(tmp_path_factory.mktemp("commands")) / "swtpm"


@pytest.fixture
def terminal():
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    yield ours, theirs
    for fd in (ours, theirs):
        try:
            os.close(fd)
        except OSError:
            pass


def read(fd, size, process):
    """As many bytes of what `process` answers; what it said, if it has ended instead."""
    data = b""
    end = time.monotonic() + DEADLINE_S
    while len(data) < size:
        if select.select([fd], [], [], 0.1)[0]:
            data += os.read(fd, size - len(data))
        else:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < end, f"{len(data)} bytes of {size} within {DEADLINE_S:g} s"
    return data


@pytest.mark.parametrize("by_path", [True, False])
def test_commands_over_a_device_whose_hangup_ends_it(swtpm, terminal, tmp_path, by_path):
    ours, theirs = terminal
    (tmp_path / "state").mkdir()
    words = ["chardev", "--tpm2", "--tpmstate", f"dir={tmp_path}/state", "--flags", "startup-clear"]
    words += ["-c", os.ttyname(theirs)] if by_path else ["--fd", theirs]
    words += ["--ctrl", f"type=unixio,path={tmp_path}/ctrl"]
    with running(swtpm, *words, pass_fds=[theirs]) as process:
        os.write(ours, GET_RANDOM[:4])
        os.write(ours, GET_RANDOM[4:])
        assert read(ours, 20, process)[:10] == bytes.fromhex("80010000001400000000")
        assert ioctl(tmp_path / "ctrl", "-c") == (0, "ptm capability is 0x1ffff")
        os.close(theirs)
        os.close(ours)
        assert process.wait(DEADLINE_S) == 0
    assert not (tmp_path / "ctrl").exists()


#: The kernel's driver is in few kernels: in its place stands one end of a pair of sockets, whose number is the first word.
WITHOUT_DRIVER = """
import sys
from swtpm_svc.frontends.kernel import vtpmx
from swtpm_svc.start import swtpm
fd = int(sys.argv.pop(1))
vtpmx.create = lambda version: vtpmx.KernelTpm(fd, 5, 253, 5)
sys.exit(swtpm())
"""


def test_a_tpm_of_the_kernel_is_started_and_told_of(tmp_path):
    """incus reads the line; the kernel sets the locality, and its end is the end."""
    (tmp_path / "state").mkdir()
    kernel, driver = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with kernel, driver:
        words = ["chardev", "--vtpm-proxy", "--tpm2", "--tpmstate", f"dir={tmp_path}/state"]
        fd = driver.fileno()
        with running(sys.executable, "-c", WITHOUT_DRIVER, fd, *words, pass_fds=[fd]) as process:
            driver.close()
            assert process.stdout.readline() == "New TPM device: /dev/tpm5 (major/minor = 253/5)\n"
            kernel.settimeout(DEADLINE_S)
            for command, size in (("80010000000b2000100003", 10), (GET_RANDOM.hex(), 20)):
                kernel.send(bytes.fromhex(command))
                response = kernel.recv(4096)
                assert (len(response), response[6:10]) == (size, bytes(4))
            kernel.close()
            assert process.wait(DEADLINE_S) == 0
