"""A daemon whose TPM has failed, or whose disk is slow: what its clients, its administrator and systemd see."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from daemon_process import DaemonProcess
from faulty_disk import FaultyDisk
from small_disks import IN_FAILURE, full, small_disk
from tpm_commands import (
    GET_RANDOM,
    NV_DEFINE_COUNTER,
    NV_INCREMENT,
    NV_READ_COUNTER,
    PCR_EXTEND_16,
    PCR_READ_16,
    TPM12_GET_RANDOM,
    counter_of,
    result_of,
    with_session,
)

from swtpm_svc.cli.vtpmctl import entry, status
from swtpm_svc.cli.vtpmctl.doctor import findings as verdicts
from swtpm_svc.cli.vtpmctl.doctor import instance_checks
from swtpm_svc.cli.vtpmctl.host import Places
from swtpm_svc.errors import Code
from swtpm_svc.service import failed_start
from swtpm_svc.wire import ptm, ptm_socket

pytestmark = pytest.mark.needs("binding")

h = bytes.fromhex
SECRET = b"hunter2 in clear"
CHANGE_AUTH = with_session(0x129, h("40000001"), len(SECRET).to_bytes(2, "big") + SECRET)


@pytest.fixture
def make(tmp_path):
    made = []

    def make(**kw):
        made.append(DaemonProcess(tmp_path, "lab", **kw))
        return made[-1]

    yield make
    for one in made:
        one.stop(signal.SIGKILL)


@pytest.fixture
def small(make):
    """A daemon whose state is on a disk of 64 KiB."""
    daemon = make()
    with small_disk(daemon.state):
        yield daemon
        daemon.stop(signal.SIGKILL)


def ask(daemon, command):
    with daemon.connect() as client:
        client.sendall(command)
        return client.recv(4096)


def control(daemon, request):
    with daemon.connect(daemon.control) as client:
        client.sendall(ptm_socket.pack(request))
        return client.recv(4096)


def places_of(daemon):
    places = Places(config=daemon.directory, run=f"{daemon.directory}/run")
    if not os.path.exists(places.run):
        os.mkdir(places.run)
        os.symlink(daemon.directory, f"{places.run}/lab")
    return places


def status_of(daemon, capsys, *words):
    """What `vtpmctl status` says, and its exit status."""
    result = entry.main(["status", "lab", *words], places_of(daemon))
    return result, capsys.readouterr().out


@pytest.mark.needs("root")
def test_everybody_sees_that_it_has_failed_and_that_it_goes_on(small, capsys):
    daemon = small.start()
    assert result_of(ask(daemon, NV_DEFINE_COUNTER)) == result_of(ask(daemon, NV_INCREMENT)) == 0
    ask(daemon, PCR_EXTEND_16)
    pcr = ask(daemon, PCR_READ_16)
    with full(daemon.state):
        assert ask(daemon, CHANGE_AUTH) == IN_FAILURE["2.0"]
        for _ in range(20):
            assert ask(daemon, GET_RANDOM) == IN_FAILURE["2.0"]
        tpm = daemon.status()["tpm"]
        assert (tpm["power"], tpm["healed"], tpm["failure"]["code"], tpm["failure"]["heals"]) == (
            "failed",
            0,
            "state-full",
            True,
        )
        result, shown = status_of(daemon, capsys)
        assert result == 70
        assert "power failed" in shown
        assert "problem    the TPM has failed: " in shown
        assert "No space left on device" in shown
        assert "make room on its file system" in shown
        found = status.gather("lab", places_of(daemon))
        findings = instance_checks.examine(found, [], places_of(daemon))
        assert (verdicts.FAIL, Code.TPM_FAILED) in [(one.verdict, one.problem and one.problem.code) for one in findings]
        assert not any("is served" in one.text for one in findings)
        assert '"code": "tpm-failed"' in status_of(daemon, capsys, "--json")[1]
        log = daemon.log()
        assert log.count("error: the TPM has failed") == 1
        assert log.count("TPM_RC_FAILURE") == 1, "each command that it refuses is not an entry"
    assert ask(daemon, PCR_READ_16) == pcr
    assert counter_of(ask(daemon, NV_READ_COUNTER)) == 1
    tpm = daemon.status()["tpm"]
    assert (tpm["power"], tpm["healed"], tpm["failure"]) == ("running", 1, None)
    result, shown = status_of(daemon, capsys)
    assert (result, "problem" in shown) == (0, False)
    assert "has failed and gone on 1 times" in shown
    assert daemon.log().count("notice: the state can be stored again") == 1
    assert result_of(ask(daemon, NV_INCREMENT)) == 0
    assert daemon.stop() == 0
    daemon.start()
    assert counter_of(ask(daemon, NV_READ_COUNTER)) == 2


@pytest.mark.needs("root")
@pytest.mark.parametrize("level", ["debug", "info"])
def test_no_log_has_the_parameters_of_a_command_that_failed(make, tmp_path, level):
    daemon = make(more=f'[log]\nlevel = "{level}"\n')
    with small_disk(daemon.state):
        daemon.start()
        with full(daemon.state):
            assert ask(daemon, CHANGE_AUTH) == IN_FAILURE["2.0"]
            ask(daemon, CHANGE_AUTH)
        log = daemon.log()
        assert "HierarchyChangeAuth" in log
        daemon.stop()
    for spelled in (SECRET.decode(), SECRET.hex(), SECRET.hex(" "), SECRET.hex(" ")[:40]):
        assert spelled.lower() not in log.lower()


@pytest.mark.needs("root")
def test_a_start_whose_startup_cannot_be_stored_is_a_failed_start(small):
    daemon = small.start()
    daemon.stop()
    with full(daemon.state):
        daemon.spawn()
        assert daemon.process.wait(30) == 74
        assert "info: ready" not in daemon.log()
        assert "No space left on device; remedy: make room" in daemon.log()
    daemon.start()
    assert result_of(ask(daemon, GET_RANDOM)) == 0


@pytest.mark.needs("root")
def test_systemd_may_try_such_a_start_again_for_as_long_as_it_takes(small, tmp_path):
    """Each takes longer to end, so that there are never StartLimitBurst= of them in StartLimitIntervalSec= (that sum is in
    tests/unit/packaging/test_packaging_unit.py)."""
    unit = (Path(__file__).resolve().parents[3] / "packaging/vtpm@.service").read_text()
    assert "74" not in unit.split("\nRestartPreventExitStatus=")[1].split("\n")[0].split()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(10)
        small.start()
        small.stop()
        note = Path(small.directory) / "failed-start"
        with full(small.state):
            for tries in (1, 2, 5):
                if tries == 5:
                    note.write_text(note.read_text().replace("2 ", "4 ", 1))
                began = time.monotonic()
                small.spawn(environment={"NOTIFY_SOCKET": str(tmp_path / "notify")})
                assert small.process.wait(30) == 74
                assert time.monotonic() - began > failed_start.pause_s(tries)
                assert failed_start.read(str(note)).tries == tries
        said = systemd.recv(4096).decode()
        while "STATUS=" not in said or "No space" not in said:
            said = systemd.recv(4096).decode()
        assert "STATUS=failed (state-full): " in said
        assert "; remedy: make room on its file system" in said
        small.start()
        assert not note.exists()


# --- failure mode of libtpms
# ---------------------------------------------------------------------------------------------

MAKE_FAILED_STATE = """
import sys
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.state.store import Store
from swtpm_svc.service import failed_start
from swtpm_svc.tpm import libtpms
from swtpm_svc.tpm.tpm import Tpm

