"""Which results of commands an administrator hears of, though nobody asked for a trace."""

from types import SimpleNamespace

import pytest

from swtpm_svc.frontends.dispatch import Dispatcher
from swtpm_svc.wire.caller import Caller

CALLER = Caller(1000, 1000, 1)


def told(version, results, *, trace=False):
    heard = []
    events = SimpleNamespace(
        executed=lambda _caller, _command, response: heard.append(int.from_bytes(response[6:10], "big"))
    )
    tpm = SimpleNamespace(version=version, failure=None)
    dispatcher = Dispatcher(tpm, None, None, lambda _caller: None, events)
    dispatcher.trace = trace
    for result in results:
        dispatcher.tell(CALLER, b"command", bytes(6) + result.to_bytes(4, "big"))
    return heard


@pytest.mark.parametrize(
    ("version", "notable"),
    [
        ("1.2", [0x09, 0x1C, 0x803]),  # TPM_FAIL, TPM_FAILEDSELFTEST, TPM_DEFEND_LOCK_RUNNING (TPM Main Part 2, 16)
        ("2.0", [0x101, 0x921]),  # TPM_RC_FAILURE, TPM_RC_LOCKOUT (TPM 2.0 Part 2, 6.6.3)
    ],
)
def test_failure_and_lockout_are(version, notable):
    assert told(version, range(0x1000)) == notable


def test_with_a_trace_all_are():
    assert told("2.0", [0, 0x101, 0x922], trace=True) == [0, 0x101, 0x922]
