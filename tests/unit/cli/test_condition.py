"""What an instance is, from what systemd and its daemon say: each kind, and the words of its cause and remedy."""

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_system import ANSWER

from swtpm_svc.cli.vtpmctl import asking, condition, last_start
from swtpm_svc.cli.vtpmctl.asking import Unit
from swtpm_svc.cli.vtpmctl.condition import Kind, judge
from swtpm_svc.cli.vtpmctl.host import Places
from swtpm_svc.errors import Code, VtpmError

UNIT = "vtpm@vtpm0.service"
PLACES = Places("/nowhere", "/nowhere", "/nowhere")


def unreachable(error=None):
    found = VtpmError(Code.DAEMON_UNREACHABLE, "the service does not answer at /nowhere/vtpm0/status (why)")
    found.__cause__ = error or FileNotFoundError(2, "No such file or directory")
    return found


def of(answer=None, *, places=PLACES, **properties):
    known = {"LoadState": "loaded", "Result": "success", "NRestarts": "0", "MainPID": "0", **properties}
    return judge("vtpm0", Unit(UNIT, known), unreachable() if answer is None else answer, places)


def test_not_started():
    found = of(ActiveState="inactive", SubState="dead")
    assert (found.kind, found.text) == (Kind.NOT_STARTED, "not started")
    assert found.problem.remedy == f"start it: systemctl start {UNIT}"


@pytest.mark.parametrize(
    ("load", "words", "remedy"),
    [
        ("masked", "is masked", f"systemctl unmask {UNIT}; systemctl start {UNIT}"),
        ("not-found", "is not installed", "install the unit vtpm@.service, or run vtpmd --config"),
        ("bad-setting", "cannot be loaded by systemd (bad-setting)", f"systemd-analyze verify {UNIT}"),
    ],
)
def test_a_unit_that_cannot_be_started(load, words, remedy):
    found = of(ActiveState="inactive", SubState="dead", LoadState=load)
    assert found.kind is Kind.NOT_STARTED
    assert words in found.text
    assert remedy in found.problem.remedy


def test_starting_and_ending():
    found = of(ActiveState="activating", SubState="start", StatusText="Making a new TPM 2.0", MainPID="7")
    assert (found.kind, found.text) == (Kind.STARTING, "starting: Making a new TPM 2.0")
    assert of(ActiveState="deactivating", SubState="stop-sigterm").text == "ending"
    found = of(ANSWER, ActiveState="activating", SubState="start")
    assert (found.kind, found.problem.code) == (Kind.STARTING, Code.DAEMON_UNREACHABLE)


def test_a_failure_that_the_daemon_told_itself():
    line = "failed (config-invalid): /etc/vtpm.d/vtpm0.toml: [tpm] version: found 3; remedy: write 2"
    found = of(ActiveState="failed", Result="exit-code", StatusText=line, ExecMainCode="1", ExecMainStatus="78")
    assert (found.kind, found.text) == (Kind.FAILED, "failed: /etc/vtpm.d/vtpm0.toml: [tpm] version: found 3")
    assert found.problem.code is Code.CONFIG_INVALID
    assert found.problem.remedy == f"write 2; then: systemctl start {UNIT}"


def test_what_a_dead_process_said_while_it_lived_is_not_the_cause(monkeypatch):
    monkeypatch.setattr(last_start, "_entries", lambda _unit: [])
    found = of(
        ActiveState="failed",
        Result="signal",
        ExecMainCode="2",
        ExecMainStatus="9",
        StatusText="TPM 2.0 at /dev/vtpm0, running",
        NRestarts="200",
    )
    assert found.text == "failed: it was ended by signal SIGKILL"
    assert "failed after 201 starts: it was ended by signal SIGKILL" in found.problem.message
    assert found.problem.remedy.endswith(f"; then: systemctl reset-failed {UNIT}; systemctl start {UNIT}")


@pytest.mark.parametrize(
    ("result", "words"), [(name, words[0].split("{")[0]) for name, words in last_start._ENDS.items()]
)
def test_how_a_service_can_end(monkeypatch, result, words):
    monkeypatch.setattr(last_start, "_entries", lambda _unit: [])
    assert words in of(ActiveState="failed", Result=result).text


