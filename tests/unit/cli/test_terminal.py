"""What a terminal gets to see that a pipe does not: bold, colour, a sign of life."""

import os
import pty
import re
import sys
import time
from pathlib import Path

import pytest

from swtpm_svc.cli import terminal

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = "import sys; from swtpm_svc.cli.vtpmctl import entry; from swtpm_svc.cli.vtpmctl.host import Places; "
ESCAPE = re.compile(r"\x1b\[[0-9;]*[mK]")


def on_a_terminal(code: str, *words: str, **variables: str) -> str:
    """What Python shows there."""
    pid, fd = pty.fork()
    if not pid:
        environment = {**os.environ, "TERM": "xterm", **variables}
        os.chdir(ROOT)
        os.execve(sys.executable, [sys.executable, "-c", code, *words], environment)
    shown = b""
    while True:
        try:
            piece = os.read(fd, 65536)
        except OSError:  # EIO: nobody is at the other end any more
            break
        if not piece:
            break
        shown += piece
    os.close(fd)
    os.waitpid(pid, 0)
    return shown.decode().replace("\r\n", "\n")


def vtpmctl(system, *words: str, **variables: str) -> str:
    return on_a_terminal(
        f"{SCRIPT}sys.exit(entry.main(sys.argv[1:], Places{tuple(system.places)!r}))", *words, **variables
    )


@pytest.fixture(autouse=True)
def without_a_wish(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)


OPTIONS = "options" if sys.version_info >= (3, 10) else "optional arguments"  # argparse's heading


@pytest.mark.parametrize(
    ("words", "painted"),
    [
        (["list"], ["\x1b[1mNAME   TPM  DEVICE"]),
        (
            ["status", "vtpm0"],
            ["\x1b[1mvtpm0: not started\x1b[0m\n", "\n  \x1b[1;31mproblem\x1b[0m ", "\x1b[1mremedy\x1b[0m "],
        ),
        (["doctor", "vtpm0"], ["\x1b[32mok\x1b[0m ", "\x1b[1;31mfail\x1b[0m ", "        \x1b[1mremedy:\x1b[0m "]),
        (["status", "x"], ["\x1b[1;31mvtpmctl:\x1b[0m ", "\n  \x1b[1mremedy:\x1b[0m "]),
        (["--help"], ["\x1b[1musage:\x1b[0m ", "\n\x1b[1mLook:\x1b[0m\n", "\n\x1b[1moptions:\x1b[0m\n"]),
        (["ek", "--help"], ["\x1b[1musage:\x1b[0m ", f"\n\x1b[1m{OPTIONS}:\x1b[0m\n"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and "\x1b" not in str(value) else "",
)
def test_a_terminal_has_looks_and_the_same_words(system, words, painted):
    system.configure("vtpm0")
    shown = vtpmctl(system, *words)
    for part in painted:
        assert part in shown
    plain = vtpmctl(system, *words, NO_COLOR="1")
    assert "\x1b" not in plain
    assert ESCAPE.sub("", shown) == plain
    assert "\x1b" not in vtpmctl(system, *words, TERM="dumb")


def test_what_is_for_programs_has_none(system, run):
    system.configure("vtpm0")
    assert "\x1b" not in vtpmctl(system, "list", "--json")
    assert "\x1b" not in vtpmctl(system, "check", "vtpm0")
    for words in (["list"], ["doctor"], ["--help"], ["status", "x"]):
        assert "\x1b" not in "".join(map(str, run(*words)))


def test_a_closed_stream_has_none():
    assert not terminal.has_colour(None)


WORKING = """
import sys, time
from swtpm_svc.cli.terminal import sign_of_life
with sign_of_life("making the TPM"):
    end = time.monotonic() + float(sys.argv[1])
    while time.monotonic() < end:
        time.sleep(0.05)
print("made")
"""


def test_long_work_gives_a_sign_of_life_and_leaves_nothing():
    shown = on_a_terminal(WORKING, "1.8")
    assert "making the TPM ... 1 s" in shown
    assert shown.endswith("\r\x1b[Kmade\n")
    assert on_a_terminal(WORKING, "0.2") == "made\n"


def test_a_pipe_gets_none(capsys):
    with terminal.sign_of_life("making the TPM"):
        time.sleep(1.2)
    assert capsys.readouterr().err == ""


def test_work_that_fails_does_so_after_the_sign():
    code = WORKING.replace('print("made")', "").replace(
        "        time.sleep", "        1 / 0 if time.monotonic() > end - 0.2 else time.sleep"
    )
    shown = on_a_terminal(code, "1.8")
    assert "ZeroDivisionError" in shown.rpartition("\x1b[K")[2]
