"""The TPM over the real libtpms, its state in memory: power, volatile state, orderly shutdown, locality, hash
sequence."""

import os

import pytest
from memory_storage import MemoryStorage
from tpm_commands import (
    GET_RANDOM,
    HIERARCHY_CHANGE_AUTH,
    PCR_EXTEND_16,
    PCR_READ_16,
    PCR_READ_17,
    TPM12_GET_RANDOM,
    TPM12_PCR_EXTEND_10,
    TPM12_PCR_READ_10,
    TPM12_SAVE_STATE,
    counter_of,
    result_of,
    with_session,
)
from tpm_service import put_away

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.tpm import libtpms
from swtpm_svc.tpm.dynamic_launch import get_established, hash_data, hash_end, hash_start, reset_established
from swtpm_svc.tpm.pcr import pcr_banks
from swtpm_svc.tpm.power import Power
from swtpm_svc.tpm.state_blobs import PERMANENT_STATE
from swtpm_svc.tpm.tpm import Tpm
from swtpm_svc.wire.tpm_header import HEADER

h = bytes.fromhex


@pytest.fixture
def make_tpm():
    failures = []
    made = []

    def make(version="2.0", storage=None):
        tpm = Tpm(version, storage if storage is not None else MemoryStorage(), failures.append)
        tpm.failures = failures
        made.append(tpm)
        return tpm

    yield make
    for tpm in made:
        put_away(tpm)


def run(tpm, command):
    return tpm.execute(memoryview(bytearray(command)), HEADER.unpack_from(command)[2])


def started(make_tpm, storage=None):
    tpm = make_tpm("2.0", storage)
    tpm.power_on(delete_volatile=True)
    assert result_of(tpm.startup("clear")) == 0
    return tpm


@pytest.mark.parametrize(("version", "fatal"), [("2.0", "80010000000a00000101"), ("1.2", "00c40000000a00000009")])
def test_commands_before_init_get_the_classic_fatal_response(make_tpm, version, fatal):
    """Bytes recorded from swtpm 0.7.1 before CMD_INIT and after CMD_STOP."""
    tpm = make_tpm(version)
    assert run(tpm, GET_RANDOM) == h(fatal)
    tpm.power_on(delete_volatile=True)
    tpm.stop()
    assert tpm.power is Power.STOPPED
    assert run(tpm, GET_RANDOM) == h(fatal)


def test_pcrs_do_not_survive_a_reset_but_the_permanent_state_does(make_tpm):
    storage = MemoryStorage()
    tpm = started(make_tpm, storage)
    fresh = run(tpm, PCR_READ_16)
    assert result_of(run(tpm, PCR_EXTEND_16)) == 0
    assert run(tpm, PCR_READ_16) != fresh
    tpm.power_on(delete_volatile=True)
    assert result_of(tpm.startup("clear")) == 0
    assert run(tpm, PCR_READ_16)[-32:] == fresh[-32:]
    assert set(storage.blobs) == {"permall"}


def test_stored_volatile_state_is_resumed_and_deleted_when_asked(make_tpm):
    storage = MemoryStorage()
    tpm = started(make_tpm, storage)
    run(tpm, PCR_EXTEND_16)
    extended = run(tpm, PCR_READ_16)
    tpm.store_volatile()
    for delete in (False, False, True):
        tpm.power_on(delete_volatile=delete)
        assert run(tpm, PCR_READ_16) == extended
    assert "volatilestate" not in storage.blobs
    tpm.power_on(delete_volatile=True)
    assert result_of(run(tpm, PCR_READ_16)) == 0x100  # TPM_RC_INITIALIZE: a reset, not a resume


def test_random_bytes_are_never_given_twice_after_a_resume(make_tpm):
    tpm = started(make_tpm)
    tpm.store_volatile()
    seen = {run(tpm, GET_RANDOM)[12:]}
    for _ in range(20):
        tpm.power_on(delete_volatile=False)
        seen.add(run(tpm, GET_RANDOM)[12:])
    assert len(seen) == 21


def test_a_snapshot_continues_although_the_tpm_was_shut_down_after_it(make_tpm):
    storage = MemoryStorage()
    tpm = started(make_tpm, storage)
    run(tpm, PCR_EXTEND_16)
    extended = run(tpm, PCR_READ_16)
    snapshot = tpm.snapshot()
    tpm.shut_down()
    again = make_tpm("2.0", storage)
    again.resume(snapshot)
    assert run(again, PCR_READ_16) == extended