@pytest.mark.parametrize("status", sorted(last_start.STEPS))
def test_what_systemd_could_not_do(monkeypatch, status):
    """Of the main process, or of ExecStartPre=, which systemd shows only in full."""
    told = [
        {"MESSAGE": f"{UNIT}: Failed to set up credentials: Protocol error"},
        {"MESSAGE": f"{UNIT}: Failed at step X spawning /y: Protocol error"},
        {"MESSAGE": f"Failed to start {UNIT} - Virtual TPM vtpm0."},
    ]
    monkeypatch.setattr(last_start, "_entries", lambda _unit: told)
    main = of(ActiveState="failed", Result="exit-code", ExecMainCode="1", ExecMainStatus=str(status))
    before = of(
        ActiveState="failed",
        Result="exit-code",
        ExecMainCode="0",
        ExecMainStatus="0",
        ExecStartPre=f"{{ path=/x ; argv[]=/x start ; pid=7 ; code=exited ; status={status} }}",
    )
    assert main.text == before.text
    assert main.text.startswith("failed: systemd could not ")
    assert main.text.endswith(": Failed to set up credentials: Protocol error")
    assert "{" not in main.problem.remedy


def test_a_failure_that_only_the_journal_knows(monkeypatch):
    entries = [
        {"MESSAGE": "a part of the program cannot be loaded", "_TRANSPORT": "stdout"},
        {"MESSAGE": "vtpmd: no module named x", "_TRANSPORT": "stdout"},
        {"MESSAGE": "  remedy: install it", "_TRANSPORT": "stdout"},
        {"MESSAGE": f"{UNIT}: Main process exited", "_TRANSPORT": "journal"},
    ]
    monkeypatch.setattr(last_start, "_entries", lambda _unit: entries)
    known = {"ActiveState": "failed", "Result": "exit-code", "ExecMainCode": "1", "ExecMainStatus": "69"}
    found = of(**known)
    assert (found.text, found.problem.code) == ("failed: no module named x", Code.INSTALLATION)
    assert found.problem.remedy.startswith("install it; then: ")
    entries.append({"MESSAGE": "no room; remedy: make some", "VTPM_ERROR": "state-full"})
    assert of(**known).problem.code is Code.STATE_FULL
    entries.clear()
    assert of(**known).text == "failed: it ended with status 69"


def test_the_journal_is_asked_for_the_newest_start_only(tmp_path, monkeypatch):
    program = tmp_path / "journalctl"
    program.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/asked\necho "{{}}"; echo broken\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert last_start._entries(Unit(UNIT, {"InvocationID": "0" * 32})) == []
    assert f"_SYSTEMD_INVOCATION_ID={'0' * 32} + INVOCATION_ID={'0' * 32}" in (tmp_path / "asked").read_text()
    assert last_start._entries(Unit(UNIT, {"InvocationID": ""})) == []
    assert len((tmp_path / "asked").read_text().splitlines()) == 1


def test_restarting(tmp_path):
    """With the note that the last start has left, while the next one is at work; between two, systemd's state is
    inactive for a moment."""
    (tmp_path / "vtpm0").mkdir()
    note = "4 failed (state-locked): /x/.lock is held by process 7; remedy: stop it"
    (tmp_path / "vtpm0/failed-start").write_text(note)
    places = Places(run=str(tmp_path))
    for properties in (
        {"ActiveState": "activating", "SubState": "auto-restart", "Result": "exit-code"},
        {"ActiveState": "activating", "SubState": "start", "NRestarts": "3", "MainPID": "9"},
        {"ActiveState": "inactive", "SubState": "dead", "NRestarts": "3", "Job": "812"},
    ):
        found = of(places=places, **properties)
        assert found.kind is Kind.RESTARTING
        assert found.text == ("restarting: is started again and again, 4 times so far: /x/.lock is held by process 7")
        assert (found.problem.code, found.problem.remedy) == (Code.STATE_LOCKED, "stop it")
    assert of(places=places, ActiveState="inactive", SubState="dead").kind is Kind.NOT_STARTED


@pytest.mark.parametrize(
    ("state", "words", "remedy"),
    [
        ("T", "is stopped, by a signal or a debugger", "kill -CONT 7"),
        ("D", "waits for a disk", "journalctl -k"),
        ("S", "runs, and gives no answer in time", f"systemctl restart {UNIT}"),
        ("", "runs, and gives no answer in time", f"systemctl restart {UNIT}"),
    ],
)
def test_a_daemon_that_hangs(monkeypatch, state, words, remedy):
    monkeypatch.setattr(condition, "_process_state", lambda _pid: state)
    found = of(unreachable(TimeoutError(110, "no answer in time")), ActiveState="active", MainPID="7")
    assert (found.kind, words in found.text) == (Kind.SILENT, True)
    assert remedy in found.problem.remedy


