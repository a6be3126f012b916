"""A TPM whose storage is another host's too: what it does without the lock, and when it takes it or gives it up."""

import pytest
from memory_storage import MemoryStorage
from tpm_commands import GET_RANDOM, HIERARCHY_CHANGE_AUTH, PCR_EXTEND_16, PCR_READ_16, result_of
from tpm_service import put_away

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.tpm.controller import Controller
from swtpm_svc.tpm.tpm import Tpm
from swtpm_svc.wire import ptm
from swtpm_svc.wire.results import TpmResult
from swtpm_svc.wire.tpm_header import HEADER

pytestmark = pytest.mark.needs("binding")

FAILURE = bytes.fromhex("80010000000a00000101")


def run(tpm, command):
    return tpm.execute(memoryview(bytearray(command)), HEADER.unpack_from(command)[2])


@pytest.fixture
def storage():
    return MemoryStorage()


@pytest.fixture
def tpm(storage):
    failures = []
    made = Tpm("2.0", storage, failures.append)
    made.failures = failures
    made.told = []
    made.on_lock = lambda: made.told.append(made.has_lock)
    yield made
    put_away(made)


@pytest.fixture
def controller(tpm):
    return Controller(tpm, on_shutdown=lambda: None, on_error=tpm.failures.append)


def started(tpm):
    tpm.power_on(delete_volatile=True)
    assert result_of(tpm.startup("clear")) == 0
    return tpm


def blob_of(controller, kind):
    return controller.handle(ptm.GetStateBlob(state_flags=1, type=kind, offset=0))


KINDS = (ptm.BlobType.PERMANENT, ptm.BlobType.VOLATILE, ptm.BlobType.SAVESTATE)


# --- incoming


@pytest.fixture
def incoming(storage, tpm):
    storage.is_locked = tpm.has_lock = False
    tpm.is_incoming = True
    return tpm


def test_without_the_lock_it_is_powered_on_and_stores_nothing(storage, incoming):
    storage.is_taken = True
    started(incoming)
    assert incoming.is_running
    assert storage.stores == []
    incoming.stop()
    incoming.power_on(delete_volatile=True)
    incoming.shut_down()
    assert (storage.stores, incoming.told, incoming.failures) == ([], [], [])


def test_no_command_without_the_lock(storage, incoming):
    storage.is_taken = True
    started(incoming)
    assert run(incoming, GET_RANDOM) == FAILURE
    with pytest.raises(VtpmError):
        incoming.store_volatile()
    assert incoming.guarded(lambda: 0) == TpmResult.FAIL
    assert storage.stores == []
    assert {error.code for error in incoming.failures} == {Code.STATE_LOCKED}
    storage.is_taken = False
    assert result_of(run(incoming, GET_RANDOM)) == 0
    assert incoming.told == [True]
    assert "permall" in storage.stores


@pytest.mark.parametrize("changes", [True, False])
def test_what_another_one_stored_meanwhile_is_what_it_goes_on_with(storage, incoming, changes):
    """It was powered on from what lay there, and started; then its owner gave it a password, and let it go."""
    theirs = started(Tpm("2.0", MemoryStorage(), incoming.failures.append))
    put_away(theirs)
    storage.blobs["permall"] = theirs._storage.load("permall")
    started(theirs)
    assert result_of(run(theirs, HIERARCHY_CHANGE_AUTH)) == 0
    put_away(theirs)
    mine = Tpm("2.0", storage, incoming.failures.append)
    mine.is_incoming = True
    started(mine)
    if changes:
        storage.blobs["permall"] = theirs._storage.load("permall")
    # the same command once more, with the empty password of before
    assert (result_of(run(mine, HIERARCHY_CHANGE_AUTH)) != 0) is changes
    assert result_of(run(mine, GET_RANDOM)) == 0  # it was started anew, too
    put_away(mine)


