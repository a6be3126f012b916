"""Programs that bring up swtpm themselves, over ours: swtpm_setup, tpm2-tools."""

import os
import signal
import subprocess

import pytest
from classic_commands import commands_directory
from classic_swtpm import DEADLINE_S, is_alive, running, serves, wait_until


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
        serves(tmp_path / "tpm.ctrl", process)
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
