"""What follows from what front ends tell: the status, systemd, and what is said of a TPM that fails."""

from types import SimpleNamespace

import pytest

from swtpm_svc.errors import TABLE, Code, VtpmError
from swtpm_svc.service.events import EventLog
from swtpm_svc.service.systemd.journal import COMMAND_ID, COUNT_ID, HEALED_ID
from swtpm_svc.tpm.power import Failure
from swtpm_svc.wire import ptm
from swtpm_svc.wire.caller import Caller

CALLER = Caller(1001, 1001, 7)


class Heard:
    """An event log; what it wrote, whom it called, and a throttle that admits or counts."""

    def __init__(self):
        self.entries, self.calls, self.counts, self.admits = [], [], [], True

        def log(level, words, *, message_id=None, **fields):
            self.entries.append((level, words, message_id, fields))

        def error(error, *, level="error", **fields):
            self.entries.append((level, error.message, error.fault.message_id, fields))

        def admit(_kind, write_count, *, burst):
            assert burst > 0
            self.counts.append(write_count)
            return self.admits

        journal, throttle = SimpleNamespace(log=log, error=error), SimpleNamespace(admit=admit)
        self.events = EventLog(
            journal,
            throttle,
            "2.0",
            lambda: self.calls.append("controlled"),
            lambda: self.calls.append("gone"),
            lambda caller, then: then(f"somebody ({caller.uid}), process {caller.pid}"),
        )


@pytest.fixture
def heard():
    return Heard()


@pytest.mark.parametrize("admits", [True, False])
@pytest.mark.parametrize("request_", [ptm.SetLocality(2), ptm.GetStateBlob(0, 1, 0)], ids=["once", "a piece"])
def test_systemd_hears_of_each_control_operation_also_of_one_that_is_not_told(heard, request_, admits):
    heard.admits = admits
    heard.events.controlled(CALLER, request_, 0)
    assert heard.calls == ["controlled"]
    is_piece = isinstance(request_, ptm.GetStateBlob)
    assert [entry[0] for entry in heard.entries] == (["debug"] if is_piece else ["info"] if admits else [])
    assert len(heard.counts) == (0 if is_piece else 1)


def test_a_device_that_goes_is_passed_on(heard):
    heard.events.device_gone()
    assert heard.calls == ["gone"]


@pytest.mark.parametrize("admits", [True, False])
def test_the_last_error_is_in_the_status_also_when_it_is_only_counted(heard, admits):
    heard.admits = admits
    assert heard.events.last_error is None
    heard.events.failed(VtpmError(Code.STATE_FULL, "no room"))
    assert heard.events.last_error.pop("time") > 1e9
    assert heard.events.last_error == {"code": "state-full", "message": "no room"}
    assert len(heard.entries) == admits


def test_a_tpm_that_heals_is_told_of_when_it_fails_and_when_it_goes_on(heard):
    heard.events.tpm_failed(Failure(VtpmError(Code.STATE_FULL, "no room"), 0.0, heals=True))
    heard.events.tpm_failed(None)
    failed, healed = heard.entries
    assert (failed[0], failed[2:]) == ("error", (TABLE[Code.TPM_FAILED].message_id, {"VTPM_ERROR": "state-full"}))
    assert failed[1].startswith("the TPM has failed: its state cannot be stored")
    assert (healed[0], healed[2:]) == ("notice", (HEALED_ID, {}))
    assert healed[1].endswith("the TPM goes on from the last command that was acknowledged")


def test_another_failure_is_told_by_who_met_it(heard):
    heard.events.tpm_failed(Failure(VtpmError(Code.LIBTPMS, "self-test"), 0.0, heals=False))
    assert heard.entries == []


@pytest.mark.parametrize(
    ("code", "level"), [("00000000", "debug"), ("00000101", "warning")], ids=["success", "failure"]
)
def test_a_command_that_the_tpm_fails_is_told_of_and_others_where_that_is_wanted(heard, code, level):
    heard.events.executed(CALLER, bytes.fromhex("8001 0000000c 0000017b 0010"), bytes.fromhex("8001 0000000a" + code))
    ((found, words, message_id, fields),) = heard.entries
    assert (found, words.partition(":")[0], message_id) == (level, "TPM2_GetRandom", COMMAND_ID)
    assert fields == {"TPM_CC": "0x17b", "TPM_RC": hex(int(code, 16)), "CLIENT_PID": 7, "CLIENT_UID": 1001}
    assert len(heard.counts) == (level == "warning")


def test_who_is_refused_and_who_has_done_what_is_named(heard):
    heard.events.refused(CALLER, VtpmError(Code.NOT_PERMITTED, "STOP is not yours", remedy="ask"))
    heard.events.controlled(CALLER, ptm.Stop(), 0)
    assert [words for _level, words, _id, _fields in heard.entries] == [
        "STOP is not yours: refused to somebody (1001), process 7",
        "STOP: success, asked by somebody (1001), process 7",
    ]
    assert heard.entries[1][3] == {"TPM_RC": "0x0", "CLIENT_PID": 7, "CLIENT_UID": 1001}


def test_a_count_names_the_user_where_there_is_one(heard):
    heard.events.refused(CALLER, VtpmError(Code.NOT_PERMITTED, "not you"))
    heard.events.failed(VtpmError(Code.STATE_FULL, "no room"))
    heard.entries.clear()
    for write_count in heard.counts:
        write_count(9)
    assert heard.entries == [
        (
            "warning",
            "9 more times within a minute: user 1001: not you",
            COUNT_ID,
            {"VTPM_ERROR": "not-permitted", "CLIENT_UID": 1001},
        ),
        ("error", "9 more times within a minute: no room", COUNT_ID, {"VTPM_ERROR": "state-full", "CLIENT_UID": None}),
    ]