@pytest.mark.parametrize("version", ["1.2", "2.0"])
@pytest.mark.parametrize("is_foreseen", [True, False], ids=["refused", "a fault"])
def test_what_storage_says_of_a_state_that_it_cannot_load_is_told(make_tpm, version, is_foreseen):
    """It is asked in the midst of libtpms, which knows only that it got none; and it does not make a new TPM of that."""
    storage = MemoryStorage()
    tpm = make_tpm(version, storage)
    tpm.power_on(delete_volatile=True)
    assert result_of(tpm.startup("clear")) == 0
    tpm.stop()
    permanent = dict(storage.blobs)
    asked, load = [], storage.load
    error = VtpmError(Code.STATE_UNREADABLE, "the disk is broken") if is_foreseen else RuntimeError("unforeseen")

    def fail(wanted):
        asked.append(wanted)
        if (
            wanted == PERMANENT_STATE and asked.count(wanted) == 2
        ):  # the first time it was looked at by ourselves, before libtpms
            raise error
        return load(wanted)

    storage.load = fail
    with pytest.raises(VtpmError) as caught:
        tpm.power_on(delete_volatile=True)
    assert caught.value.code is (Code.STATE_UNREADABLE if is_foreseen else Code.INTERNAL)
    assert ("the disk is broken" if is_foreseen else "in a storage callback: RuntimeError") in caught.value.message
    assert tpm.power is Power.STOPPED
    assert storage.blobs == permanent
    storage.load = load
    tpm.power_on(delete_volatile=True)
    assert result_of(tpm.startup("clear")) == 0


@pytest.mark.parametrize("version", ["1.2", "2.0"])
def test_a_tpm_that_had_no_power_yet_is_handed_over_as_it_is(make_tpm, version):
    """A restart before the first PTM_INIT, with `power-on = "manual"`: the guest has not been started."""
    tpm, successor = make_tpm(version), make_tpm(version)
    assert not tpm.can_be_asked
    snapshot = tpm.snapshot()
    assert (snapshot.power, snapshot.permanent, snapshot.volatile) == ("off", b"", b"")
    assert (snapshot.is_shut_down, snapshot.volatile_is_stored) == (False, False)
    successor.resume(snapshot)
    assert successor.power is Power.OFF
    assert successor.snapshot() == snapshot
    successor.power_on(delete_volatile=True)
    assert result_of(successor.startup("clear")) == 0


def test_shutdown_is_sent_once_and_only_to_a_tpm_that_needs_it(make_tpm):
    storage = MemoryStorage()
    tpm = started(make_tpm, storage)
    storage.stores.clear()
    assert result_of(run(tpm, h("80010000000c000001450000"))) == 0
    stored_by_client = len(storage.stores)
    tpm.stop()
    assert len(storage.stores) == stored_by_client
    tpm.power_on(delete_volatile=True)
    tpm.startup("clear")
    storage.stores.clear()
    tpm.stop()
    assert storage.stores == ["permall"]


def test_no_shutdown_is_sent_where_none_is_wanted(make_tpm):
    storage = MemoryStorage()
    tpm = started(make_tpm, storage)
    tpm.shuts_down = False
    storage.stores.clear()
    tpm.stop()
    assert storage.stores == []


def lockout_counter(tpm):
    """TPM_PT_LOCKOUT_COUNTER by TPM2_GetCapability(TPM_CAP_TPM_PROPERTIES)."""
    response = run(tpm, h("8001000000160000017a 00000006 0000020e 00000001"))
    assert result_of(response) == 0
    return int.from_bytes(response[-4:], "big")


def use_an_object_under_dictionary_attack_protection(tpm):
    """An HMAC key with a password that is used once: libtpms then notes that the power must not just go."""
    template = h("0008 000b 00040060 0000 0005 000b 0000")  # keyedHash, sha256, sign, HMAC with sha256
    public = len(template).to_bytes(2, "big") + template
    response = run(
        tpm, with_session(0x131, h("40000001"), h("0009 0005") + b"hello" + h("0000") + public + h("0000 00000000"))
    )
    assert result_of(response) == 0, response.hex()
    command = with_session(
        0x155, response[10:14], h("0003") + b"abc" + h("000b"), auth=h("40000009 0000 00 0005") + b"hello"
    )
    response = run(tpm, command)
    if result_of(response) == 0x922:  # TPM_RC_RETRY: it has first written down that such an object is in use
        response = run(tpm, command)
    assert result_of(response) == 0, response.hex()


