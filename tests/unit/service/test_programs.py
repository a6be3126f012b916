"""Each module that is run as a program takes its words from the command line and ends with the status that it returns."""

import subprocess
import sys
from pathlib import Path

import pytest

from swtpm_svc import __version__

ROOT = Path(__file__).resolve().parents[3]
ATTACH, PROPERTIES = "service.attach", "service.systemd.udev_properties"
NONE_SUCH = "no-tpm-of-a-test"
#: By module: words, the status, and what it says.
RUNS = [
    (ATTACH, [], 64, "usage: vtpm-attach start|stop NAME"),
    (ATTACH, ["start"], 64, "usage: vtpm-attach start|stop NAME"),
    (ATTACH, ["begin", NONE_SUCH], 64, "usage: vtpm-attach start|stop NAME"),
    (ATTACH, ["start", NONE_SUCH, "more"], 64, "usage: vtpm-attach start|stop NAME"),
    (ATTACH, ["start", NONE_SUCH], 0, ""),  # the daemon says that there is no such file
    (ATTACH, ["stop", NONE_SUCH], 0, ""),
    (PROPERTIES, [], 64, "usage: vtpm-udev-properties [--kernel-tpm] KERNELNAME"),
    (PROPERTIES, ["--all", NONE_SUCH], 64, "usage: vtpm-udev-properties [--kernel-tpm] KERNELNAME"),
    (PROPERTIES, ["--kernel-tpm", NONE_SUCH], 1, ""),
    (PROPERTIES, [NONE_SUCH], 1, ""),
    ("service.vtpmd", ["--version"], 0, f"vtpmd {__version__}"),
    ("service.vtpmd", [], 64, "vtpmd --help"),
    ("cli.vtpmctl.entry", ["--version"], 0, f"vtpmctl {__version__}"),
    ("cli.vtpmctl.entry", ["frobnicate"], 64, "frobnicate"),
]


def test_each_program_is_run_here():
    programs = {
        ".".join(path.relative_to(ROOT / "swtpm_svc").with_suffix("").parts)
        for path in (ROOT / "swtpm_svc").rglob("*.py")
        if '\nif __name__ == "__main__":\n' in path.read_text()
    }
    assert programs - {"tpm._build"} == {module for module, *_rest in RUNS}


@pytest.mark.parametrize(("module", "words", "status", "says"), RUNS)
def test_a_program_takes_its_words_and_gives_its_status(module, words, status, says):
    command = [sys.executable, "-m", f"swtpm_svc.{module}", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == status
    assert says in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
