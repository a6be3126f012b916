"""SIGHUP: what is in force afterwards is what the journal says."""

import grp
import os
import signal
import time

import pytest
from daemon_process import DaemonProcess
from device_clients import wait_for
from tpm_commands import GET_RANDOM, result_of

pytestmark = pytest.mark.needs("root")


def reload(daemon: DaemonProcess, group: str, more: str = "") -> str:
    """What the daemon says of it."""
    with open(daemon.config, encoding="utf-8") as file:
        text = file.read().partition("[control]")[0]
    with open(daemon.config, "w", encoding="utf-8") as file:
        file.write(f'{text}[control]\ngroup = "{group}"\n{more}')
    before = len(daemon.log())
    os.kill(daemon.process.pid, signal.SIGHUP)
    deadline = time.monotonic() + 30
    while "configuration reloaded" not in daemon.log()[before:]:
        assert time.monotonic() < deadline, daemon.log()
        time.sleep(0.01)
    return daemon.log()[before:]


@pytest.fixture
def daemon(tmp_path):
    made = DaemonProcess(tmp_path, more='[control]\ngroup = "adm"\n').start()
    yield made
    made.stop()


def ask(client) -> None:
    client.sendall(GET_RANDOM)
    assert result_of(client.recv(4096)) == 0


def group_of(path: str) -> str:
    return grp.getgrgid(os.stat(path).st_gid).gr_name


def test_a_group_that_does_not_exist_does_not_come_into_force(daemon):
    assert group_of(daemon.control) == "adm"
    said = reload(daemon, "no-such-group")
    assert "[control] group has changed: there is no group no-such-group; adm stays in force" in said
    assert "VTPM_ERROR=user-missing" in said
    assert "now in force" not in said
    assert group_of(daemon.control) == "adm"


def test_a_group_that_does_is_the_control_sockets_too(daemon):
    """In force it was, and its members could not connect."""
    assert "[control] group has changed: now in force" in reload(daemon, "mail")
    assert group_of(daemon.control) == "mail"
    data = group_of(daemon.data)
    assert "has changed" not in reload(daemon, "mail")
    reload(daemon, "no-such-group")
    assert (group_of(daemon.control), group_of(daemon.data)) == ("mail", data)


def test_a_group_by_number(daemon):
    reload(daemon, "12345")
    assert os.stat(daemon.control).st_gid == 12345


def test_a_level_of_the_log(daemon):
    """From then on each command is told, also those that are served without Python before."""
    with daemon.connect() as client:
        ask(client)
        assert "TPM2_GetRandom" not in daemon.log()
        assert "[log] level has changed: now in force" in reload(daemon, "adm", '[log]\nlevel = "debug"\n')
        ask(client)
        wait_for(lambda: "debug: TPM2_GetRandom: " in daemon.log(), "the command to be told")
        said = reload(daemon, "adm")
        assert "[log] level has changed: now in force" in said
        before = daemon.log()
        ask(client)
        assert daemon.log() == before
