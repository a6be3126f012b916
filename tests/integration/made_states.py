"""Permanent states of new TPMs, made once: libtpms has one version in a process, and tests want both."""

import functools
import subprocess
import sys

_PROGRAM = (
    "import sys; from swtpm_svc.provision.factory import operate; "
    "sys.stdout.buffer.write(operate(sys.argv[1], lambda tpm: None)[0])"
)


@functools.cache
def permanent(version: str) -> bytes:
    """The payload."""
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM, version], stdout=subprocess.PIPE, timeout=60, check=True
    ).stdout
