"""Where the time of `systemctl start` goes, and that one interpreter is all that it starts for the examples."""

import re
import statistics
import subprocess
import time

import pytest
from services import run, systemctl

pytestmark = pytest.mark.needs("systemd", "root", "accounts")

STARTS = 5
PYTHON = "/usr/bin/python3"
PROPERTIES = (
    "InactiveExitTimestampMonotonic",
    "ExecMainStartTimestampMonotonic",
    "ActiveEnterTimestampMonotonic",
    "ExecStartPre",
)


def start(name):
    """Stop it and start it: the milliseconds of each part."""
    systemctl("stop", name)
    begin = time.monotonic()
    systemctl("start", name)
    took = (time.monotonic() - begin) * 1000
    shown = dict(
        line.partition("=")[::2]
        for line in run("systemctl", "show", f"vtpm@{name}", "-p", ",".join(PROPERTIES)).stdout.splitlines()
    )
    begun, main, ready = (int(shown[name]) / 1000 for name in PROPERTIES[:3])
    return {"in all": took, "until the daemon is executed": main - begun, "from there to READY": ready - main}


def timed(*words):
    begin = time.monotonic()
    subprocess.run(words, check=True, capture_output=True)
    return (time.monotonic() - begin) * 1000


def median_of(measure):
    return statistics.median(measure() for _ in range(STARTS))


def test_where_the_time_of_a_start_goes(both, capsys):
    starts = [start("vtpm1") for _ in range(STARTS)]
    parts = {what: statistics.median(one[what] for one in starts) for what in starts[0]}
    parts["vtpm-attach start"] = median_of(lambda: timed("/usr/libexec/vtpm/vtpm-attach", "start", "vtpm1"))
    parts["vtpm-udev-properties"] = median_of(lambda: timed("/usr/libexec/vtpm/vtpm-udev-properties", "vtpm1"))
    parts["a bare python3"] = median_of(lambda: timed(PYTHON, "-IB", "-c", "pass"))
    parts["python3 and the daemon's imports"] = median_of(
        lambda: timed(PYTHON, "-IB", "-c", "import swtpm_svc.service.daemon")
    )
    with capsys.disabled():
        print("\nsystemctl start vtpm@vtpm1, ms: " + ", ".join(f"{what} {took:.0f}" for what, took in parts.items()))
    # no limits, which would judge the host's load: that a start has one interpreter is the next test's
    assert parts["in all"] > parts["from there to READY"] > 0


@pytest.mark.needs("strace")
def test_the_helpers_start_no_python():
    for words in (
        ("vtpm-attach", "start", "vtpm1"),
        ("vtpm-attach", "stop", "vtpm1"),
        ("vtpm-udev-properties", "vtpm1"),
    ):
        traced = run("strace", "-f", "-e", "trace=execve", f"/usr/libexec/vtpm/{words[0]}", *words[1:]).stderr
        assert re.search(r'execve\(".*/(sed|grep)"', traced)
        assert "python" not in traced
