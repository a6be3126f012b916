"""The manufacturer's and the owner's side of a TPM 2.0 against the real libtpms, in this process."""

import pytest
from tpm_in_process import tpm_in_process

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.provision import ownership
from swtpm_svc.provision.ek_templates import ENDORSEMENT_KEYS
from swtpm_svc.provision.refused import RefusedByTpm
from swtpm_svc.provision.tpm2_owner import Tpm2
from swtpm_svc.provision.tpm12_owner import Tpm12
from swtpm_svc.wire.algorithms import Alg
from swtpm_svc.wire.command_codes import CommandCode
from swtpm_svc.wire.protocol_error import ProtocolError
from swtpm_svc.wire.tpm2 import NvAttribute, NvPublic
from swtpm_svc.wire.tpm2_numbers import Rh

PASSWORD = b"ownerpass"
RSA = ENDORSEMENT_KEYS["rsa2048"]
P384 = ENDORSEMENT_KEYS["ecc-p384"]


@pytest.fixture
def execute():
    with tpm_in_process("2.0") as execute:
        yield execute


@pytest.fixture
def tpm(execute):
    return Tpm2(execute)


def refusal(call, *arguments, **named):
    with pytest.raises(VtpmError) as caught:
        call(*arguments, **named)
    assert caught.value.remedy
    return caught.value


def failing(execute, command, rc, *, times=1, after=0):
    """`execute`, but `command` gives `rc`, so many times, after it was carried out `after` times."""
    counts = {"seen": 0}

    def execute_or_fail(request):
        if int.from_bytes(request[6:10], "big") == command:
            counts["seen"] += 1
            if after < counts["seen"] <= after + times:
                return b"\x80\x01\0\0\0\x0a" + rc.to_bytes(4, "big")
        return execute(request)

    return execute_or_fail


@pytest.mark.parametrize(("version", "kind"), [("1.2", Tpm12), ("2.0", Tpm2)])
@pytest.mark.parametrize("startup", [None, "clear"])
def test_the_version_is_found_out(version, kind, startup):
    with tpm_in_process(version, startup=startup) as execute:
        assert isinstance(ownership.connect(execute), kind)


def test_what_is_no_tpm_is_not_taken_for_one():
    assert refusal(ownership.connect, lambda _command: bytes.fromhex("1234 0000000a 00000000")).code is Code.PROTOCOL
    with pytest.raises(ProtocolError):
        ownership.connect(lambda _command: b"")


def test_a_tpm_that_was_not_started_says_how_to_start_it():
    with tpm_in_process("2.0", startup=None) as execute:
        error = refusal(ownership.create_endorsement_key, Tpm2(execute), RSA)
    assert error.code is Code.TPM_NOT_RUNNING
    assert "TPM_RC_INITIALIZE" in str(error)
    assert 'unless [tpm] startup is "none"' in error.remedy


@pytest.mark.parametrize("name", ["rsa2048", "rsa3072", "ecc-p256", "ecc-p384", "ecc-p521"])
def test_an_endorsement_key_is_that_of_its_template_and_stays(tpm, name):
    key = ENDORSEMENT_KEYS[name]
    assert ownership.find_endorsement_key(tpm, key) is None
    public = ownership.create_endorsement_key(tpm, key)
    assert public._replace(unique=()) == key.template._replace(unique=())
    assert ownership.find_endorsement_key(tpm, key) == public.key
    again, same = tpm.create_primary(Rh.ENDORSEMENT, key.template)
    assert same == public
    tpm.flush(again)


@pytest.mark.parametrize("rc", [0x2C4, 0x2C7, 0x2E6])
def test_an_algorithm_that_the_tpm_does_not_have(execute, rc):
    """0x2C4: libtpms 0.9 to RSA 4096, which is in 0.10; the others: TPM_RC_KEY_SIZE and TPM_RC_CURVE, of the same
    parameter."""
    tpm = Tpm2(failing(execute, CommandCode.CREATE_PRIMARY, rc))
    error = refusal(ownership.create_endorsement_key, tpm, ENDORSEMENT_KEYS["rsa4096"])
    assert error.code is Code.TPM_REFUSED
    for option in ("--algorithm", "--ek", "endorsement-keys"):
        assert option in error.remedy
    assert error.remedy.endswith("this TPM has no RSA 4096")