@pytest.mark.parametrize("orderly", [True, False])
def test_an_orderly_power_off_does_not_raise_the_lockout_counter(make_tpm, orderly):
    """The control: pulling the plug does raise it, so the shutdown is what keeps it at 0."""
    tpm = started(make_tpm)
    tpm.execute(memoryview(bytearray(GET_RANDOM)), 0x17B)
    use_an_object_under_dictionary_attack_protection(tpm)
    assert lockout_counter(tpm) == 0
    if not orderly:
        libtpms.terminate()
        tpm.power = Power.OFF
    tpm.power_on(delete_volatile=True)
    tpm.startup("clear")
    assert lockout_counter(tpm) == (0 if orderly else 1)


def test_a_store_error_is_a_tpm_error_and_is_reported(make_tpm):
    storage = MemoryStorage()
    tpm = started(make_tpm, storage)
    before = storage.blobs["permall"]
    storage.failure = VtpmError(Code.STATE_FULL, "no space")
    response = run(tpm, HIERARCHY_CHANGE_AUTH)  # must be stored before it is acknowledged
    assert result_of(response) != 0
    assert [failure.code for failure in tpm.failures] == [Code.STATE_FULL]
    assert storage.blobs["permall"] == before


def test_a_tpm_that_cannot_be_stored_is_not_made(make_tpm):
    storage = MemoryStorage()
    storage.failure = VtpmError(Code.STATE_FULL, "no space")
    tpm = make_tpm("2.0", storage)
    with pytest.raises(VtpmError, match="no space"):
        tpm.power_on(delete_volatile=True)
    assert not tpm.is_running
    storage.failure = None
    tpm.power_on(delete_volatile=True)
    assert result_of(tpm.startup("clear")) == 0


def test_a_damaged_state_is_refused_and_left_alone(make_tpm):
    storage = MemoryStorage()
    started(make_tpm, storage).stop()
    damaged = storage.blobs["permall"] = storage.blobs["permall"][:-40]
    tpm = make_tpm("2.0", storage)
    with pytest.raises(VtpmError) as caught:
        tpm.power_on(delete_volatile=True)
    assert caught.value.code is Code.STATE_CORRUPT
    assert storage.blobs == {"permall": damaged}


def taken(tpm):
    """Its state blobs; it is stopped then."""
    blobs = {name: tpm.blobs.get(name) for name in ("permall", "volatilestate")}
    tpm.stop()
    return blobs


def offer(tpm, blobs):
    for name, blob in blobs.items():
        tpm.blobs.offer(name, blob)


def test_state_blobs_move_a_tpm_to_another_one(make_tpm):
    tpm = started(make_tpm)
    run(tpm, PCR_EXTEND_16)
    extended = run(tpm, PCR_READ_16)
    blobs = taken(tpm)
    storage = MemoryStorage()
    other = started(make_tpm, storage)
    other.store_volatile()
    other.stop()
    offer(other, blobs)
    other.power_on(delete_volatile=True)
    assert run(other, PCR_READ_16) == extended
    assert storage.blobs["permall"] == blobs["permall"]
    assert "volatilestate" not in storage.blobs


_NO_PCRS = h("0003 000000 1f") + bytes(20)  # TPM_PCR_INFO_SHORT
#: TPM_NV_DefineSpace of 8 bytes with TPM_NV_PER_OWNERWRITE, which asks nobody before nvLocked is set.
TPM12_DEFINE_NV = (
    h("00c100000065000000cc 0018 00001234") + 2 * _NO_PCRS + h("0017 00000002 000000 00000008") + bytes(20)
)


def test_state_blobs_replace_the_state_of_a_tpm_1_2_that_has_its_own(make_tpm):
    """QEMU migrates to a TPM that has been powered on before, and has made itself a permanent state."""
    tpm = make_tpm("1.2")
    tpm.power_on(delete_volatile=True)
    assert result_of(tpm.startup("clear")) == 0
    assert result_of(run(tpm, TPM12_DEFINE_NV)) == 0
    run(tpm, TPM12_PCR_EXTEND_10)
    extended = run(tpm, TPM12_PCR_READ_10)
    blobs = taken(tpm)
    storage = MemoryStorage()
    other = make_tpm("1.2", storage)
    other.power_on(delete_volatile=True)
    other.stop()
    assert storage.blobs["permall"] != blobs["permall"]
    offer(other, blobs)
    other.power_on(delete_volatile=True)
    assert other.blobs.get("permall") == storage.blobs["permall"] == blobs["permall"]
    assert run(other, TPM12_PCR_READ_10) == extended


