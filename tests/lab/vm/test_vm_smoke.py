"""The lab is what the other tests here take it for: systemd as process 1, a real /dev/cuse, the project installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from device_clients import Client
from tpm_commands import GET_RANDOM

pytestmark = pytest.mark.needs("root", "cuse", "udev", "systemd", "accounts")


def run(*command: str) -> str:
    return subprocess.run(command, check=True, timeout=60, capture_output=True, text=True).stdout


def test_systemd_is_process_1():
    assert Path("/proc/1/comm").read_text() == "systemd\n"


def test_the_machine_came_up_whole():
    assert run("systemctl", "list-units", "--failed", "--no-legend", "--plain") == ""


def test_cuse_is_roots_alone():
    status = os.stat("/dev/cuse")
    assert (status.st_uid, status.st_mode & 0o777) == (0, 0o600)


def test_the_unit_is_known():
    assert "LoadState=loaded" in run("systemctl", "show", "-p", "LoadState", "vtpm@vtpm0.service")


def test_the_extension_fits_this_python():
    # -I: from where it was installed, not from a folder of the tests
    run(sys.executable, "-I", "-c", "import swtpm_svc.tpm._libtpms")


@pytest.mark.parametrize(
    ("person", "groups"),
    [
        ("lab-member", {"lab-member", "vtpm"}),
        ("lab-operator", {"lab-operator", "vtpm", "vtpm-admin"}),
        ("lab-outsider", {"lab-outsider"}),
    ],
)
def test_groups_of_the_people(person, groups):
    assert set(run("id", "-Gn", person).split()) == groups


def test_selinux_is_as_asked_for():
    enforcing = "enforcing=1" in Path("/proc/cmdline").read_text().split()
    assert run("getenforce").strip() == ("Enforcing" if enforcing else "Permissive")


@pytest.mark.needs("distribution's kernel")
def test_the_distribution_s_own_kernel_keeps_a_device_over_a_restart(configure):
    """Its CUSE is older than that of User-Mode Linux, where all else runs."""
    configure("stock", '[tpm]\nstartup = "clear"\n')
    run("systemctl", "start", "vtpm@stock.service")
    client = Client("/dev/stock")
    for _ in range(2):
        assert client(GET_RANDOM)[6:10] == bytes(4)
        run("systemctl", "restart", "vtpm@stock.service")
    assert client(GET_RANDOM)[6:10] == bytes(4)
    client.close()


def test_results_come_back():
    Path(os.environ["LAB_RESULTS"], "smoke").write_text("from the lab\n")