def test_a_key_that_is_there_stays_unless_it_is_to_be_replaced(tpm):
    other = tpm.create_primary(Rh.OWNER, RSA.template)
    tpm.persist(other[0], RSA.handle)
    tpm.flush(other[0])
    assert refusal(ownership.create_endorsement_key, tpm, RSA).code is Code.ALREADY_PROVISIONED
    assert tpm.read_key(RSA.handle) == other[1].key
    public = ownership.create_endorsement_key(tpm, RSA, replace=True)
    assert tpm.read_key(RSA.handle) == public.key != other[1].key
    assert ownership.create_endorsement_key(tpm, RSA, replace=True) == public


@pytest.mark.parametrize("replace", [False, True])
def test_no_object_is_left_behind_when_the_key_cannot_be_stored(execute, replace):
    """A TPM has room for three: a fourth failure would be another one."""
    if replace:
        ownership.create_endorsement_key(Tpm2(execute), RSA)
    for _ in range(5):
        failed = Tpm2(failing(execute, CommandCode.EVICT_CONTROL, 0x14B))
        assert "TPM_RC_NV_SPACE" in str(refusal(ownership.create_endorsement_key, failed, RSA, replace=replace))


def test_ownership_is_three_passwords(tpm):
    ownership.take_ownership(tpm, PASSWORD)
    assert tpm.authorizations_set() == [Rh.OWNER, Rh.ENDORSEMENT, Rh.LOCKOUT]
    assert refusal(ownership.take_ownership, tpm, b"another").code is Code.ALREADY_PROVISIONED
    for hierarchy in (Rh.OWNER, Rh.ENDORSEMENT):
        for wrong in (b"", b"ownerpasS", b"ownerpass\n"):
            assert refusal(tpm.change_auth, hierarchy, b"x", wrong).code is Code.AUTH_FAILED
        tpm.change_auth(hierarchy, PASSWORD, PASSWORD)
    tpm.change_auth(Rh.LOCKOUT, PASSWORD, PASSWORD)


def test_an_owned_tpm_gives_endorsement_keys_to_its_owner(tpm):
    ownership.take_ownership(tpm, PASSWORD)
    assert refusal(ownership.create_endorsement_key, tpm, RSA).code is Code.AUTH_FAILED
    assert refusal(ownership.create_endorsement_key, tpm, RSA, endorsement=PASSWORD).code is Code.AUTH_FAILED
    ownership.create_endorsement_key(tpm, RSA, endorsement=PASSWORD, owner=PASSWORD)


def test_a_password_that_is_too_long_changes_nothing(tpm):
    error = refusal(ownership.take_ownership, tpm, b"x" * 65)
    assert error.code is Code.USAGE
    assert "65 bytes is too long" in str(error)
    assert tpm.authorizations_set() == []


@pytest.mark.parametrize("zeros", [1, 20, 32])
def test_a_password_of_zeros_is_none(tpm, zeros):
    """A TPM 2.0 removes them at the end of an authorization: it would say that it is done, and have no owner."""
    error = refusal(ownership.take_ownership, tpm, bytes(zeros))
    assert error.code is Code.USAGE
    assert "zero bytes" in str(error)
    ownership.take_ownership(tpm, bytes(zeros) + b"1" + bytes(zeros % 5))
    assert len(tpm.authorizations_set()) == 3


@pytest.mark.parametrize("done", [1, 2])
def test_ownership_is_taken_as_a_whole_or_not_at_all(execute, done):
    failed = Tpm2(failing(execute, CommandCode.HIERARCHY_CHANGE_AUTH, 0x923, after=done))
    assert "TPM_RC_NV_UNAVAILABLE" in str(refusal(ownership.take_ownership, failed, PASSWORD))
    assert Tpm2(execute).authorizations_set() == []


