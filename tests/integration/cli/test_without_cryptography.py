"""Each command that needs no `cryptography` does its work where there is none, on a TPM that is served."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from daemon_process import DaemonProcess

from swtpm_svc.cli.command import Cryptography
from swtpm_svc.cli.vtpmctl.commands import PROGRAM

pytestmark = pytest.mark.needs("binding")

#: In the order in which they are done, with exit status 0: words behind the command.
WORDS = {
    "capabilities": [],
    "info": [],
    "config": [],
    "createek": [],
    "established": [],
    "locality": ["0"],
    "hash": ["{folder}/data"],
    "cancel": [],
    "save": ["permanent", "{folder}/state"],
    "store-volatile": [],
    "reset": [],
    "power off": [],
    "buffer-size": [],
    "load": ["permanent", "{folder}/state"],
    "init": [],
    "power reset": [],
    "power on": [],
    "shutdown": [],
}
#: These say what they found by their exit status, too, or look at more than one instance.
REPORTS = {"list": [], "status": ["lab"], "check": ["lab"], "doctor": ["lab"], "rekey": ["lab"]}
#: These import next to nothing, and speak to other programs.
WITHOUT_A_TPM = {"decode", "start", "stop", "restart", "enable", "disable", "logs", "edit"}
PROGRAM_TEXT = """
import sys
class Closed:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "cryptography":
            print("cryptography is imported", file=sys.stderr)
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Closed())
assert not any(name.startswith("cryptography") for name in sys.modules)
from swtpm_svc.cli.vtpmctl.entry import main
from swtpm_svc.cli.vtpmctl.host import Places
sys.exit(main(sys.argv[2:], Places(config=sys.argv[1], run=sys.argv[1])))
"""


def run(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM_TEXT, str(folder), *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "cryptography" not in done.stderr, words
    assert "Traceback" not in done.stderr, words
    return done


def test_these_are_all_that_need_none():
    rows = {row.name: row for row in PROGRAM.commands if not row.actions}
    rows.update((f"{group.name} {row.name}", row) for group in PROGRAM.commands for row in group.actions)
    never = {words for words, row in rows.items() if row.cryptography is Cryptography.NEVER}
    assert never == {*WORDS, "list", "status", *WITHOUT_A_TPM}


def test_they_do_without(tmp_path):
    (tmp_path / "data").write_bytes(b"measured")
    daemon = DaemonProcess(tmp_path, "lab").start()
    try:
        for command, words in WORDS.items():
            done = run(tmp_path, *command.split(), "lab", *(word.format(folder=tmp_path) for word in words))
            assert (done.returncode, done.stderr) == (0, ""), command
    finally:
        daemon.stop()


def test_so_do_the_reports_where_there_is_no_key_and_no_ca(tmp_path):
    """Those that need it perhaps do not import it in vain."""
    (tmp_path / "lab.toml").write_text(
        f'[device]\nenabled = false\n[state]\ndirectory = "{tmp_path}"\n[provision]\nca = "{tmp_path}/none"\n'
    )
    for command, words in REPORTS.items():
        done = run(tmp_path, "--json", command, *words)
        assert json.loads(done.stdout), command
