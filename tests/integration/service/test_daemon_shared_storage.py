"""Two daemons with one state: the lock goes from one to the other with the TPM, as in a live migration on shared
storage; and what [state] says else."""

import os
import signal
import tempfile

import pytest
from daemon_process import DaemonProcess
from tpm_commands import (
    GET_RANDOM,
    PCR_EXTEND_16,
    PCR_READ_16,
    STARTUP_CLEAR,
    TPM12_GET_RANDOM,
    TPM12_PCR_EXTEND_10,
    TPM12_PCR_READ_10,
    result_of,
)

from swtpm_svc.wire import ptm, ptm_socket
from swtpm_svc.wire.dialect import DIALECTS

pytestmark = pytest.mark.needs("binding")

KINDS = (ptm.BlobType.PERMANENT, ptm.BlobType.VOLATILE, ptm.BlobType.SAVESTATE)


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(prefix="vtpm-shared-", dir="/tmp") as made:
        yield made


@pytest.fixture
def make(folder):
    made = []

    def add(name, state, more, **keys):
        os.makedirs(f"{folder}/{name}")
        daemon = DaemonProcess(f"{folder}/{name}", name, startup="none", more=more, **keys)
        with open(daemon.config, encoding="utf-8") as file:
            text = file.read().replace(f'directory = "{daemon.state}"', state)
        with open(daemon.config, "w", encoding="utf-8") as file:
            file.write(text)
        made.append(daemon)
        return daemon

    yield add
    for daemon in made:
        daemon.stop(signal.SIGKILL)


def ask(daemon, command, path=None):
    with daemon.connect(path) as client:
        client.sendall(command)
        return client.recv(65536)


def control(daemon, request):
    return ask(daemon, ptm_socket.pack(request), daemon.control)


def result(reply):
    return int.from_bytes(reply[:4], "big")


def take(daemon, kind):
    """GET_STATEBLOB: result, flags, total length, length of what follows."""
    reply = control(daemon, ptm.GetStateBlob(state_flags=1, type=kind))
    return reply[16:]


def give(daemon, kind, data):
    """SET_STATEBLOB, as QEMU sends it: in one message."""
    return result(control(daemon, ptm.SetStateBlob(state_flags=0, type=kind, data=data)))


def shared(folder, kind):
    os.makedirs(f"{folder}/storage", exist_ok=True)
    return f'directory = "{folder}/storage"' if kind == "directory" else f'file = "{folder}/storage/vm1.tpm"'


#: Startup, a random number, and a PCR: extended, and read.
COMMANDS = {
    "1.2": (DIALECTS["1.2"].startup["clear"], TPM12_GET_RANDOM, TPM12_PCR_EXTEND_10, TPM12_PCR_READ_10),
    "2.0": (STARTUP_CLEAR, GET_RANDOM, PCR_EXTEND_16, PCR_READ_16),
}
FAILURES = {"1.2": bytes.fromhex("00c40000000a00000009"), "2.0": bytes.fromhex("80010000000a00000101")}


@pytest.mark.parametrize(("kind", "version"), [("directory", "2.0"), ("file", "2.0"), ("file", "1.2")])
def test_a_machine_moves(make, folder, kind, version):
    state, tpm = shared(folder, kind), f'version = "{version}"'
    startup, random, extend, read = COMMANDS[version]
    source = make("source", state, "[migration]\nrelease-lock = true", tpm=tpm).start()
    target = make("target", state, "[migration]\nincoming = true", tpm=tpm).start()
    assert (source.status()["state"]["locked"], target.status()["state"]["locked"]) == (True, False)
    assert result_of(ask(source, startup)) == 0
    assert result_of(ask(source, extend)) == 0
    extended = ask(source, read)

    # too early: the other one has it, and says who
    assert ask(target, random) == FAILURES[version]
    assert f"is held by process {source.process.pid}" in target.log()
    assert control(target, ptm.LockStorage(retries=1)) == bytes.fromhex("00000009")

    blobs = {one: take(source, one) for one in KINDS}
    assert (source.status()["state"]["locked"], target.status()["state"]["locked"]) == (False, False)
    assert "has given up, for another host, the lock" in source.log()

    assert result(control(target, ptm.Stop())) == 0
    for one in KINDS[:2]:
        assert give(target, one, blobs[one]) == 0
    assert target.status()["state"]["locked"]
    assert result(control(target, ptm.Init())) == 0
    assert ask(target, read) == extended
    assert result_of(ask(target, extend)) == 0

    # the source comes to its end without a word to the storage
    assert ask(source, random) == FAILURES[version]
    assert source.stop() == 0
    assert result_of(ask(target, random)) == 0
    assert target.stop() == 0
    assert "Traceback" not in source.log() + target.log()


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_a_machine_stays_after_all(make, folder, kind):
    state = shared(folder, kind)
    source = make("source", state, "[migration]\nrelease-lock = true").start()
    target = make("target", state, "[migration]\nincoming = true").start()
    assert result_of(ask(source, STARTUP_CLEAR)) == 0
    assert result_of(ask(source, PCR_EXTEND_16)) == 0
    extended = ask(source, PCR_READ_16)
    blobs = {one: take(source, one) for one in KINDS}
    assert result(control(target, ptm.Stop())) == 0
    assert give(target, KINDS[0], blobs[KINDS[0]]) == 0
    assert control(source, ptm.LockStorage(retries=3)) == bytes.fromhex("00000009")
    assert target.stop(signal.SIGKILL) == -signal.SIGKILL
    assert control(source, ptm.LockStorage(retries=100)) == bytes(4)
    assert source.status()["state"]["locked"]
    assert ask(source, PCR_READ_16) == extended
    assert source.stop() == 0


