"""What a start waits for: the interpreter's own start is a good part of it, and few modules may be as long again."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
#: Each of these takes 1 ms or more, some with what they import; some have a small counterpart of ours (wire/hints.py,
#: wire/enumerations.py, wire/small_tools.py, frontends/plain_socket.py), others are imported where they are needed.
SLOW = {
    "argparse", "array", "collections", "contextlib", "cryptography", "dataclasses", "enum", "functools", "hashlib",
    "inspect", "json", "logging", "re", "selectors", "signal", "socket", "subprocess", "tempfile", "threading", "tomllib",
    "typing",
}  # fmt: skip


@pytest.mark.parametrize(
    "modules",
    [
        "swtpm_svc.cli.classic.swtpm_command, swtpm_svc.cli.classic.swtpm_channels, swtpm_svc.service.classic.emulator",
        "swtpm_svc.service.vtpmd, swtpm_svc.service.daemon",
    ],
    ids=["swtpm", "vtpmd"],
)
def test_a_start_imports_nothing_that_takes_long(modules):
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {modules}; print(*sys.modules)"
    # without site, which imports what .pth files want; its folders have _cffi_backend and systemd
    places = [path for path in sys.path if path.endswith("-packages")]
    program = f"import sys; sys.path += {places!r}; {program}"
    done = subprocess.run([sys.executable, "-ISc", program], capture_output=True, text=True, check=True)
    assert SLOW & set(done.stdout.split()) == set()