def test_a_new_permanent_state_is_not_resumed_with_the_old_volatile_state(make_tpm):
    tpm = started(make_tpm)
    permanent = tpm.blobs.get("permall")
    tpm.stop()
    storage = MemoryStorage()
    other = started(make_tpm, storage)
    other.store_volatile()
    other.stop()
    other.blobs.offer("permall", permanent)
    other.power_on(delete_volatile=False)
    assert result_of(run(other, PCR_READ_16)) == 0x100
    assert set(storage.blobs) == {"permall"}


def test_a_garbage_blob_is_refused_and_the_tpm_goes_on_as_before(make_tpm):
    storage = MemoryStorage()
    tpm = started(make_tpm, storage)
    tpm.stop()
    before = dict(storage.blobs)
    with pytest.raises(VtpmError):
        tpm.blobs.offer("permall", b"\xde\xad\xbe\xef" * 100)
    assert storage.blobs == before
    tpm.power_on(delete_volatile=True)
    assert result_of(tpm.startup("clear")) == 0


def test_the_hash_sequence_sets_pcr_17_and_the_established_bit(make_tpm):
    tpm = started(make_tpm)
    assert hash_start(tpm) == hash_data(tpm, b"abc") == hash_end(tpm) == 0
    pcr17 = run(tpm, PCR_READ_17)
    # sha256(32 zero bytes || sha256("abc")): PCR 17 is reset to zero and extended with the event's digest
    import hashlib

    expected = hashlib.sha256(bytes(32) + hashlib.sha256(b"abc").digest()).digest()
    assert pcr17[-32:] == expected
    assert get_established(tpm)
    assert reset_established(tpm, 2) == 0x3D
    assert get_established(tpm)
    assert reset_established(tpm, 3) == 0
    assert not get_established(tpm)


def test_locality_decides_what_a_pcr_extend_may_do(make_tpm):
    """PCR 20 may be extended from localities 1 to 3 only (PC Client Platform Profile, table of PCR attributes)."""
    tpm = started(make_tpm)
    extend_20 = PCR_EXTEND_16.replace(h("0000001000000009"), h("0000001400000009"))
    assert result_of(run(tpm, extend_20)) == 0x907  # TPM_RC_LOCALITY
    tpm.set_locality(2)
    assert result_of(run(tpm, extend_20)) == 0
    tpm.set_locality(0)
    assert result_of(run(tpm, extend_20)) == 0x907


def test_pcr_banks(make_tpm):
    tpm = make_tpm("2.0")
    assert pcr_banks(tpm) == []
    tpm.power_on(delete_volatile=True)
    assert pcr_banks(tpm) == []  # not started
    tpm.startup("clear")
    assert "sha256" in pcr_banks(tpm)


def test_tpm_1_2_saves_its_volatile_state_too(make_tpm):
    storage = MemoryStorage()
    tpm = make_tpm("1.2", storage)
    tpm.power_on(delete_volatile=True)
    assert result_of(tpm.startup("clear")) == 0
    assert result_of(run(tpm, TPM12_PCR_EXTEND_10)) == 0
    extended = run(tpm, TPM12_PCR_READ_10)
    snapshot = tpm.snapshot()
    tpm.shut_down()
    again = make_tpm("1.2", storage)
    again.resume(snapshot)
    assert run(again, TPM12_PCR_READ_10) == extended
    assert storage.blobs.keys() == {"permall"}


def test_a_tpm_1_2_that_saved_its_state_before_a_restart_starts_from_it_after(make_tpm):
    """A guest sleeps while the service is restarted, and wakes up with TPM_Startup(ST_STATE)."""
    storage = MemoryStorage()
    tpm = make_tpm("1.2", storage)
    tpm.power_on(delete_volatile=True)
    tpm.startup("clear")
    run(tpm, TPM12_PCR_EXTEND_10)
    extended = run(tpm, TPM12_PCR_READ_10)
    assert result_of(run(tpm, TPM12_SAVE_STATE)) == 0
    snapshot = tpm.snapshot()
    tpm.shut_down()
    again = make_tpm("1.2", storage)
    again.resume(snapshot)
    again.power_on(delete_volatile=True)
    assert result_of(again.startup("state")) == 0
    assert run(again, TPM12_PCR_READ_10) == extended


