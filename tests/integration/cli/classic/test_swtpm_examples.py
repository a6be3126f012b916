"""The examples of the manual page, as a reader types them."""

import os
import subprocess

import pytest
from classic_commands import ROOT, commands_directory
from classic_swtpm import wait_until

PAGE = ROOT / "docs/man/classic/swtpm.8"


@pytest.fixture
def typed(tmp_path):
    """Runs lines in a folder, with our commands first in PATH; what they say."""
    commands = commands_directory(tmp_path)
    (tmp_path / "place").mkdir()

    def run(lines):
        environment = {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}"}
        words = ["bash", "-e", "-c", lines]
        done = subprocess.run(
            words, cwd=tmp_path / "place", env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    yield run, tmp_path / "place"
    for control in (tmp_path / "place").glob("tpm.*"):  # of an example that does not end what it has started
        run(f"swtpm_ioctl --unix {control.name} -s")


def examples():
    section = PAGE.read_text(encoding="utf-8").split(".Sh EXAMPLES\n")[1].split(".Sh ")[0]
    blocks = [block.split(".Ed\n")[0] for block in section.split(".Bd -literal -offset indent\n")[1:]]
    return [block.replace("\\e\n", "\\\n") for block in blocks]


@pytest.mark.needs("tpm2-tools", "qemu")
def test_what_the_page_shows_works(typed):
    run, place = typed
    for_tools, for_qemu = examples()
    assert len(bytes.fromhex(run(for_tools).splitlines()[-1])) == 8
    wait_until(lambda: os.listdir(place) == ["state"], "ended")
    # no guest, no window: the TPM is there for the machine, and ends with it
    run(for_qemu.rstrip() + " -S -display none -monitor none -daemonize -pidfile pid")
    wait_until((place / "pid").exists, "started")
    os.kill(int((place / "pid").read_text()), 15)
    wait_until(lambda: not (place / "tpm.ctrl").exists(), "ended with QEMU")
