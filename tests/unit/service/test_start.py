"""Where the commands begin: an interrupt while they are still importing is a quiet end, without a traceback.

What the interpreter does before it runs a program's first line is its own: the process says when it is past that.
"""

import os
import signal
import subprocess
import sys
import time

import pytest

PROGRAM = "import swtpm_svc.start as start, sys; print(flush=True); sys.exit(start.{}())"
DELAYS_S = [0, 0.001, 0.003, 0.006, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3]


def begin(command: str, *words: str, disposition: int = signal.SIG_DFL) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(command), *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, disposition),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"\n"
    return process


@pytest.mark.parametrize(
    "command", [("vtpmctl", "check", "/none.toml"), ("vtpmd", "--config", "/none.toml", "--foreground")]
)
def test_an_interrupt_at_any_moment_of_the_start_is_a_quiet_end(command):
    statuses = set()
    for delay_s in DELAYS_S:
        process = begin(*command)
        time.sleep(delay_s)
        process.send_signal(signal.SIGINT)
        _out, error = process.communicate(timeout=30)
        assert b"Traceback" not in error
        assert b"KeyboardInterrupt" not in error
        statuses.add(process.returncode)
    assert statuses <= {-signal.SIGINT, 130, 78}
    assert -signal.SIGINT in statuses  # some came in time


def test_where_it_is_ignored_it_stays_ignored():
    """As in the background of a shell that is a script."""
    process = begin("vtpmctl", "check", "/none.toml", disposition=signal.SIG_IGN)
    os.kill(process.pid, signal.SIGINT)
    _out, error = process.communicate(timeout=30)
    assert process.returncode == 78
    assert b"/none.toml does not exist" in error