@pytest.mark.parametrize("which", [1, 2, 3])
@pytest.mark.parametrize("what", [KeyboardInterrupt, ConnectionResetError])
def test_an_interrupt_leaves_no_owner(execute, which, what):
    """The command is carried out, and its answer lost."""
    seen = []

    def cut_short(command):
        response = execute(command)
        if int.from_bytes(command[6:10], "big") == CommandCode.HIERARCHY_CHANGE_AUTH:
            seen.append(command)
            if len(seen) == which:
                raise what
        return response

    with pytest.raises(what):
        ownership.take_ownership(Tpm2(cut_short), PASSWORD)
    assert Tpm2(execute).authorizations_set() == []


def test_what_cannot_be_given_up_is_said(execute):
    failed = Tpm2(failing(execute, CommandCode.HIERARCHY_CHANGE_AUTH, 0x923, after=2, times=2))
    error = refusal(ownership.take_ownership, failed, PASSWORD)
    assert "taken in part" in str(error)
    assert "tpm2_changeauth" in error.remedy


def test_nv_storage_of_the_platform(tpm):
    """What a manufacturer writes, in more than one piece; the owner reads it."""
    certificate = bytes(range(256)) * 6
    by_platform = NvAttribute.PPWRITE | NvAttribute.PPREAD | NvAttribute.PLATFORMCREATE | NvAttribute.NO_DA
    public = NvPublic(RSA.certificate_index, by_platform | NvAttribute.OWNERREAD, len(certificate))
    tpm.nv_define_space(public)
    assert tpm.nv_read_public(public.nv_index) == public
    assert "TPM_RC_NV_DEFINED" in str(refusal(tpm.nv_define_space, public))
    assert "TPM_RC_NV_UNINITIALIZED" in str(refusal(tpm.nv_read, public.nv_index))
    tpm.nv_write(public.nv_index, certificate)
    assert tpm.nv_read(public.nv_index) == certificate
    assert tpm.nv_read(public.nv_index, Rh.OWNER) == certificate
    with pytest.raises(RefusedByTpm):
        tpm.nv_write(public.nv_index, certificate, Rh.OWNER)


def test_an_nv_index_that_ends_too_early_is_a_protocol_error(execute, tpm):
    tpm.nv_define_space(NvPublic(0x01500000, NvAttribute.PPWRITE | NvAttribute.PPREAD | NvAttribute.PLATFORMCREATE, 8))
    tpm.nv_write(0x01500000, bytes(8))

    def without_data(command):
        if int.from_bytes(command[6:10], "big") == CommandCode.NV_READ:
            return bytes.fromhex("8002 00000015 00000000 00000002 0000 0000 01 0000")
        return execute(command)

    with pytest.raises(ProtocolError, match="ended after 0 of 8 bytes"):
        Tpm2(without_data).nv_read(0x01500000)


def test_pcr_banks():
    with tpm_in_process("2.0") as execute:
        allocation = Tpm2(execute).pcr_allocate({0x04: False, Alg.SHA256: True, Alg.SHA384: True, Alg.SHA512: False})
        assert allocation.is_done
        assert allocation.max_pcrs == 24
        assert 0 < allocation.size_needed <= allocation.size_available


@pytest.mark.parametrize("size", [0, 9, 10, 14, 40])
def test_a_response_that_is_cut_off_is_a_protocol_error(execute, size):
    def cut(command):
        response = execute(command)[:size]
        return response[:2] + size.to_bytes(4, "big") + response[6:] if size >= 10 else response

    for call in (lambda tpm: tpm.create_primary(Rh.ENDORSEMENT, P384.template), Tpm2.authorizations_set):
        if size < 27 or call is not Tpm2.authorizations_set:  # whose response has 27 bytes
            with pytest.raises(ProtocolError):
                call(Tpm2(cut))
