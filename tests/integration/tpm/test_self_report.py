"""What a TPM says of itself for the status, with libtpms: started or not, and its lockout."""

import pytest
from tpm_commands import TPM12_GET_RANDOM, TPM12_SAVE_STATE, result_of, with_session
from tpm_service import Service

from swtpm_svc.tpm.self_report import self_report
from swtpm_svc.wire.command_codes import CommandCode

h = bytes.fromhex
UNKNOWN = {"started": False, "lockout": None}
#: TPM2_DictionaryAttackParameters: one failure, a thousand seconds each.
ONE_TRY = with_session(0x13A, h("4000000a"), h("00000001 000003e8 000003e8"))
#: TPM2_NV_DefineSpace of an index with the password "right", which dictionary attacks are held off from.
DEFINE = with_session(0x12A, h("40000001"), h("0005") + b"right" + h("000e 01500001 000b 00040004 0000 0008"))
#: TPM2_NV_Read of it with another one.
WRONG = with_session(0x14E, h("01500001 01500001"), h("0008 0000"), auth=h("40000009 0000 00 0005") + b"wrong")
#: The first one is to be sent again (TPM_RC_RETRY), as the TPM has to note that such an authorization is used.
RETRY, AUTH_FAIL = 0x922, 0x98E


@pytest.fixture
def make():
    made = []

    def make(version):
        made.append(Service(version, post=None))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_tpm_2_0(make):
    service = make("2.0")
    tpm = service.tpm
    assert self_report(tpm) == UNKNOWN
    service.start("")
    assert self_report(tpm) == UNKNOWN
    tpm.startup("clear")
    found = self_report(tpm)
    assert found["started"] is True
    assert (found["lockout"]["failures"], found["lockout"]["locked"]) == (0, False)
    assert found["lockout"]["limit"] > 0
    # what a client did last stays that: the shutdown is not undone
    assert result_of(tpm.execute(memoryview(bytearray(tpm.dialect.shutdown)), CommandCode.SHUTDOWN)) == 0
    assert self_report(tpm) == {"started": True, "lockout": None}
    tpm.stop()
    tpm.power_on(delete_volatile=True)
    assert self_report(tpm) == UNKNOWN


def test_a_lockout(make):
    service = make("2.0").start()
    for command in (ONE_TRY, DEFINE):
        assert result_of(service.execute(command)) == 0
    assert [result_of(service.execute(WRONG)) for _ in range(2)] == [RETRY, AUTH_FAIL]
    lockout = {"failures": 1, "limit": 1, "locked": True, "interval_s": 1000}
    assert self_report(service.tpm) == {"started": True, "lockout": lockout}


def test_a_tpm_1_2_is_not_asked(make):
    """A command after TPM_SaveState undoes that."""
    service = make("1.2")
    service.start("")
    assert self_report(service.tpm) == UNKNOWN
    service.tpm.startup("clear")
    assert result_of(service.execute(TPM12_SAVE_STATE)) == 0
    assert self_report(service.tpm) == {"started": True, "lockout": None}
    service.tpm.stop()
    service.tpm.power_on(delete_volatile=True)
    assert result_of(service.tpm.startup("state")) == 0, "what was saved is there"
    assert result_of(service.execute(TPM12_GET_RANDOM)) == 0