def test_random_bytes_of_a_tpm_1_2_are_no_part_of_its_state(make_tpm):
    storage = MemoryStorage()
    tpm = make_tpm("1.2", storage)
    tpm.power_on(delete_volatile=True)
    tpm.startup("clear")
    snapshot = tpm.snapshot()
    tpm.shut_down()
    random = []
    for _ in range(2):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            again = Tpm("1.2", storage, [].append)
            again.resume(snapshot)
            os.write(write, run(again, TPM12_GET_RANDOM))
            os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as file:
            random.append(file.read())
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [result_of(response) for response in random] == [0, 0]
    assert random[0] != random[1]


ORDERLY_COUNTER = h("01500007")
#: TPM2_NV_DefineSpace of a counter with TPMA_NV_ORDERLY: kept in memory, and made up for at a start without a shutdown.
DEFINE_ORDERLY = with_session(0x12A, h("40000001"), h("0000 000e 01500007 000b 04020012 0000 0008"))
INCREMENT_ORDERLY = with_session(0x134, h("40000001") + ORDERLY_COUNTER)
READ_ORDERLY = with_session(0x14E, h("40000001") + ORDERLY_COUNTER, h("0008 0000"))


def test_a_counter_does_not_go_back_when_a_resumed_tpm_loses_its_power(make_tpm):
    """What a restart leaves on disk must not say "shut down in order" while the TPM goes on."""
    storage = MemoryStorage()
    tpm = started(make_tpm, storage)
    assert result_of(run(tpm, DEFINE_ORDERLY)) == 0
    for _ in range(4):
        assert result_of(run(tpm, INCREMENT_ORDERLY)) == 0
    snapshot = tpm.snapshot()
    tpm.shut_down()
    successor = make_tpm("2.0", storage)
    successor.resume(snapshot)
    for _ in range(20):
        assert result_of(run(successor, INCREMENT_ORDERLY)) == 0
    acknowledged = counter_of(run(successor, READ_ORDERLY))
    libtpms.terminate()  # SIGKILL, a power cut
    successor.power = Power.OFF
    after = started(make_tpm, storage)
    assert counter_of(run(after, READ_ORDERLY)) >= acknowledged


def test_state_blobs_that_were_set_survive_a_handover(make_tpm):
    tpm = started(make_tpm)
    run(tpm, PCR_EXTEND_16)
    extended = run(tpm, PCR_READ_16)
    blobs = taken(tpm)
    storage = MemoryStorage()
    other = started(make_tpm, storage)
    other.stop()
    offer(other, blobs)
    snapshot = other.snapshot()
    other.shut_down()
    successor = make_tpm("2.0", storage)
    successor.resume(snapshot)
    assert successor.power is Power.STOPPED
    successor.power_on(delete_volatile=True)
    assert run(successor, PCR_READ_16) == extended


def test_a_clients_own_shutdown_is_not_replaced_by_a_successors(make_tpm):
    storage = MemoryStorage()
    tpm = started(make_tpm, storage)
    run(tpm, PCR_EXTEND_16)
    assert result_of(run(tpm, h("80010000000c000001450001"))) == 0  # TPM2_Shutdown(TPM_SU_STATE)
    snapshot = tpm.snapshot()
    tpm.shut_down()
    successor = make_tpm("2.0", storage)
    successor.resume(snapshot)
    successor.shut_down()
    after = make_tpm("2.0", storage)
    after.power_on(delete_volatile=True)
    assert result_of(after.startup("state")) == 0


def test_a_handover_that_is_refused_does_not_accuse_the_disk(make_tpm):
    storage = MemoryStorage()
    tpm = started(make_tpm, storage)
    snapshot = tpm.snapshot()
    tpm.shut_down()
    before = dict(storage.blobs)
    successor = make_tpm("2.0", storage)
    with pytest.raises(VtpmError) as caught:
        successor.resume(snapshot._replace(volatile=snapshot.volatile[:100]))
    assert caught.value.code is Code.HANDOVER_REFUSED
    assert storage.blobs == before
    successor.power_on(delete_volatile=True)
    assert result_of(successor.startup("clear")) == 0