def run(command):
    return tpm.begin(memoryview(bytearray(command)), int.from_bytes(command[6:10], "big"))

def refuse(_name, _payload):
    raise VtpmError(Code.STATE_FULL, "full")

with Store.open(sys.argv[1], "1.2") as store:
    tpm = Tpm("1.2", store, print)
    tpm.power_on(delete_volatile=True)
    tpm.startup("clear")
    for command in ("00c10000000c4000000a0020", "00c10000000c4000000a0008"):
        run(bytes.fromhex(command))
        tpm._storage.commit()
    tpm._storage.store = refuse
    run(bytes.fromhex("00c10000000a00000070"))
    libtpms.take_failure()
    store.store("volatilestate", libtpms.volatile_state())
"""


def test_a_failure_that_storage_did_not_cause_is_seen_and_ends_with_a_reset(make, capsys):
    daemon = make(tpm='version = "1.2"', startup="none")
    subprocess.run([sys.executable, "-c", MAKE_FAILED_STATE, daemon.state], check=True)
    daemon.start()
    for _ in range(3):
        assert ask(daemon, TPM12_GET_RANDOM) == IN_FAILURE["1.2"]
    failure = daemon.status()["tpm"]["failure"]
    assert (failure["code"], failure["heals"]) == ("tpm-failed", False)
    result, shown = status_of(daemon, capsys)
    assert (result, "libtpms is in failure mode" in shown, "vtpmctl reset" in shown) == (70, True, True)
    assert daemon.log().count("libtpms is in failure mode") == 1
    assert control(daemon, ptm.Init(0)) == bytes(4)
    assert daemon.status()["tpm"]["power"] == "running"


# --- a disk that is slow
# ---------------------------------------------------------------------------------------------------


@pytest.fixture
def faulty_disk(tmp_path):
    disk = FaultyDisk(tmp_path)
    yield disk
    disk.close()


class Systemd:
    """What the daemon tells it, and when."""

    def __init__(self, path):
        self.path, self.said = str(path), []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self):
        while text := self._socket.recv(65536).decode():
            self.said.append((time.monotonic(), text))

    def close(self):
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(30)
        self._socket.close()

    def times_of(self, words):
        return [when for when, text in self.said if words in text]

    def environment(self, watchdog_s):
        return {"NOTIFY_SOCKET": self.path, "WATCHDOG_USEC": str(int(watchdog_s * 1e6))}


@pytest.fixture
def systemd(tmp_path):
    systemd = Systemd(tmp_path / "notify")
    yield systemd
    systemd.close()


@pytest.mark.needs("root", "fuse")
def test_a_disk_that_takes_a_probe_and_refuses_a_state_does_not_fill_the_journal(make, faulty_disk):
    """Each command heals the TPM, and makes it fail again."""
    daemon = make()
    os.rmdir(daemon.state)
    os.symlink(faulty_disk.path, daemon.state)
    daemon.start()
    ask(daemon, NV_DEFINE_COUNTER)
    faulty_disk.fail("EIO", "link")
    for _ in range(60):
        assert ask(daemon, NV_INCREMENT) == IN_FAILURE["2.0"]
    assert daemon.status()["tpm"]["healed"] > 50
    faulty_disk.mend()
    assert daemon.stop() == 0
    log = daemon.log()
    for words in ("the state can be stored again", "the TPM has failed: its state", "Input/output error"):
        lines = [line for line in log.splitlines() if words in line]
        assert 2 <= len(lines) <= 22, words
        assert "more times within a minute" in lines[-1]


@pytest.mark.needs("root", "fuse")
def test_a_status_does_not_wait_for_a_disk(make, faulty_disk):
    """Anybody may ask for it, and nobody else is to wait for a server of files that does not answer."""
    daemon = make()
    os.rmdir(daemon.state)
    os.symlink(faulty_disk.path, daemon.state)
    daemon.start()
    before = daemon.status()["state"]
    ask(daemon, NV_DEFINE_COUNTER)
    stored = daemon.status()["state"]
    assert stored["bytes"]["permall"] > before["bytes"]["permall"]
    assert stored["generation"] > before["generation"]
    faulty_disk.stall(20, "getattr", "read")
    began = time.monotonic()
    assert daemon.status()["state"] == stored
    assert result_of(ask(daemon, GET_RANDOM)) == 0
    assert time.monotonic() < began + 5
    faulty_disk.mend()
    assert daemon.stop() == 0


STALL_S = 8.0


@pytest.mark.needs("root", "fuse")
def test_a_disk_that_stalls_holds_only_who_wants_something_stored(make, faulty_disk, systemd, capsys):
    daemon = make()
    os.rmdir(daemon.state)
    os.symlink(faulty_disk.path, daemon.state)
    daemon.start(environment=systemd.environment(watchdog_s=1.0))
    ask(daemon, NV_DEFINE_COUNTER)
    faulty_disk.stall(STALL_S, "fsync")
    began = time.monotonic()
    with daemon.connect() as storing, daemon.connect(daemon.control) as controlling:
        storing.sendall(NV_INCREMENT)
        time.sleep(0.3)
        slowest = 0.0
        while time.monotonic() < began + 3:
            for request in (ptm.GetCapability(), ptm.CancelTpmCommand(), ptm.GetConfig()):
                asked = time.monotonic()
                controlling.sendall(ptm_socket.pack(request))
                assert controlling.recv(4096)[:4] == bytes(4)
                slowest = max(slowest, time.monotonic() - asked)
            asked = time.monotonic()
            told = daemon.status()
            slowest = max(slowest, time.monotonic() - asked)
            time.sleep(0.05)
        assert told["state"]["stalled"]
        assert slowest < 1.0, "what needs no storage is answered meanwhile"
        assert "the storage does not answer" in status_of(daemon, capsys)[1]
        faulty_disk.mend()
        assert result_of(storing.recv(4096)) == 0, "a cancel in between is not for the command after it"
        took = time.monotonic() - began
    assert took > STALL_S - 1
    alive = systemd.times_of("WATCHDOG=1")
    assert max(after - before for before, after in zip(alive, alive[1:])) < 1.0
    assert began + 1 <= systemd.times_of("its storage does not answer")[0] < began + 3
    deadline = time.monotonic() + 5
    while daemon.status()["state"]["stalled"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert daemon.log().count("warning: the storage of the state has not answered") == 1
    assert daemon.log().count("notice: the storage answers again") == 1
    assert counter_of(ask(daemon, NV_READ_COUNTER)) == 1


@pytest.mark.needs("root", "fuse")
@pytest.mark.parametrize(
    "request_", [ptm.Init(0), ptm.StoreVolatile(), ptm.Stop()], ids=lambda value: type(value).__name__
)
def test_control_operations_that_store_do_not_hold_the_loop(make, faulty_disk, request_):
    daemon = make()
    os.rmdir(daemon.state)
    os.symlink(faulty_disk.path, daemon.state)
    daemon.start()
    faulty_disk.stall(2.0, "fsync", "read")
    with daemon.connect(daemon.control) as slow:
        began = time.monotonic()
        slow.sendall(ptm_socket.pack(request_))
        time.sleep(0.2)
        assert control(daemon, ptm.GetConfig())[:4] == bytes(4)
        assert time.monotonic() - began < 1.5
        assert slow.recv(4096) == bytes(4)
        assert time.monotonic() - began > 1.5
    faulty_disk.mend()
