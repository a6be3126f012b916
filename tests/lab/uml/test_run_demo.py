"""`make run` where the unit looks possible and is not."""

import os
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.needs("cuse", "root", "fuse", "tpm2-tools", "swtpm_ioctl")

PROJECT = Path(__file__).resolve().parents[3]


def test_a_unit_that_cannot_be_installed_is_left_for_the_next_way(tmp_path):
    os.makedirs("/run/systemd/system", exist_ok=True)  # as if systemd were process 1
    (tmp_path / "make").write_text("#!/bin/sh\necho no compiler >&2\nexit 2\n")
    (tmp_path / "make").chmod(0o755)
    environment = {**os.environ, "LAB": "", "FRONTEND": "unit fuse", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    try:
        done = subprocess.run(
            [PROJECT / "tools/run-demo"], env=environment, capture_output=True, text=True, check=False, timeout=120
        )
    finally:
        os.rmdir("/run/systemd/system")
    assert done.returncode == 0, done.stdout + done.stderr
    told = [line for line in done.stdout.splitlines() if line.startswith("run-demo: ")]
    assert told == ["run-demo: the unit: ended with 2: no compiler. Trying files (FUSE)."]
    assert "both are gone" in done.stdout