def test_a_blob_takes_the_lock(storage, incoming, controller):
    source = MemoryStorage()
    first = started(Tpm("2.0", source, incoming.failures.append))
    run(first, PCR_EXTEND_16)
    extended = run(first, PCR_READ_16)
    theirs = Controller(first, on_shutdown=lambda: None, on_error=incoming.failures.append)
    blobs = {kind: blob_of(theirs, kind).data for kind in KINDS[:2]}
    put_away(first)
    tpm = Tpm("2.0", storage, incoming.failures.append)
    tpm.is_incoming = True
    tpm.on_lock = lambda: incoming.told.append(tpm.has_lock)
    try:
        mine = Controller(tpm, on_shutdown=lambda: None, on_error=incoming.failures.append)
        request = ptm.SetStateBlob(state_flags=0, type=KINDS[0], data=blobs[KINDS[0]])
        storage.is_taken = True
        assert mine.handle(request) == ptm.Result(TpmResult.FAIL)
        storage.is_taken = False
        assert mine.handle(request) == ptm.Result(TpmResult.SUCCESS)
        assert incoming.told == [True]
        request = ptm.SetStateBlob(state_flags=0, type=KINDS[1], data=blobs[KINDS[1]])
        assert mine.handle(request) == ptm.Result(TpmResult.SUCCESS)
        tpm.power_on(delete_volatile=True)
        assert run(tpm, PCR_READ_16) == extended
    finally:
        put_away(tpm)


# --- outgoing


def test_the_lock_is_given_up_with_the_last_blob(storage, tpm, controller):
    controller.releases_lock = True
    started(tpm)
    blob_of(controller, KINDS[2])
    blob_of(controller, KINDS[0])
    blob_of(controller, KINDS[1])
    assert tpm.has_lock  # the saved state comes last
    blob_of(controller, KINDS[2])
    assert not tpm.has_lock
    assert tpm.told == [False]


def test_without_being_asked_to_it_keeps_the_lock(storage, tpm, controller):
    started(tpm)
    for kind in KINDS:
        blob_of(controller, kind)
    assert tpm.has_lock


def released(tpm, controller):
    controller.releases_lock = True
    started(tpm)
    run(tpm, PCR_EXTEND_16)
    for kind in KINDS:
        blob_of(controller, kind)


def test_who_gave_it_up_stores_nothing_at_the_end(storage, tpm, controller):
    released(tpm, controller)
    storage.stores.clear()
    storage.is_taken = True
    assert run(tpm, GET_RANDOM) == FAILURE
    tpm.shut_down()
    assert storage.stores == []


def test_the_next_command_takes_it_back_and_it_is_as_it_was(storage, tpm, controller):
    released(tpm, controller)
    storage.blobs["permall"] = b"what another one left, who gave up"
    extended = run(tpm, PCR_READ_16)
    assert result_of(extended) == 0
    assert extended[-32:] != bytes(32)
    assert tpm.told == [False, True]
    assert storage.blobs["permall"] != b"what another one left, who gave up"


def test_a_reset_takes_it_back(storage, tpm, controller):
    released(tpm, controller)
    storage.is_taken = True
    assert controller.handle(ptm.Init(flags=1)) == ptm.Result(TpmResult.FAIL)
    storage.is_taken = False
    assert controller.handle(ptm.Init(flags=1)) == ptm.Result(TpmResult.SUCCESS)
    assert tpm.has_lock


def test_lock_storage_tries_as_often_as_it_is_asked_to(storage, tpm, controller):
    released(tpm, controller)
    tries = []
    real = storage.lock

    def lock():
        tries.append(1)
        if len(tries) == 4:
            storage.is_taken = False
        real()

    storage.is_taken, storage.lock = True, lock
    assert controller.handle(ptm.LockStorage(retries=2)) == ptm.Result(TpmResult.FAIL)
    assert len(tries) == 3
    assert tpm.failures[-1].code is Code.STATE_LOCKED
    assert controller.handle(ptm.LockStorage(retries=5)) == ptm.Result(TpmResult.SUCCESS)
    assert len(tries) == 4
    assert controller.handle(ptm.LockStorage(retries=0)) == ptm.Result(TpmResult.SUCCESS)
    assert len(tries) == 4
