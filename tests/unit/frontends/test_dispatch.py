"""Dispatcher.run: whether a command is executed now, later or not at all, with a TPM that only says what it was asked."""

from types import SimpleNamespace

import pytest

from swtpm_svc.frontends.dispatch import Dispatcher
from swtpm_svc.tpm.controller import Rights
from swtpm_svc.tpm.executor import Executor
from swtpm_svc.tpm.power import Power
from swtpm_svc.wire.caller import Caller

h = bytes.fromhex
CALLER = Caller(1000, 1000, 1)
GET_RANDOM, CREATE = h("8001 0000000c 0000017b 0004"), h("8001 0000000a 00000153")
CONTROL, NONE = Rights(control=True, secrets=False), Rights(control=False, secrets=False)
RESPONSE, REFUSED = h("8001 0000000a 00000000"), h("8001 0000000a 00000907")


class FakeTpm:
    version, power, failure, unstored = "2.0", Power.RUNNING, None, False

    def __init__(self):
        self.executed = []

    def begin(self, command, code):
        self.executed.append((code, None))
        return RESPONSE

    def begin_at(self, locality, command, code):
        self.executed.append((code, locality))
        return RESPONSE

    def execute(self, command, code):
        return self.begin(command, code)

    def execute_at(self, locality, command, code):
        return self.begin_at(locality, command, code)

    def finish(self, response):
        self.unstored = False
        return response

    dialect = SimpleNamespace(bad_locality=REFUSED)


class Desk:
    """A dispatcher, what waits for it, and what was answered."""

    def __init__(self, rights=CONTROL):
        self.tpm, self.posted, self.asked, self.answers = FakeTpm(), [], [], []
        self.executor = Executor(self.posted.append)
        self.dispatcher = Dispatcher(
            self.tpm, None, self.executor, lambda _caller: rights, None, lambda _caller, then: self.asked.append(then)
        )

    def run(self, command, **options):
        return self.dispatcher.run(CALLER, bytearray(command), self.answers.append, **options)

    def finish_work(self):
        self.executor.join()
        while self.posted:
            self.posted.pop(0)()


def test_a_short_command_is_done_now():
    desk = Desk()
    assert desk.run(GET_RANDOM)
    assert (desk.answers, desk.tpm.executed, desk.dispatcher.commands) == ([RESPONSE], [(0x17B, None)], 1)


@pytest.mark.parametrize("command", [b"", b"\x80\x01", GET_RANDOM[:9]])
def test_what_has_no_header_is_the_tpm_s_to_refuse(command):
    desk = Desk()
    assert desk.run(command)
    assert desk.tpm.executed == [(0, None)]


def test_a_long_command_and_what_comes_after_it_wait_for_the_worker():
    desk = Desk()
    assert not desk.run(CREATE)
    assert not desk.run(GET_RANDOM)
    assert desk.answers == []
    desk.finish_work()
    desk.finish_work()
    assert (desk.answers, desk.dispatcher.commands) == ([RESPONSE] * 2, 2)


def test_what_is_to_be_stored_waits_for_storage():
    desk = Desk()
    desk.tpm.unstored = True
    assert not desk.run(GET_RANDOM)
    assert (desk.answers, len(desk.tpm.executed)) == ([], 1)
    desk.finish_work()
    assert (desk.answers, len(desk.tpm.executed)) == ([RESPONSE], 1)


@pytest.mark.parametrize(("locality", "rights"), [(0, NONE), (1, CONTROL), (4, CONTROL)])
def test_a_locality_that_the_caller_may_use(locality, rights):
    desk = Desk(rights)
    assert desk.run(GET_RANDOM, locality=locality)
    assert (desk.answers, desk.tpm.executed) == ([RESPONSE], [(0x17B, locality)])


@pytest.mark.parametrize(("locality", "rights"), [(1, NONE), (5, CONTROL), (255, None)])
def test_a_command_that_is_refused_for_its_locality_is_counted(locality, rights):
    desk = Desk(rights)
    assert desk.run(GET_RANDOM, locality=locality)
    assert (desk.answers, desk.tpm.executed, desk.dispatcher.commands) == ([REFUSED], [], 1)


@pytest.mark.parametrize(("found", "answer"), [(CONTROL, RESPONSE), (NONE, REFUSED)])
def test_rights_that_have_to_be_looked_up_first(found, answer):
    desk = Desk(rights=None)
    assert not desk.run(GET_RANDOM, locality=3)
    assert (desk.answers, desk.tpm.executed) == ([], [])
    desk.asked.pop()(found)
    assert (desk.answers, desk.dispatcher.commands) == ([answer], 1)


def test_rights_of_a_connection_stand_in_for_those_of_an_account():
    desk = Desk(rights=NONE)
    assert desk.run(GET_RANDOM, locality=1, rights=CONTROL)
    assert desk.answers == [RESPONSE]
