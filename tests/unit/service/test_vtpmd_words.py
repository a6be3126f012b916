"""The daemon's command line, and what its log has for the journal."""

import sys
from types import ModuleType

import pytest

from swtpm_svc import __version__
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.service import vtpmd
from swtpm_svc.service.options import HELP
from swtpm_svc.service.systemd import journal as entries
from swtpm_svc.service.systemd.journal import Journal


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["vtpmd", *words])
    return vtpmd.main()


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["vtpm0", "-h"], ["vtpm0", "--help"], ["-h", "--version"]])
def test_help(monkeypatch, capsys, words):
    assert run(monkeypatch, *words) == 0
    assert capsys.readouterr() == (HELP, "")


def test_version(monkeypatch, capsys):
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr() == (f"vtpmd {__version__}\n", "")


def test_a_word_that_it_does_not_know(monkeypatch, capsys):
    assert run(monkeypatch, "--nonsense") == 64
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("vtpmd: ")
    assert "remedy" in error


@pytest.fixture
def sent(monkeypatch):
    """The journal's entries, each a list of its fields."""
    found = []
    module = ModuleType("systemd._journal")
    module.sendv = lambda *fields: found.append(list(fields))
    monkeypatch.setitem(sys.modules, "systemd._journal", module)
    monkeypatch.setattr(entries.os.path, "exists", lambda _path: True)
    return found


COMMON = ["VTPM_INSTANCE=vtpm0", "VTPM_TPM_VERSION=2.0", "SYSLOG_IDENTIFIER=vtpmd-vtpm0"]


def test_an_entry_has_its_fields_and_those_of_all(sent):
    journal = Journal("vtpm0", "2.0", "info", to_stderr=False)
    journal.log("notice", "something", message_id="ab" * 16, CLIENT_PID=7, CLIENT_UID=None)
    journal.log("debug", "not wanted")
    assert sent == [["MESSAGE=something", "PRIORITY=5", *COMMON, "CLIENT_PID=7", "MESSAGE_ID=" + "ab" * 16]]


def test_an_error_has_its_remedy_and_its_code(sent):
    Journal("vtpm0", "2.0", "error", to_stderr=False).error(VtpmError(Code.STATE_FULL, "no room", remedy="make some"))
    (entry,) = sent
    assert entry[:5] == ["MESSAGE=no room; remedy: make some", "PRIORITY=3", *COMMON]
    assert "VTPM_ERROR=state-full" in entry[5:]
    assert any(field.startswith("MESSAGE_ID=") for field in entry[5:])


def test_what_the_journal_does_not_take_is_printed(monkeypatch, sent, capsys):
    def refuse(*_fields):
        raise OSError("too long")

    monkeypatch.setattr(sys.modules["systemd._journal"], "sendv", refuse)
    Journal("vtpm0", "2.0", "info", to_stderr=False).log("info", "something", CLIENT_PID=7)
    assert capsys.readouterr().err == "vtpmd[vtpm0] info: something CLIENT_PID=7\n"


@pytest.mark.parametrize(("to_stderr", "is_there"), [(True, True), (True, False), (False, False)])
def test_it_is_printed_where_that_is_asked_for_or_there_is_no_journal(monkeypatch, sent, capsys, to_stderr, is_there):
    monkeypatch.setattr(entries.os.path, "exists", lambda _path: is_there)
    Journal("vtpm0", "2.0", "info", to_stderr=to_stderr).log("info", "something")
    assert capsys.readouterr().err == "vtpmd[vtpm0] info: something\n"
    assert sent == []
