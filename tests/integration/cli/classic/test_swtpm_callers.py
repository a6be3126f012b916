"""Programs that bring up swtpm themselves, over ours: swtpm_setup and tpm2-tools themselves, others by their words."""

import contextlib
import os
import signal
import socket
import subprocess
from array import array

import pytest
from classic_commands import commands_directory
from classic_swtpm import DEADLINE_S, STARTUP_CLEAR, ask, connect, is_alive, running, serves, wait_until
from socket_service import free_ports


@pytest.fixture(scope="module")
def swtpm(tmp_path_factory):
    return commands_directory(tmp_path_factory.mktemp("commands")) / "swtpm"


@pytest.fixture
def state(tmp_path):
    (tmp_path / "state").mkdir()
    return tmp_path / "state"


@pytest.mark.needs("swtpm_setup")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tpm2", "--createek", "--lock-nvram"], "Successfully created RSA 2048 EK with handle 0x81010001."),
        (["--createek", "--take-ownership"], "Successfully took ownership of the TPM."),
    ],
)
def test_the_distributions_setup_makes_a_tpm(swtpm, state, words, said):
    command = ["swtpm_setup", "--tpmstate", state, *words, "--tpm", f"{swtpm} socket"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert said in done.stdout
    # and the distribution's swtpm goes on with it
    tpm2 = ["--tpm2"] if "--tpm2" in words else []
    shown = subprocess.run(
        ["/usr/bin/swtpm", "socket", "--print-states", "--tpmstate", f"dir={state}", *tpm2],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert '"name": "permall"' in shown.stdout


@pytest.mark.needs("tpm2-tools")
def test_tpm2_tools_find_both_sockets(swtpm, state, tmp_path):
    words = ["socket", "--tpm2", "--tpmstate", f"dir={state}", "--flags", "startup-clear"]
    words += ["--server", f"type=unixio,path={tmp_path}/tpm", "--ctrl", f"type=unixio,path={tmp_path}/tpm.ctrl"]
    with running(swtpm, *words) as process:
        serves(tmp_path / "tpm", process)
        done = subprocess.run(
            ["tpm2_getrandom", "-T", f"swtpm:path={tmp_path}/tpm", "--hex", "8"],
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
        assert (done.returncode, len(done.stdout)) == (0, 16), done.stderr


def test_a_caller_that_waits_for_an_empty_pid_file(swtpm, state, tmp_path):
    """swtpm_setup makes it, and looks at its size."""
    (tmp_path / "pid").touch(mode=0o600)
    words = ["socket", "--tpm2", "--tpmstate", f"dir={state}", "--daemon", "--pid", f"file={tmp_path}/pid"]
    words += ["--ctrl", f"type=unixio,path={tmp_path}/ctrl,mode=0600"]
    assert subprocess.run([swtpm, *words], timeout=DEADLINE_S).returncode == 0
    pid = int((tmp_path / "pid").read_text())
    assert (tmp_path / "ctrl").stat().st_mode & 0o777 == 0o600
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not is_alive(pid), "ended")
    assert sorted(os.listdir(tmp_path)) == ["state"]


def pipe_with(content):
    """A descriptor that gives `content`, as libvirt hands its secrets over."""
    reader, writer = os.pipe()
    os.write(writer, content)
    os.close(writer)
    return reader


def test_libvirt_begins_with_secrets_in_pipes(swtpm, state, tmp_path):
    secrets = [pipe_with(b"a secret"), pipe_with(b"a secret")]
    words = ["socket", "--ctrl", f"type=unixio,path={tmp_path}/ctrl,mode=0600"]
    words += ["--tpmstate", f"dir={state},mode=0600", "--log", f"file={tmp_path}/log", "--terminate", "--tpm2"]
    words += ["--key", f"pwdfd={secrets[0]},mode=aes-256-cbc"]
    words += ["--migration-key", f"pwdfd={secrets[1]},mode=aes-256-cbc"]
    words += ["--pid", f"file={tmp_path}/pid", "--daemon"]
    assert subprocess.run([swtpm, *words], pass_fds=secrets, timeout=DEADLINE_S).returncode == 0
    for fd in secrets:
        os.close(fd)
    pid = int((tmp_path / "pid").read_text())
    ours, theirs = socket.socketpair()
    with ours, theirs, connect(tmp_path / "ctrl") as control:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [theirs.fileno()]).tobytes())
        control.sendmsg([bytes.fromhex("00000010")], [rights])
        assert control.recv(4) == bytes(4)
        assert ask(control, bytes.fromhex("0000000f")).hex() == "0000000000000003", "GET_CONFIG: both keys"
        assert ask(control, bytes.fromhex("0000000200000000")) == bytes(4)
        theirs.close()
        assert ask(ours).hex() == "80010000000a00000100"
    wait_until(lambda: not is_alive(pid), "ended with the data connection")
    assert sorted(os.listdir(tmp_path)) == ["log", "state"]
    assert (tmp_path / "log").read_text() == "Data client disconnected\n"


def test_tpm2_pytss_begins_with_two_ports(swtpm, state):
    port = free_ports()
    words = ["socket", "--tpm2", "--server", f"port={port}", "--ctrl", f"type=tcp,port={port + 1}"]
    words += ["--flags", "not-need-init", "--tpmstate", f"dir={state}", "--seccomp", "action=none"]
    with running(swtpm, *words):

        def connects():
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port + 1), DEADLINE_S).close()
                return True
            return False

        wait_until(connects, "served")
        with socket.create_connection(("127.0.0.1", port), DEADLINE_S) as connection:
            assert ask(connection, STARTUP_CLEAR) == bytes.fromhex("80010000000a00000000")
            assert len(ask(connection)) == 20


def test_vmspawn_begins_with_a_socket_that_listens(swtpm, state, tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/ctrl")
        listener.listen()
        words = ["socket", "--tpm2", "--tpmstate", f"dir={state}", "--ctrl", f"type=unixio,fd={listener.fileno()}"]
        with running(swtpm, *words, pass_fds=[listener.fileno()]), connect(tmp_path / "ctrl") as control:
            assert ask(control, bytes.fromhex("00000001")).hex() == "000000000001ffff"
