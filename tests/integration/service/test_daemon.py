"""The daemon itself, without a device: what a container or an unprivileged user runs, and socket activation."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile

import other_user
import pytest
from daemon_process import DaemonProcess
from device_clients import wait_for
from reading_users import PROGRAM as SAYS_WHO_READS
from socket_service import free_ports
from tpm_commands import GET_RANDOM, PCR_EXTEND_16, PCR_READ_16, STARTUP_CLEAR, result_of

from swtpm_svc.wire import ptm, ptm_socket

pytestmark = pytest.mark.needs("binding")


@pytest.fixture
def make(tmp_path):
    made = []

    def make(name="lab", **kw):
        made.append(DaemonProcess(tmp_path, name, **kw))
        return made[-1]

    yield make
    for one in made:
        one.stop(signal.SIGKILL)


def ask(client, command=GET_RANDOM):
    client.sendall(command)
    return client.recv(4096)


SAYS_WHO_SUBMITS = """
import sys, threading
from swtpm_svc.service.vtpmd import main
from swtpm_svc.tpm.executor import Executor

submit = Executor.submit

def told(*args, **kw):
    print("submits:", threading.current_thread().name, file=sys.stderr, flush=True)
    submit(*args, **kw)

Executor.submit = told
sys.exit(main())
"""


def test_work_is_given_to_the_worker_by_the_serving_thread_only(make, tmp_path):
    """The queues have no lock.

    What is new about the TPM's identity is found out on the worker when a Startup is stored there.
    """
    (tmp_path / "program.py").write_text(SAYS_WHO_SUBMITS)
    daemon = make(startup="none")
    place = daemon.words.index("-m")
    daemon.words[place : place + 2] = [str(tmp_path / "program.py")]
    daemon.start()
    with daemon.connect() as client:
        assert result_of(ask(client, STARTUP_CLEAR)) == 0
    wait_for(lambda: daemon.status()["identity"] is not None, "the look at the identity")
    daemon.settle()
    assert daemon.stop() == 0
    assert {line for line in daemon.log().splitlines() if "submits:" in line} == {"submits: MainThread"}


def test_a_tpm_without_a_device(make):
    daemon = make().start()
    with daemon.connect() as client:
        assert result_of(ask(client)) == 0
    status = daemon.status()
    assert status["device"] is None
    assert status["listening"] == [daemon.control, daemon.data]
    assert f"ready: TPM 2.0 at {daemon.control}, running" in daemon.log()
    assert daemon.stop() == 0
    assert not os.path.exists(daemon.control)
    assert not os.path.exists(daemon.data)
    assert "Traceback" not in daemon.log()


@pytest.mark.needs("root")
def test_nothing_that_reads_the_state_can_be_root_again(make):
    with tempfile.TemporaryDirectory(prefix="vtpm-daemon-", dir="/tmp") as folder:
        daemon = DaemonProcess(folder)
        for path in (folder, daemon.state):
            os.chown(path, 65534, 65534)
        words = [sys.executable, "-c", SAYS_WHO_READS, "--config", daemon.config, "--foreground", "--user", "nobody"]
        with open(daemon.log_path, "wb") as log:
            daemon.process = subprocess.Popen(words, env={**os.environ, "RUNTIME_DIRECTORY": folder}, stderr=log)
        try:
            wait_for(lambda: "info: ready" in daemon.log() or daemon.process.poll() is not None, "the start")
            assert "info: ready" in daemon.log()
            assert "state is read as 65534\n" in daemon.log()
        finally:
            daemon.stop()


def test_two_daemons_on_one_state_directory(make, tmp_path):
    first = make().start()
    second = make("other")
    with open(second.config, encoding="utf-8") as file:
        text = file.read().replace(second.state, first.state)
    with open(second.config, "w", encoding="utf-8") as file:
        file.write(text)
    second.spawn()
    assert second.process.wait(30) == 75
    assert f"{first.state}/.lock is held by process {first.process.pid}" in second.log()
    with first.connect() as client:
        assert result_of(ask(client)) == 0


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.needs("root", "fuse", "tpm2-tools")
def test_the_tpm_as_files_beside_its_sockets(make, tmp_path):
    """Commands of both come to one TPM; the mount goes with the daemon, and with one that was killed at the next
    start."""
    files = tmp_path / "fs"
    daemon = make(device_keys='group = "root"', more=f'[fuse]\nenabled = true\ndirectory = "{files}"\n').start()
    assert f"ready: TPM 2.0 at {files}/tpm, running" in daemon.log()
    random = run("tpm2_getrandom", "--hex", "8", "-T", f"device:{files}/tpm")
    assert len(bytes.fromhex(random)) == 8
    with daemon.connect() as client:
        ask(client, PCR_EXTEND_16)
        value = ask(client, PCR_READ_16)[-32:]
    assert (files / "pcr-sha256/16").read_text() == value.hex().upper() + "\n"
    assert json.loads((files / "status").read_text())["instance"] == "lab"
    assert daemon.status()["fuse"] == {"path": str(files), "openers": 0}
    daemon.stop(signal.SIGKILL)
    with pytest.raises(OSError, match="not connected"):
        (files / "tpm").stat()
    daemon.start()
    assert (files / "tpm_version_major").read_text() == "2\n"
    assert daemon.stop() == 0
    assert not files.exists() or not list(files.iterdir())
    assert not os.path.ismount(files)


# --- the simulator's protocol ----------------------------------------------------------------------------------------


@pytest.mark.needs("tpm2-tools")
def test_the_simulator_s_two_ports(make):
    port = free_ports()
    daemon = make(socket_keys=f'control = "none"\nmssim = "tcp:{port}"').start()
    assert f"ready: TPM 2.0 at tcp:127.0.0.1:{port}, running" in daemon.log()
    assert daemon.status()["listening"] == [f"tcp:127.0.0.1:{port}", f"tcp:127.0.0.1:{port + 1}"]
    tcti = f"mssim:host=127.0.0.1,port={port}"
    assert len(bytes.fromhex(run("tpm2_getrandom", "--hex", "8", "-T", tcti))) == 8
    assert "sha256" in run("tpm2_pcrread", "sha256:16", "-T", tcti)


# --- vtpmctl without a device ----------------------------------------------------------------------------------------


def run(*words):
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout


def vtpmctl(*words, expect=0):
    done = subprocess.run(
        [sys.executable, "-m", "swtpm_svc.cli.vtpmctl.entry", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (expect, False), (words, done.stdout, done.stderr)
    return done.stdout + done.stderr


def test_every_control_operation_on_the_control_socket(make, tmp_path):
    """The same operations as on a device, in the other encoding: whole blobs, and TPM results in place of errno."""
    daemon = make().start()
    (tmp_path / "data").write_bytes(b"measured")
    with daemon.connect() as client:
        ask(client, PCR_EXTEND_16)
        extended = ask(client, PCR_READ_16)
        for words in (
            ("capabilities", daemon.control),
            ("info", daemon.control),
            ("config", daemon.control),
            ("buffer-size", daemon.control),
            ("hash", daemon.control, str(tmp_path / "data")),
            ("established", daemon.control),
            ("established", daemon.control, "--reset"),
            ("locality", daemon.control, "3"),
            ("locality", daemon.control, "0"),
            ("cancel", daemon.control),
            ("store-volatile", daemon.control),
            ("save", daemon.control, "permanent", str(tmp_path / "permanent")),
            ("save", daemon.control, "volatile", str(tmp_path / "volatile")),
            ("power", "off", daemon.control),
            ("load", daemon.control, "permanent", str(tmp_path / "permanent")),
            ("load", daemon.control, "volatile", str(tmp_path / "volatile")),
            ("init", daemon.control),
        ):
            vtpmctl(*words)
        assert ask(client, PCR_READ_16)[-32:] == extended[-32:]
        assert "power it off first" in vtpmctl(
            "load", daemon.control, "permanent", str(tmp_path / "permanent"), expect=69
        )
        assert "the TPM has no savestate state" in vtpmctl(
            "save", daemon.control, "savestate", str(tmp_path / "s"), expect=66
        )
    vtpmctl("shutdown", daemon.control)
    assert daemon.process.wait(30) == 0


def test_a_control_socket_that_nobody_serves(make):
    daemon = make().start()
    daemon.stop(signal.SIGKILL)
    assert os.path.exists(daemon.control)
    assert f"nobody serves {daemon.control} (Connection refused)" in vtpmctl("init", daemon.control, expect=69)
    assert "info: ready" in daemon.start().log(), "a successor takes the dead socket away"
    vtpmctl("capabilities", daemon.control)


# --- socket activation -----------------------------------------------------------------------------------------------


def listen(path):
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    sock.listen(8)
    return sock


def test_sockets_that_systemd_listens_on(make, tmp_path):
    """As vtpm@.socket passes them: a UNIX control socket, and a TCP data socket that the sandbox could not make."""
    control, data = listen(str(tmp_path / "activated")), socket.create_server(("127.0.0.1", 0))
    with control, data, socket.socket(socket.AF_UNIX) as early:
        early.connect(str(tmp_path / "activated"))  # before there is a process
        early.sendall(ptm_socket.pack(ptm.GetConfig()))
        daemon = make().start(sockets=[("control", control), ("data", data)])
        early.settimeout(10)
        assert early.recv(100) == bytes(8)
        with socket.create_connection(data.getsockname(), timeout=10) as client:
            assert result_of(ask(client)) == 0
        assert f"tcp:127.0.0.1:{data.getsockname()[1]}" in daemon.status()["listening"]
        assert daemon.stop() == 0
        assert os.path.exists(tmp_path / "activated"), "the socket's file is systemd's"


def test_a_socket_that_does_not_listen_is_refused(make, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as wrong:
        wrong.bind(str(tmp_path / "datagrams"))
        daemon = make()
        daemon.spawn(sockets=[("control", wrong)])
        assert daemon.process.wait(30) == 75
    assert (
        "the socket that systemd passed as control is not a listening stream socket; remedy: use ListenStream="
        in daemon.log()
    )


@pytest.mark.needs("root")
def test_a_user_with_a_number_of_ten_digits_and_without_a_name(make):
    """As containers have them. What is configured by that number works, for the user's group too."""
    number, other = 1000660000, 1000660001
    with tempfile.TemporaryDirectory(prefix="vtpm-container-", dir="/tmp") as folder:
        daemon = DaemonProcess(folder, device_keys=f'group = "{number}"', more=f'[control]\ngroup = "{number}"\n')
        for path in (folder, daemon.state):
            os.chown(path, number, number)
            os.chmod(path, 0o750)
        try:
            daemon.words = other_user.words("swtpm_svc.service.vtpmd", number, number, *daemon.words[3:])
            daemon.start()
            assert {(os.stat(path).st_uid, os.stat(path).st_gid) for path in (daemon.control, daemon.data)} == {
                (number, number)
            }
            with daemon.connect() as client:
                assert result_of(ask(client)) == 0
            words = other_user.words("swtpm_svc.cli.vtpmctl.entry", other, number, "locality", daemon.control, "1")
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            assert (done.returncode, done.stderr) == (0, "")
            assert "warning" not in daemon.log()
        finally:
            daemon.stop()
