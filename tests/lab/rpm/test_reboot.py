"""After test_package.py and a reboot: what was enabled is there, with its state, and nothing else."""

import grp
import os
import stat

import pytest
from device_clients import Client, wait_for
from services import run, show
from tpm_commands import NV_READ_COUNTER, counter_of

pytestmark = pytest.mark.needs("systemd", "root", "cuse")


def test_the_enabled_instance_runs_with_its_state():
    wait_for(lambda: show("a", "ActiveState") == "active", "the instance that was enabled")
    found = os.stat("/dev/a")
    assert (grp.getgrgid(found.st_gid).gr_name, stat.S_IMODE(found.st_mode)) == ("team-a", 0o660)
    client = Client("/dev/a")
    assert counter_of(client(NV_READ_COUNTER)) >= 1
    client.close()


def test_no_other_instance_runs():
    running = run("systemctl", "list-units", "--no-legend", "--plain", "vtpm@*").stdout.split("\n")
    assert [line.split()[0] for line in running if line] == ["vtpm@a.service"]


def test_the_package_is_whole():
    assert run("rpm", "-V", "python3-swtpm", expect=1).stdout.split() == ["S.5....T.", "c", "/etc/vtpm.d/vtpm0.toml"]
