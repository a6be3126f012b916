"""The owner's side of a TPM 1.2 against the real libtpms, in this process: endorsement key, ownership, NV storage."""

import pytest
from tpm_in_process import tpm_in_process

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.provision.refused import RefusedByTpm
from swtpm_svc.provision.tpm12_owner import Tpm12, secret_of
from swtpm_svc.wire import tpm12
from swtpm_svc.wire.command_codes import Ordinal
from swtpm_svc.wire.protocol_error import ProtocolError
from swtpm_svc.wire.tpm12 import NvPermission

OWNER = secret_of(b"ownerpass")
WRONG = secret_of(b"ownerpasS")
BY_OWNER = NvPermission.OWNERREAD | NvPermission.OWNERWRITE


@pytest.fixture
def execute():
    with tpm_in_process("1.2") as execute:
        yield execute


@pytest.fixture
def owned(execute):
    tpm = Tpm12(execute)
    tpm.key = tpm.create_endorsement_key()
    tpm.take_ownership(OWNER)
    return tpm


def refusal(call, *arguments, **named):
    with pytest.raises(VtpmError) as caught:
        call(*arguments, **named)
    assert caught.value.remedy
    return caught.value


def test_a_tpm_that_was_not_started_says_how_to_start_it():
    with tpm_in_process("1.2", startup=None) as execute:
        error = refusal(Tpm12(execute).create_endorsement_key)
    assert error.code is Code.TPM_NOT_RUNNING
    assert "TPM_INVALID_POSTINIT" in str(error)
    assert 'unless [tpm] startup is "none"' in error.remedy


def test_the_classic_session(execute):
    tpm = Tpm12(execute)
    error = refusal(tpm.take_ownership, OWNER)
    assert "TPM_NO_ENDORSEMENT" in str(error)
    assert "createek" in error.remedy
    key = tpm.create_endorsement_key()
    assert (key.bits, key.exponent) == (2048, 65537)
    assert tpm.read_pubek() == key
    assert refusal(tpm.create_endorsement_key).code is Code.ALREADY_PROVISIONED
    assert not tpm.has_owner()
    tpm.take_ownership(OWNER)
    assert tpm.has_owner()
    assert refusal(tpm.take_ownership, WRONG).code is Code.ALREADY_PROVISIONED
    assert "TPM_DISABLED_CMD" in str(refusal(tpm.read_pubek))
    assert tpm.owner_read_pubek(OWNER) == key
    error = refusal(tpm.owner_read_pubek, WRONG)
    assert error.code is Code.AUTH_FAILED
    assert "TPM_AUTHFAIL" in str(error)
    assert tpm.owner_read_pubek(OWNER) == key


def test_sessions_are_given_back(owned):
    """A TPM has room for a few (Part 2, TPM_MIN_AUTH_SESSIONS); one that is left behind is missed soon."""
    refusal(owned.owner_read_pubek, WRONG)
    for number in range(20):
        assert owned.owner_read_pubek(OWNER) == owned.key
        owned.nv_define_space(0x1001 + number, 4, BY_OWNER, owner=OWNER)


def test_one_session_authorizes_many_commands_with_nonces_that_roll(owned):
    with owned.oiap(OWNER) as session:
        nonces = set()
        for _ in range(5):
            nonces.add(session._nonce_even)
            owned._call_in(session, Ordinal.OWNER_READ_INTERNAL_PUB, tpm12.encode_owner_read_internal_pub(tpm12.Kh.EK))
    assert len(nonces) == 5
    assert not session.is_open


@pytest.mark.parametrize("where", [12, -1, -21, -30])
def test_a_response_that_was_changed_on_its_way_is_not_believed(execute, owned, where):
    """A byte of the parameters, of resAuth, of continueAuthSession, of nonceEven."""

    def execute_and_change(command):
        response = bytearray(execute(command))
        if int.from_bytes(command[6:10], "big") == Ordinal.OWNER_READ_INTERNAL_PUB:
            response[where] ^= 1
        return bytes(response)

    error = refusal(Tpm12(execute_and_change).owner_read_pubek, OWNER)
    assert error.code is Code.PROTOCOL
    assert "not authentic" in str(error)


def test_a_public_key_that_was_changed_on_its_way_is_not_believed(execute):
    def execute_and_change(command):
        response = bytearray(execute(command))
        if len(response) > 200:
            response[100] ^= 1
        return bytes(response)

    error = refusal(Tpm12(execute_and_change).create_endorsement_key)
    assert error.code is Code.PROTOCOL
    assert "checksum" in str(error)


@pytest.mark.parametrize("size", [0, 9, 10, 12])
def test_a_response_that_is_cut_off_is_a_protocol_error(execute, owned, size):
    """Also one whose header says that this was all."""

    def cut(command):
        response = execute(command)[:size]
        return response[:2] + size.to_bytes(4, "big") + response[6:] if size >= 10 else response

    tpm = Tpm12(cut)
    for call in (tpm.has_owner, lambda: tpm.owner_read_pubek(OWNER)):
        with pytest.raises(ProtocolError):
            call()


def test_nv_storage_before_and_after_the_lock(execute):
    """What a manufacturer writes, in more than one piece; after the lock permissions count."""
    tpm, certificate = Tpm12(execute), bytes(range(256)) * 6
    tpm.create_endorsement_key()
    tpm.nv_define_space(0x1000F000, len(certificate), BY_OWNER)
    tpm.nv_write(0x1000F000, certificate)
    tpm.nv_define_space(0x1000, 16, BY_OWNER)
    tpm.nv_lock()
    with pytest.raises(RefusedByTpm):
        tpm.nv_define_space(0x1001, 16, BY_OWNER)
    tpm.take_ownership(OWNER)
    for owner in (None, WRONG):
        with pytest.raises(RefusedByTpm):
            tpm.nv_read(0x1000F000, len(certificate), owner=owner)
    assert tpm.nv_read(0x1000F000, len(certificate), owner=OWNER) == certificate
    assert refusal(tpm.nv_define_space, 0x1001, 16, BY_OWNER, owner=WRONG).code is Code.AUTH_FAILED
    tpm.nv_define_space(0x1001, 16, BY_OWNER, owner=OWNER)
    tpm.nv_write(0x1001, b"sixteen bytes ..", owner=OWNER)
    assert tpm.nv_read(0x1001, 16, owner=OWNER) == b"sixteen bytes .."
