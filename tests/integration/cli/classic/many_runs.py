"""Many runs of the classic commands, each in a process and a folder of its own, without a new interpreter for each."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[4]
DEADLINE_S = 20
_RUNNER = f"""
import json, os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
import swtpm_svc.start as start
import swtpm_svc.cli.classic.swtpm_command, swtpm_svc.cli.classic.swtpm_cuse_command
import swtpm_svc.cli.classic.swtpm_setup, swtpm_svc.cli.classic.swtpm_localca, swtpm_svc.cli.classic.swtpm_bios
import swtpm_svc.cli.classic.swtpm_ioctl, swtpm_svc.service.classic.emulator

def run(folder, words):
    signal.alarm({DEADLINE_S})
    os.chdir(folder)
    for number, name in enumerate(("/dev/null", folder + ".out", folder + ".err")):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT, 0o600), number)
    os.closerange(3, 100)
    sys.argv = words
    status = getattr(start, words[0])()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

def wait(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

statuses = []
for folder, words in json.load(sys.stdin):
    pid = os.fork()
    if not pid:
        try:
            run(folder, words)
        finally:
            os._exit(99)
    statuses.append(wait(pid))
print(json.dumps(statuses))
"""


class Run(NamedTuple):
    """What came of it; `changed` are the names that are new or gone in its folder."""

    status: int
    out: str
    err: str
    changed: "set[str]"

    @property
    def lines(self):
        """Standard error without remedies and the help."""
        said = re.split("[Uu]sage: ", self.err)[0]
        return [line for line in said.splitlines() if line and not line.startswith("  remedy: ")]


def run_all(place, lines, prepare):
    """`lines`: the words of each run, beginning with a function of swtpm_svc.start; {place} in them is the folder.

    `prepare` is called with each folder."""
    jobs = []
    for number, words in enumerate(lines):
        folder = Path(place) / f"run-{number}"
        folder.mkdir()
        prepare(folder)
        jobs.append((str(folder), [word.replace("{place}", str(folder)) for word in words]))
    before = [_names(folder) for folder, _words in jobs]
    ran = subprocess.run(
        [sys.executable, "-c", _RUNNER],
        input=json.dumps(jobs),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"], "HOME": str(place)},
    )
    return [
        Run(status, _read(f"{folder}.out"), _read(f"{folder}.err"), _names(folder) ^ old)
        for status, (folder, _words), old in zip(json.loads(ran.stdout), jobs, before)
    ]


def _names(folder):
    return {str(path.relative_to(folder)) for path in Path(folder).rglob("*")}


def _read(path):
    return Path(path).read_text(errors="surrogateescape")
