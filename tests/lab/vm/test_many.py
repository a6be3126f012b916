"""vtpm.target, which is all instances."""

import os

import pytest
from device_clients import Client, wait_for
from services import run, show, systemctl
from tpm_commands import GET_RANDOM

pytestmark = pytest.mark.needs("systemd", "root", "accounts")


def active(*names):
    units = [f"vtpm@{name}.service" for name in names]
    return run("systemctl", "is-active", *units, expect=None).stdout.split().count("active")


def test_the_target_is_all_that_are_enabled(configure):
    """It need not be started at the boot, nor enabled."""
    for name in ("first", "second", "third"):
        configure(name, "")
    run("systemctl", "enable", "vtpm@first.service", "vtpm@second.service")
    try:
        assert os.path.islink("/etc/systemd/system/multi-user.target.wants/vtpm@first.service")
        run("systemctl", "start", "vtpm.target")
        assert (active("first", "second"), show("third", "ActiveState")) == (2, "inactive")
        systemctl("start", "third")
        client = Client("/dev/first")
        run("systemctl", "restart", "vtpm.target")
        wait_for(lambda: active("first", "second", "third") == 3, "all to be there again", 60)
        assert len(client(GET_RANDOM)) == 20
        client.close()
        run("systemctl", "stop", "vtpm.target")
        assert active("first", "second", "third") == 0
        # not started itself, it stops those that run all the same
        systemctl("start", "third")
        assert run("systemctl", "is-active", "vtpm.target", expect=3).stdout == "inactive\n"
        run("systemctl", "stop", "vtpm.target")
        assert active("third") == 0
    finally:
        run("systemctl", "disable", "vtpm@first.service", "vtpm@second.service")
