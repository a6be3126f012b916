"""The launchers that other tests put first in PATH, and what all of the small commands have in common."""

import os
import subprocess

import pytest
from classic_commands import COMMANDS, commands_directory

HELP = {"swtpm_ioctl": "--help", "swtpm_bios": "-h", "createek": "-h", "takeown": "-h", "getpubek": "-h"}


def test_each_name_has_a_launcher(tmp_path):
    directory = commands_directory(tmp_path)
    assert {name for name in COMMANDS if os.access(directory / name, os.X_OK)} == set(COMMANDS)


@pytest.mark.parametrize("command", HELP)
def test_what_cannot_be_printed_is_a_failure_in_few_words(tmp_path, command):
    def failed(redirection):
        line = f"{commands_directory(tmp_path)}/{command} {HELP[command]} {redirection}"
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
        assert done.returncode != 0, redirection
        assert "Traceback" not in done.stderr
        assert done.stderr.count("\n") <= 2
        return done.stderr

    assert "No space left on device" in failed(">/dev/full")
    assert failed("| true; exit ${PIPESTATUS[0]}") == ""