def test_without_the_keys_the_second_one_is_refused(make, folder):
    state = shared(folder, "file")
    source = make("source", state, "").start()
    for one in KINDS:
        take(source, one)
    assert source.status()["state"]["locked"]
    target = make("target", state, "")
    target.spawn()
    assert target.process.wait(30) == 75
    assert f"{folder}/storage/vm1.tpm is held by process {source.process.pid}" in target.log()


def test_state_in_one_file(make, folder):
    """Served, stored, killed, and gone on with; its mode as configured."""
    daemon = make("one", shared(folder, "file") + '\nmode = "0640"\nfsync = false', "").start()
    assert daemon.status()["state"]["directory"] == f"{folder}/storage/vm1.tpm"
    assert os.listdir(f"{folder}/storage") == ["vm1.tpm"]
    assert os.stat(f"{folder}/storage/vm1.tpm").st_mode & 0o777 == 0o640
    generation = daemon.status()["state"]["generation"]
    assert generation != "-"
    daemon.stop(signal.SIGKILL)
    daemon.start()
    assert daemon.status()["state"]["bytes"]["permall"] > 1000
    assert daemon.status()["state"]["generation"] == generation
    assert "a new TPM" not in daemon.log()


def test_a_backup_is_gone_back_to_and_told(make, folder):
    daemon = make("one", shared(folder, "directory") + '\nbackup = true\nmode = "0640"', "").start()
    assert result_of(ask(daemon, STARTUP_CLEAR)) == 0
    assert daemon.stop() == 0
    permall = f"{folder}/storage/tpm2-00.permall"
    names = {name for name in os.listdir(f"{folder}/storage") if name.startswith("tpm2-00.")}
    assert names == {"tpm2-00.permall", "tpm2-00.permall.bak"}
    assert os.stat(permall).st_mode & 0o777 == 0o640
    with open(permall, "r+b") as file:
        file.truncate(500)
    daemon.start()
    assert "its backup, tpm2-00.permall.bak, changed places" in daemon.log()
    assert os.stat(f"{permall}.bak").st_size == 500
    assert result_of(ask(daemon, STARTUP_CLEAR)) == 0
    assert daemon.stop() == 0
    os.unlink(permall)
    daemon.start()
    assert "was missing: its backup, tpm2-00.permall.bak, is in its place now" in daemon.log()
    assert os.path.exists(permall)


def test_without_the_key_a_backup_is_used_for_what_is_missing_only(make, folder):
    """As swtpm does it."""
    daemon = make("one", shared(folder, "directory"), "").start()
    assert result_of(ask(daemon, STARTUP_CLEAR)) == 0
    assert daemon.stop() == 0
    permall = f"{folder}/storage/tpm2-00.permall"
    os.rename(f"{permall}.previous", f"{permall}.bak")
    with open(permall, "r+b") as file:
        file.truncate(500)
    daemon.spawn()
    assert daemon.process.wait(30) == 65
    os.unlink(permall)
    daemon.start()
    assert "is in its place now" in daemon.log()
