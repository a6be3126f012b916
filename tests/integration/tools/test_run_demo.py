"""`make run` where its ways are broken: each is left for the next with a line that says why, and the last one ends
well.

The broken User-Mode Linux is a script. With a real one, and with the real unit: .ci/run, tests/lab/uml/test_run_demo.py
and tests/lab/vm/test_demo.py.
"""

import os
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[3]

#: Passes the probe of tests/lab/uml-kernel.sh and dies later.
DIES_AT_THE_BOOT = """#!/bin/bash
case $1 in --version) echo 1.2; exit;; --help) exit;; esac
for word; do case $word in lab_scratch=*) scratch=${word#*=};; lab_probe=1) probe=yes;; esac; done
[ -z "$probe" ] || : >"$scratch/first-process"
exit 6
"""


def demo(tmp_path, frontend, kernel=None):
    environment = {
        **os.environ,
        "FRONTEND": frontend,
        "LAB_UML": str(tmp_path / "linux.uml"),
        "LAB_CACHE": str(tmp_path),
    }
    (tmp_path / "bin").mkdir()
    scripts = {"linux.uml": kernel, "bin/mmdebstrap": "#!/bin/sh\nexit 1\n", "bin/patchelf": "#!/bin/sh\nexit 1\n"}
    for name, text in scripts.items():
        if text is not None:
            (tmp_path / name).write_text(text)
            (tmp_path / name).chmod(0o755)
    environment["PATH"] = f"{tmp_path}/bin:{os.environ['PATH']}"
    return subprocess.run(
        [PROJECT / "tools/run-demo"], env=environment, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.needs("user-mode-linux", "fuse", "pyfuse3", "fusermount3", "tpm2-tools", "swtpm_ioctl")
@pytest.mark.parametrize(
    ("kernel", "why"),
    [
        (None, "uml-kernel.sh: no User-Mode Linux boots here. Installed: there is no "),
        ("#!/bin/sh\nkill -ABRT $$\n", "uml-kernel.sh: no User-Mode Linux boots here. Installed: "),
        (DIES_AT_THE_BOOT, "uml.sh: "),
    ],
    ids=["missing", "aborts", "dies at the boot"],
)
def test_without_user_mode_linux_the_tpms_are_files(tmp_path, kernel, why):
    done = demo(tmp_path, "uml fuse", kernel)
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("run-demo: ")]
    assert line.startswith(f"run-demo: the User-Mode Linux lab: ended with 125: {why}")
    assert line.endswith(". Trying files (FUSE).")
    assert "a TPM 1.2, as it says itself" in done.stdout
    assert "$ tpm2_getrandom --hex 16" in done.stdout
    assert "both are gone" in done.stdout


@pytest.mark.needs("user-mode-linux", "tpm2-tools", "swtpm_ioctl")
def test_where_no_way_is_left_it_says_of_each_why(tmp_path):
    done = demo(tmp_path, "uml", "#!/bin/sh\nkill -ABRT $$\n")
    assert done.returncode == 125
    assert [
        line
        for line in done.stdout.splitlines()
        if line.startswith("run-demo: the User-Mode Linux lab: ended with 125: ")
    ]
    assert done.stderr.startswith("run-demo: no way to show two TPMs on this machine\n  remedy: ")


def test_an_unknown_way_is_refused(tmp_path):
    done = demo(tmp_path, "uml vm")
    assert (done.returncode, done.stderr) == (64, "run-demo: FRONTEND has vm, expected unit, uml or fuse\n")
