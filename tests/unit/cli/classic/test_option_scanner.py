"""Command lines as getopt reads them."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swtpm_svc.cli.classic.option_scanner import OPTIONAL, REQUIRED, Found, Option, Problem, Word, scan

ROOT = Path(__file__).resolve().parents[4]
HELP, PORT, PID = Option("help", letter="h"), Option("port", REQUIRED, "p"), Option("pid", REQUIRED)
CREATE, DAEMON = Option("create-config-files", OPTIONAL), Option("daemon", letter="d")
PEM = Option("pem")
OPTIONS = (HELP, PORT, PID, CREATE, DAEMON, PEM)


@pytest.mark.parametrize(
    ("words", "events"),
    [
        (["--port", "1"], [Found(PORT, "1", "--port")]),
        (["--port=1"], [Found(PORT, "1", "--port=1")]),
        (["--port="], [Found(PORT, "", "--port=")]),
        (["--po", "1"], [Found(PORT, "1", "--po")]),
        (["-p", "1"], [Found(PORT, "1", "-p")]),
        (["-p1"], [Found(PORT, "1", "-p")]),
        (["-dp1"], [Found(DAEMON, None, "-d"), Found(PORT, "1", "-p")]),
        (["-p", "-d"], [Found(PORT, "-d", "-p")]),
        (["--create"], [Found(CREATE, None, "--create")]),
        (["--create=root"], [Found(CREATE, "root", "--create=root")]),
        (["--create", "root"], [Found(CREATE, None, "--create"), Word("root")]),
        (["a", "-d", "b"], [Found(DAEMON, None, "-d"), Word("a"), Word("b")]),
        (["-d", "--", "-d", "--pid"], [Found(DAEMON, None, "-d"), Word("-d"), Word("--pid")]),
        (["-"], [Word("-")]),
        (["--nope", "x"], [Problem("unrecognized option '--nope'"), Word("x")]),
        (["--nope=3"], [Problem("unrecognized option '--nope'")]),
        (["--p", "1"], [Problem("option '--p' is ambiguous; possibilities: '--port' '--pid' '--pem'"), Word("1")]),
        (["--pid"], [Problem("option '--pid' requires an argument")]),
        (["-p"], [Problem("option requires an argument -- 'p'")]),
        (["--help=x"], [Problem("option '--help' doesn't allow an argument")]),
        (["-xd"], [Problem("invalid option -- 'x'"), Found(DAEMON, None, "-d")]),
        (["-pem"], [Found(PORT, "em", "-p")]),
    ],
)
def test_words(words, events):
    assert list(scan(OPTIONS, words)) == events


@pytest.mark.parametrize(
    ("words", "events"),
    [
        (["-pem"], [Found(PEM, None, "-pem")]),
        (["-pid", "x"], [Found(PID, "x", "-pid")]),
        (["-p", "x"], [Found(PORT, "x", "-p")]),
        (["-nope"], [Problem("unrecognized option '-nope'")]),
        (["-x"], [Problem("unrecognized option '-x'")]),
        (["--pem"], [Found(PEM, None, "--pem")]),
        (["-dd"], [Found(DAEMON, None, "-d"), Found(DAEMON, None, "-d")]),
    ],
)
def test_words_where_one_dash_is_enough(words, events):
    assert list(scan(OPTIONS, words, long_only=True)) == events


@given(st.lists(st.text(alphabet="-=dhpix", max_size=6), max_size=6), st.booleans())
def test_any_words(words, long_only):
    """No word is lost, and those that are not options come last."""
    events = list(scan(OPTIONS, words, long_only=long_only))
    seen_word = False
    for event in events:
        assert not seen_word or isinstance(event, Word)
        seen_word = isinstance(event, Word)
    if not any(word.startswith("-") for word in words):
        assert events == [Word(word) for word in words]


@pytest.mark.parametrize("module", ["option_scanner", "swtpm_ioctl", "control_client"])
def test_it_imports_next_to_nothing(module):
    """The interpreter's start is most of what `swtpm_ioctl -c` takes: nothing of the library may be as long again."""
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import swtpm_svc.cli.classic.{module}"
    command = [sys.executable, "-ISc", f"{program}; print(*sys.modules)"]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert not {"typing", "enum", "re", "collections", "argparse", "socket", "selectors"} & set(loaded)
