"""A restart as systemd does it: what the successor takes over is used once, and what it is allowed to do stays little."""

import os
import tempfile
from mmap import PAGESIZE
from pathlib import Path

import pytest
from daemon_process import DaemonProcess
from kept_descriptors import KeptDescriptors
from tpm_commands import (
    NV_DEFINE_COUNTER,
    NV_INCREMENT,
    NV_READ_COUNTER,
    PCR_EXTEND_16,
    PCR_READ_16,
    STARTUP_CLEAR,
    counter_of,
    result_of,
)

pytestmark = pytest.mark.needs("binding")

NOBODY = 65534


@pytest.fixture
def folder():
    """One that any user can reach."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.fixture
def make(folder):
    """An instance with systemd's side of it."""
    made = []

    def make(**options):
        made.append(KeptDescriptors(DaemonProcess(folder, **options)).__enter__())
        return made[-1]

    yield make
    for one in made:
        one.daemon.stop(9)
        one.__exit__()


def ask(daemon, command):
    with daemon.connect() as client:
        client.sendall(command)
        return client.recv(4096)


def test_a_handover_is_used_once(make):
    """A kill after a restart does not bring back the TPM of that restart: a counter would go back."""
    systemd = make()
    daemon = systemd.start()
    assert result_of(ask(daemon, NV_DEFINE_COUNTER)) == 0
    assert result_of(ask(daemon, NV_INCREMENT)) == 0
    assert result_of(ask(daemon, PCR_EXTEND_16)) == 0
    extended = ask(daemon, PCR_READ_16)
    systemd.restart()
    assert ask(daemon, PCR_READ_16) == extended, "it was handed over"
    assert result_of(ask(daemon, NV_INCREMENT)) == 0
    value = counter_of(ask(daemon, NV_READ_COUNTER))
    systemd.kill()
    assert counter_of(ask(daemon, NV_READ_COUNTER)) >= value
    assert ask(daemon, PCR_READ_16) != extended, "nothing was handed over"


def left_in(memory):
    """The handover, which follows what the layout has at the beginning (continuity/parking.py)."""
    start = 32 * PAGESIZE
    return os.pread(memory, os.fstat(memory).st_size - start, start)


def test_nothing_of_the_tpm_stays_in_the_memory_once_it_is_taken_over(make):
    """It has the seeds of every key in clear."""
    systemd = make()
    systemd.start()
    assert systemd.daemon.stop() == 0
    assert left_in(systemd.memory).strip(b"\0")
    systemd.start()
    assert left_in(systemd.memory).strip(b"\0") == b""


def test_commands_restarts_and_locality_are_counted_on(make):
    systemd = make()
    daemon = systemd.start()
    for _ in range(3):
        ask(daemon, PCR_READ_16)
    for restarts in (1, 2):
        systemd.restart()
        status = daemon.status()
        assert (status["restarts"], status["commands"]) == (restarts, 3)
    systemd.kill()
    assert daemon.status()["restarts"] == 0


def ids_of(pid):
    """Real, effective, saved and file system's number of the user and the group, and the other groups (proc(5))."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = {name: words.split() for name, _, words in (line.partition(":") for line in lines)}
    return found["Uid"], found["Gid"], found["Groups"], {found[name][0] for name in ("CapPrm", "CapEff", "CapInh")}


@pytest.mark.needs("root")
def test_who_was_root_cannot_be_root_again_whichever_way_it_started(make, folder):
    """The saved number too: with it, whoever takes the process over is root with one call."""
    systemd = make()
    daemon = systemd.daemon
    daemon.words[daemon.words.index("--user") + 1] = "nobody"
    for path in (folder, Path(daemon.state)):
        os.chown(path, NOBODY, NOBODY)

    def check():
        users, groups, others, capabilities = ids_of(daemon.process.pid)
        assert users == [str(NOBODY)] * 4
        assert groups == [str(NOBODY)] * 4
        assert set(others) <= {str(NOBODY)}
        assert capabilities == {"0" * 16}

    systemd.start()
    check()
    systemd.restart()
    assert daemon.status()["restarts"] == 1
    check()
    systemd.kill()
    check()


@pytest.mark.needs("root", "setpriv")
def test_other_processes_of_its_user_do_not_reach_it_through_proc(make, folder):
    """Started as the service's user, as systemd 253 and later do, it says so itself: /proc/PID is root's then."""
    systemd = make()
    daemon = systemd.daemon
    for path in (folder, Path(daemon.state), Path(daemon.config)):
        os.chown(path, NOBODY, NOBODY)
    daemon.words[:0] = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--"]
    systemd.start()
    for name in ("environ", "mem", "maps", "fd"):
        assert os.stat(f"/proc/{daemon.process.pid}/{name}").st_uid == 0
    assert ids_of(daemon.process.pid)[0] == [str(NOBODY)] * 4


def test_a_new_tpm_is_powered_on_by_whoever_configures_it(make):
    """What waited for INIT does not wait any longer when the configuration says so."""
    systemd = make(tpm='power-on = "manual"', startup="none")
    daemon = systemd.start()
    assert daemon.status()["tpm"]["power"] == "off"
    systemd.restart()
    assert daemon.status()["tpm"]["power"] == "off"
    config = Path(daemon.config)
    config.write_text(config.read_text().replace('"manual"', '"auto"'))
    systemd.restart()
    assert daemon.status()["tpm"]["power"] == "running"
    assert result_of(ask(daemon, STARTUP_CLEAR)) == 0
