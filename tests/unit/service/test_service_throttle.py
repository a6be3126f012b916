"""What clients can bring about at will does not fill the journal: an entry at once, then a count."""

import json

import pytest

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.service.events import EventLog
from swtpm_svc.service.systemd.journal import Journal
from swtpm_svc.service.throttle import MAX_KINDS, WINDOW_S, Throttle
from swtpm_svc.wire import ptm
from swtpm_svc.wire.caller import Caller


class Clock:
    """The loop's timers, run by the test."""

    def __init__(self):
        self.timers = []

    def after(self, delay_s, callback):
        assert delay_s == WINDOW_S
        self.timers.append(callback)

    def pass_window(self):
        timers, self.timers = self.timers, []
        for callback in timers:
            callback()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def log(clock, capsys):
    """An event log, and what it has written since it was last asked."""
    throttle = Throttle(clock, lambda more: print(json.dumps(["others", more])))
    events = EventLog(
        Journal("vtpm0", "2.0", "info", to_stderr=True),
        throttle,
        "2.0",
        lambda: None,
        lambda: None,
        lambda caller, then: then(str(caller.uid)),
    )

    def written():
        out, err = capsys.readouterr()
        return out.splitlines() + err.splitlines()

    return events, throttle, written


def refusal(text="INIT needs the rights of the control group"):
    return VtpmError(Code.NOT_PERMITTED, text)


def test_a_thousand_refusals_are_one_entry_and_a_count(clock, log):
    events, _throttle, written = log
    for _ in range(1000):
        events.refused(Caller(1001, 1001, 7), refusal())
    first = written()
    assert len(first) == 1
    assert "INIT needs the rights" in first[0]
    assert "CLIENT_PID=7 CLIENT_UID=1001" in first[0]
    clock.pass_window()
    (count,) = written()
    assert "999 more times within a minute: user 1001: INIT needs the rights" in count
    assert "CLIENT_UID=1001" in count


def test_another_user_or_kind_is_told_at_once(log):
    events, _throttle, written = log
    for uid in (1001, 1002):
        for _ in range(3):
            events.refused(Caller(uid, uid, 7), refusal())
            events.refused(Caller(uid, uid, 7), refusal("STOP needs the rights of the control group"))
            events.refused(Caller(uid, uid, 7), VtpmError(Code.TOO_MANY, "64 connections"))
    assert len(written()) == 6


def test_who_goes_on_has_one_line_a_minute_and_who_stopped_an_entry_at_once_again(clock, log):
    events, _throttle, written = log
    for _minute in range(3):
        for _ in range(50):
            events.refused(Caller(1001, 1001, 7), refusal())
        clock.pass_window()
    assert len(written()) == 4  # one at once, a count a minute
    clock.pass_window()
    assert written() == []
    assert clock.timers == []
    events.refused(Caller(1001, 1001, 7), refusal())
    assert len(written()) == 1


def test_what_was_counted_is_told_at_the_end(log):
    events, throttle, written = log
    for _ in range(5):
        events.refused(Caller(1001, 1001, 7), refusal())
    written()
    throttle.flush()
    throttle.flush()
    (count,) = written()
    assert "4 more times" in count


def test_users_without_number_do_not_fill_the_journal_either(clock, log):
    events, _throttle, written = log
    for uid in range(1, 10 * MAX_KINDS):
        events.refused(Caller(uid, uid, 7), refusal())
    assert len(written()) == MAX_KINDS
    clock.pass_window()
    assert written() == [json.dumps(["others", 9 * MAX_KINDS - 1])]


def test_answers_that_are_worth_a_notice_and_control_operations_are_bounded_too(log):
    events, _throttle, written = log
    lockout = bytes.fromhex("80010000000a00000921")
    for code in range(1000):
        events.executed(Caller(1001, 1001, 7), bytes(6) + code.to_bytes(4, "big"), lockout)
    assert len(written()) == 1
    for _ in range(1000):
        events.controlled(Caller(1001, 1001, 7), ptm.CancelTpmCommand(), 0)
    assert len(written()) == 20
    for _ in range(1000):
        events.failed(VtpmError(Code.STATE_FULL, "no room"))
    assert len(written()) == 20
