"""The folder that certificates come through to swtpm_setup: none with our own CA, and none left when a signal ends it
while another program makes them."""

import os
import signal
import subprocess

import pytest
from classic_commands import commands_directory

DEADLINE_S = 60
SETUP = ["swtpm_setup", "--tpm2", "--tpm-state", "state", "--create-ek-cert", "--config", "setup.conf"]


@pytest.fixture
def start(tmp_path):
    commands = commands_directory(tmp_path)
    (tmp_path / "state").mkdir()

    def start(tool, temporary, **options):
        (tmp_path / "setup.conf").write_text(
            f"create_certs_tool = {tool}\n"
            f"create_certs_tool_config = {tmp_path}/localca.conf\n"
            f"create_certs_tool_options = {tmp_path}/options\n"
        )
        words = [commands / SETUP[0], *SETUP[1:]]
        env = {**os.environ, "TMPDIR": str(temporary), "PATH": f"{commands}:{os.environ['PATH']}"}
        return subprocess.Popen(words, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True, **options)

    return start


def test_with_our_own_ca_there_is_no_folder(start, tmp_path):
    """Nothing that SIGKILL could leave: there need not even be a place for it."""
    (tmp_path / "localca.conf").write_text("statedir = ca\nsigningkey = ca/key\nissuercert = ca/issuer\n")
    (tmp_path / "options").write_text("--platform-manufacturer m --platform-model m --platform-version 1\n")
    process = start("swtpm_localca", tmp_path / "none")
    out, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    assert f" --dir {tmp_path}/none/swtpm_setup.certs." in out
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_leaves_no_folder_of_another_program(start, tmp_path, number):
    temporary, fifo = tmp_path / "temporary", tmp_path / "fifo"
    temporary.mkdir()
    os.mkfifo(fifo)
    tool = tmp_path / "tool"
    tool.write_text(f"#!/bin/sh\necho $$ >{fifo}\nexec sleep 600\n")
    tool.chmod(0o755)
    # the tests may run in a shell's background, which ignores one of them
    process = start(tool, temporary, preexec_fn=lambda: signal.signal(number, signal.SIG_DFL))
    pid = int(fifo.read_text())  # the tool runs
    assert [name[: len("swtpm_setup.certs.")] for name in os.listdir(temporary)] == ["swtpm_setup.certs."]
    process.send_signal(number)
    out, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == -number
    assert "Successfully authored" not in out
    assert os.listdir(temporary) == []
    assert os.listdir(tmp_path / "state") == []
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_caller_who_ignores_a_signal_has_it_ignored(start, tmp_path):
    temporary, fifo = tmp_path / "temporary", tmp_path / "fifo"
    temporary.mkdir()
    os.mkfifo(fifo)
    tool = tmp_path / "tool"
    tool.write_text(f"#!/bin/sh\necho $$ >{fifo}\nread word <{fifo}\nexit 1\n")
    tool.chmod(0o755)
    process = start(tool, temporary, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    fifo.read_text()
    process.send_signal(signal.SIGHUP)
    fifo.write_text("go on\n")
    process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert os.listdir(temporary) == []
