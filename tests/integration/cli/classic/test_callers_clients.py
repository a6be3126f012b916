"""What test suites of TPM 2.0 software start, and what they then do with it: tpm2-pytss, tpm2-tools, fwupd, keylime."""

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from classic_commands import commands_directory
from classic_swtpm import DEADLINE_S, is_alive, running, wait_until

pytestmark = pytest.mark.needs("binding")

PYTSS_CLIENT = Path(__file__).resolve().parents[2] / "peers/pytss_client.py"


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    return commands_directory(tmp_path_factory.mktemp("commands"))


@pytest.fixture
def port():
    """A port that is free, as the next one is."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            number = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", number + 1))
            except (OSError, OverflowError):
                continue
            return number


def answers(port):
    """As they ask whether it is there: a connection that is closed again."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def run(*words, **variables):
    environment = {**os.environ, **variables}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


@pytest.mark.needs("tpm2-pytss")
def test_tpm2_pytss(commands, port, tmp_path):
    words = ["socket", "--tpm2", "--server", f"port={port}", "--ctrl", f"type=tcp,port={port + 1}"]
    with running(commands / "swtpm", *words, "--flags", "not-need-init", "--tpmstate", f"dir={tmp_path}") as process:
        wait_until(lambda: answers(port) and answers(port + 1), "answered")
        run("/usr/bin/python3", PYTSS_CLIENT, f"swtpm:port={port}")
        process.terminate()
        assert process.wait(DEADLINE_S) == 0


@pytest.mark.needs("tpm2-tools")
def test_tpm2_tools(commands, port, tmp_path):
    """Its suite starts a TPM that nobody has started, clears it, and kills it at the end."""
    words = ["socket", "--tpm2", "--server", f"port={port}", "--ctrl", f"type=tcp,port={port + 1}"]
    words += ["--flags", "not-need-init", "--tpmstate", f"dir={tmp_path}", "--seccomp", "action=none"]
    tcti = {"TPM2TOOLS_TCTI": f"swtpm:host=127.0.0.1,port={port}"}
    with running(commands / "swtpm", *words) as process:
        wait_until(lambda: answers(port), "answered")
        run("tpm2_startup", "-c", **tcti)
        run("tpm2_clear", **tcti)
        run("tpm2_createprimary", "-C", "o", "-G", "ecc", "-c", tmp_path / "primary.ctx", **tcti)
        (tmp_path / "secret").write_text("sealed")
        made = ["-u", tmp_path / "pub", "-r", tmp_path / "priv"]
        run("tpm2_flushcontext", "-t", **tcti)  # nobody manages the TPM's memory
        run("tpm2_create", "-C", tmp_path / "primary.ctx", "-i", tmp_path / "secret", *made, **tcti)
        run("tpm2_flushcontext", "-t", **tcti)
        run("tpm2_load", "-C", tmp_path / "primary.ctx", *made, "-c", tmp_path / "sealed.ctx", **tcti)
        run("tpm2_flushcontext", "-t", **tcti)
        assert run("tpm2_unseal", "-c", tmp_path / "sealed.ctx", **tcti) == "sealed"
        run("tpm2_pcrextend", "16:sha256=" + "11" * 32, **tcti)
        assert "11" * 32 not in run("tpm2_pcrread", "sha256:16", **tcti)
        process.send_signal(signal.SIGKILL)
        process.wait(DEADLINE_S)
    # what is on the disk is whole
    with running(commands / "swtpm", *words) as process:
        wait_until(lambda: answers(port), "answered")
        run("tpm2_startup", "-c", **tcti)
        again = tmp_path / "again.ctx"
        run("tpm2_createprimary", "-C", "o", "-G", "ecc", "-c", again, **tcti)
        run("tpm2_flushcontext", "-t", **tcti)
        run("tpm2_load", "-C", again, *made, "-c", tmp_path / "sealed.ctx", **tcti)
        run("tpm2_flushcontext", "-t", **tcti)
        assert run("tpm2_unseal", "-c", tmp_path / "sealed.ctx", **tcti) == "sealed"


@pytest.mark.needs("tpm2-tools", "swtpm_ioctl")
@pytest.mark.parametrize("more", [["--daemon"], []])
def test_keylimes_and_fwupds_tests(commands, port, tmp_path, more):
    (tmp_path / "state").mkdir()
    words = ["socket", "--tpm2", "--tpmstate", f"dir={tmp_path}/state", "--flags", "startup-clear"]
    words += ["--ctrl", f"type=tcp,port={port + 1}", "--server", f"type=tcp,port={port}", *more]
    words += ["--pid", f"file={tmp_path}/pid"]
    with running(commands / "swtpm", *words) as process:
        if more:
            assert process.wait(DEADLINE_S) == 0  # nothing to wait for
        wait_until(lambda: answers(port), "answered")
        # a connection waits in the queue of a socket whose process has not come to this yet
        wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), "told its pid")
        pid = int((tmp_path / "pid").read_text())
        tcti = {"TPM2TOOLS_TCTI": f"swtpm:host=127.0.0.1,port={port}"}
        run("tpm2_pcrextend", "0:sha1=f1d2d2f924e986ac86fdf7b36c94bcdf32beec15", **tcti)
        assert len(run("tpm2_getrandom", "--hex", "16", **tcti)) == 32
        run("swtpm_ioctl", "--tcp", f"127.0.0.1:{port + 1}", "-s")
        wait_until(lambda: not is_alive(pid), "ended")
    assert not (tmp_path / "pid").exists()