def test_the_state_of_a_process():
    assert condition._process_state(str(os.getpid())) == "R"
    assert condition._process_state("0") == ""


def test_nobody_to_ask():
    """No systemd: what has no socket does not run, as far as anybody can see."""
    found = judge("vtpm0", Unit(UNIT, None, "no systemd"), unreachable(), PLACES)
    assert (found.kind, found.problem.code) == (Kind.NOT_STARTED, Code.DAEMON_UNREACHABLE)
    hanging = unreachable(TimeoutError(110, "no answer in time"))
    assert judge("vtpm0", Unit(UNIT, None, "no systemd"), hanging, PLACES).kind is Kind.SILENT
    refused = VtpmError(Code.NOT_PERMITTED, "may not be opened")
    assert of(refused, ActiveState="active").kind is Kind.UNKNOWN


@pytest.mark.parametrize(
    ("tpm", "words", "code"),
    [
        ({"power": "running", "says": {"started": True, "lockout": None}}, "ok", None),
        ({"power": "running", "says": {"started": False, "lockout": None}}, "not started", None),
        ({"power": "running", "says": None}, "", None),
        ({"power": "running", "says": "x"}, "", None),
        ({"power": "off"}, "off", None),
        ({"power": "stopped"}, "off", None),
        ({"power": "failed"}, "failed", Code.TPM_FAILED),
        ({}, "", None),
        (
            {"power": "running", "says": {"started": True, "lockout": {"failures": 3, "limit": 32, "locked": False}}},
            "ok, 3 of 32 failed authorizations",
            None,
        ),
        (
            {"power": "running", "says": {"started": True, "lockout": {"failures": 32, "limit": 32, "locked": True}}},
            "locked out, 32 of 32 failed authorizations",
            Code.AUTH_FAILED,
        ),
    ],
)
def test_what_the_tpm_says(tpm, words, code):
    found = of({**ANSWER, "tpm": tpm}, ActiveState="active")
    assert (found.kind, found.tpm) == (Kind.SERVES, words)
    assert found.text == (f"serves, TPM {words}" if words else "serves")
    assert (found.problem.code if found.problem else None) is code


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(
                st.sampled_from(
                    ["power", "says", "started", "lockout", "failure", "failures", "limit", "locked", "interval_s"]
                ),
                inner,
                max_size=4,
            )
        ),
    )
)
def test_any_word_of_a_daemon_is_taken(value):
    found = of({"tpm": value}, ActiveState="active")
    assert found.text.startswith("serves")
    assert found.text.isprintable()


# --- asking many at a time -------------------------------------------------------------------------------------------


def test_one_daemon_that_hangs_does_not_keep_the_others_waiting(system, monkeypatch):
    import socket

    monkeypatch.setattr(asking, "ANSWER_TIME_S", 0.3)
    names = ["deaf", *(f"vtpm{number}" for number in range(3))]
    Path(system.places.run, "deaf").mkdir()
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(f"{system.places.run}/deaf/status")
        deaf.listen(0)
        with system.daemon(ANSWER, "vtpm0"), system.daemon(ANSWER, "vtpm1"):
            begin = time.monotonic()
            answers = asking.ask_daemons(names, system.places)
            assert time.monotonic() - begin < 5
            # one more than it lets wait, and it does not even take the connection
            more = [asking.ask_daemons(["deaf"], system.places)[0] for _ in range(2)]
    assert [type(one) for one in answers] == [VtpmError, dict, dict, VtpmError]
    assert "no answer in time" in answers[0].message
    assert (asking.failed_with(answers[0]), asking.failed_with(answers[3])) == (110, 2)
    assert all(asking.failed_with(one) == 110 for one in more)


def test_fifty_instances_in_under_a_second(system, run):
    for number in range(50):
        system.configure(f"vtpm{number}")
    system.unit(ActiveState="inactive", SubState="dead", MainPID="0")
    for words in (("list",), ("--json", "list")):
        begin = time.monotonic()
        assert run(*words)[0] == 0
        assert time.monotonic() - begin < 1
    assert len(json.loads(run("--json", "list")[1])["instances"]) == 50
