"""The dispatcher: whether a command or a control request is done now, later or not at all, and what is answered where
that fails. With a TPM that only says what it was asked."""

from types import SimpleNamespace

import pytest

from swtpm_svc.errors import Code
from swtpm_svc.frontends.dispatch import Dispatcher
from swtpm_svc.tpm.controller import Rights
from swtpm_svc.tpm.executor import Executor
from swtpm_svc.tpm.power import Power
from swtpm_svc.wire import ptm
from swtpm_svc.wire.caller import Caller
from swtpm_svc.wire.results import TpmResult

h = bytes.fromhex
CALLER = Caller(1000, 1000, 1)
GET_RANDOM, CREATE = h("8001 0000000c 0000017b 0004"), h("8001 0000000a 00000153")
CONTROL, NONE = Rights(control=True, secrets=False), Rights(control=False, secrets=False)
FATAL = h("8001 0000000a 00000101")
RESPONSE, REFUSED = h("8001 0000000a 00000000"), h("8001 0000000a 00000907")


class FakeTpm:
    version, power, failure, unstored = "2.0", Power.RUNNING, None, False

    has_lock = True

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

    dialect = SimpleNamespace(bad_locality=REFUSED, fatal=FATAL)
    is_powered = True


class Desk:
    """A dispatcher, what waits for it, and what was answered."""

    def __init__(self, rights=CONTROL):
        self.tpm, self.posted, self.asked, self.answers, self.told = FakeTpm(), [], [], [], []
        self.executor = Executor(self.posted.append)
        events = SimpleNamespace(
            executed=lambda caller, command, response: self.told.append((caller, response)),
            failed=lambda error: self.told.append((error.code, error.message)),
            refused=lambda caller, error: self.told.append((caller, error.code)),
            controlled=lambda caller, request, result: self.told.append((caller, type(request), result)),
        )
        controller = SimpleNamespace(handle=self.handle, gives_clear=lambda _request: True)
        self.dispatcher = Dispatcher(
            self.tpm, controller, self.executor, lambda _caller: rights, events,
            lambda _caller, then: self.asked.append(then),
        )  # fmt: skip

    def handle(self, request):
        """Stands for the controller."""
        return ptm.Result(0)

    def control(self, request, **options):
        self.dispatcher.control(CALLER, request, self.answers.append, **options)

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


def raise_unforeseen(*_arguments):
    raise RuntimeError("unforeseen")


def test_a_fault_on_the_worker_is_a_failure_of_the_tpm_and_told():
    desk = Desk()
    desk.tpm.begin = raise_unforeseen
    assert not desk.run(CREATE)
    desk.finish_work()
    assert desk.answers == [FATAL]
    (code, words), executed = desk.told
    assert (code, executed) == (Code.INTERNAL, (CALLER, FATAL))
    assert "while executing a command" in words
    assert not desk.executor.busy


#: One that is carried out at once, and one that the worker does: it stores.
REQUESTS = [ptm.SetLocality(2), ptm.StoreVolatile()]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: type(request).__name__)
def test_a_control_request_is_carried_out_answered_and_told_of(request_):
    desk = Desk()
    desk.control(request_)
    if desk.executor.busy:
        desk.finish_work()
    assert desk.answers == [ptm.Result(0)]
    assert desk.told == [(CALLER, type(request_), 0)]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: type(request).__name__)
@pytest.mark.parametrize("is_front_end_s", [False, True])
def test_a_fault_of_a_control_request_is_answered_and_told_too(request_, is_front_end_s):
    desk = Desk()
    desk.dispatcher.controller.handle = raise_unforeseen
    desk.control(request_, perform=raise_unforeseen if is_front_end_s else None)
    if desk.executor.busy:
        desk.finish_work()
    assert desk.answers == [ptm.Result(TpmResult.FAIL)]
    (code, words), controlled = desk.told
    assert code is Code.INTERNAL
    assert f"while carrying out {ptm.command_of(request_).name}" in words
    assert controlled == (CALLER, type(request_), TpmResult.FAIL)


@pytest.mark.parametrize("hears", [False, True])
def test_who_may_not_is_refused(hears):
    desk, refused = Desk(NONE), []
    desk.control(ptm.SetLocality(2), refuse=refused.append if hears else None)
    assert desk.told == [(CALLER, Code.NOT_PERMITTED)]
    if hears:
        assert ([error.code for error in refused], desk.answers) == ([Code.NOT_PERMITTED], [])
    else:
        assert (refused, len(desk.answers)) == ([], 1)
        assert desk.answers[0].tpm_result != 0


def test_where_nothing_runs_nothing_is_cancelled():
    desk = Desk()
    desk.dispatcher.controller.handle = raise_unforeseen
    desk.control(ptm.CancelTpmCommand())
    assert desk.answers == [ptm.Result(0)]
