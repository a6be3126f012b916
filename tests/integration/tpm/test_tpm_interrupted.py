"""What is left behind: the locality after a command at another one, and whether an end of power interrupts anything.

TPM2_Shutdown is sent where the power goes from a TPM that was started, unless its volatile state of that very moment
is stored, or its client has just sent one.
"""

import select
import socket
import time

import pytest
from memory_storage import MemoryStorage
from tpm_commands import (
    GET_RANDOM,
    HIERARCHY_CHANGE_AUTH,
    PCR_EXTEND_16,
    PCR_READ_16,
    STARTUP_CLEAR,
    TPM12_GET_RANDOM,
    result_of,
)

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.state.encryption import Keys, StateKey
from swtpm_svc.tpm import dynamic_launch, libtpms
from swtpm_svc.tpm.controller import Controller
from swtpm_svc.tpm.power import Power
from swtpm_svc.tpm.tpm import Tpm
from swtpm_svc.wire import ptm
from swtpm_svc.wire.tpm_header import HEADER

h = bytes.fromhex

SHUTDOWN_CLEAR = h("80010000000c000001450000")
LOCALITY = 0x907  # TPM_RC_LOCALITY
#: PCR 20 may be extended from localities 1 to 3 only (PC Client Platform Profile, table of PCR attributes).
PCR_EXTEND_20 = PCR_EXTEND_16.replace(h("0000001000000009"), h("0000001400000009"))
EXTEND = 0x182


@pytest.fixture
def make_tpm():
    made = []

    def make(storage, version="2.0"):
        made.append(Tpm(version, storage, lambda _failure: None))
        return made[-1]

    yield make
    for tpm in made:
        tpm.shut_down()
    libtpms.terminate()
    libtpms.set_locality(0)


@pytest.fixture
def storage():
    return MemoryStorage()


@pytest.fixture
def tpm(make_tpm, storage):
    """It was started, and has an index of volatile state in storage that is out of date."""
    tpm = make_tpm(storage)
    tpm.power_on(delete_volatile=True)
    assert result_of(tpm.startup("clear")) == 0
    return tpm


def run(tpm, command):
    return tpm.execute(memoryview(bytearray(command)), HEADER.unpack_from(command)[2])


@pytest.mark.parametrize("others", [0, 2])
@pytest.mark.parametrize("at", ["execute_at", "begin_at"])
def test_a_locality_that_was_asked_for_one_command_is_that_of_no_other(tpm, others, at):
    tpm.set_locality(others)
    command = memoryview(bytearray(PCR_EXTEND_20))
    for one, result in ((1, 0), (4, LOCALITY), (0, LOCALITY), (3, 0)):
        assert result_of(getattr(tpm, at)(one, command, EXTEND)) == result
        assert result_of(run(tpm, PCR_EXTEND_20)) == (0 if others else LOCALITY)
        assert tpm.locality == others


@pytest.mark.parametrize("others", [0, 2])
def test_a_locality_that_clears_the_flag_is_that_of_no_command(tpm, others):
    tpm.set_locality(others)
    for one, result in ((2, 0x3D), (3, 0)):  # TPM_BAD_LOCALITY
        assert dynamic_launch.reset_established(tpm, one) == result
        assert result_of(run(tpm, PCR_EXTEND_20)) == (0 if others else LOCALITY)


def test_a_successor_has_the_locality(make_tpm, storage, tpm):
    tpm.set_locality(2)
    snapshot = tpm.snapshot()
    tpm.shut_down()
    libtpms.set_locality(0)
    successor = make_tpm(storage)
    successor.resume(snapshot)
    assert successor.locality == 2
    assert result_of(run(successor, PCR_EXTEND_20)) == 0


def is_shut_down_at(end, storage):
    """Does `end` send a TPM2_Shutdown? That stores the permanent state, and nothing else does then."""
    storage.stores.clear()
    end()
    assert set(storage.stores) <= {"permall"}
    return storage.stores == ["permall"]


def ends(tpm):
    return {"stop": tpm.stop, "shut_down": tpm.shut_down, "reset": lambda: tpm.power_on(delete_volatile=True)}


@pytest.mark.parametrize("end", ["stop", "shut_down"])
def test_nothing_is_interrupted_when_the_volatile_state_was_just_stored(tpm, storage, end):
    tpm.store_volatile()
    assert not is_shut_down_at(ends(tpm)[end], storage)


def plain(tpm):
    run(tpm, GET_RANDOM)


def extend(tpm):
    assert result_of(run(tpm, PCR_EXTEND_16)) == 0


def store(tpm):
    assert result_of(run(tpm, HIERARCHY_CHANGE_AUTH)) == 0


def serve_on_a_socket(tpm):
    """The short way of the data channel."""
    ours, theirs = socket.socketpair()
    epoll = select.epoll()
    epoll.register(ours, select.EPOLLIN)
    ours.setblocking(False)
    try:
        theirs.sendall(PCR_READ_16)
        executed, left = tpm.serve_stream(ours.fileno(), epoll.fileno(), time.monotonic() + 0.05)
        assert (executed, left) == (1, None)
        assert result_of(theirs.recv(4096)) == 0
    finally:
        epoll.close()
        ours.close()
        theirs.close()


def hash_sequence(tpm):
    assert dynamic_launch.hash_start(tpm) == dynamic_launch.hash_data(tpm, b"abc") == dynamic_launch.hash_end(tpm) == 0


def clear_the_flag(tpm):
    assert dynamic_launch.reset_established(tpm, 3) == 0


WORK = [plain, extend, store, serve_on_a_socket, hash_sequence, clear_the_flag]


@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("before", ["stored", "shut down"])
def test_whatever_was_done_since_is_interrupted(tpm, storage, work, before):
    if before == "stored":
        tpm.store_volatile()
    else:
        assert result_of(run(tpm, SHUTDOWN_CLEAR)) == 0
    work(tpm)
    if before == "shut down" and work in (hash_sequence, clear_the_flag):
        return  # no commands: TPM2_Shutdown is still the last one
    assert is_shut_down_at(tpm.stop, storage)


def test_what_only_asks_interrupts_nothing(tpm, storage):
    tpm.store_volatile()
    assert result_of(tpm.ask(GET_RANDOM)) == 0
    assert not is_shut_down_at(tpm.stop, storage)


def test_a_shutdown_that_was_refused_is_none(tpm, storage):
    assert result_of(run(tpm, h("80010000000c000001450077"))) == 0x1C4  # TPM_RC_VALUE of parameter 1
    assert is_shut_down_at(tpm.stop, storage)


def test_a_volatile_state_that_could_not_be_stored_does_not_count(tpm, storage):
    storage.failure = VtpmError(Code.STATE_FULL, "no space")
    with pytest.raises(VtpmError, match="no space"):
        tpm.store_volatile()
    storage.failure = None
    assert is_shut_down_at(tpm.stop, storage)
    assert set(storage.blobs) == {"permall"}


@pytest.mark.parametrize("delete", [False, True])
def test_a_tpm_that_was_resumed_is_shut_down_unless_it_can_be_resumed_again(tpm, storage, delete):
    """With the volatile state deleted, what was resumed would be lost with the power."""
    tpm.store_volatile()
    tpm.power_on(delete_volatile=delete)
    assert is_shut_down_at(tpm.stop, storage) is delete
    assert ("volatilestate" in storage.blobs) is not delete


def test_a_new_tpm_is_not_taken_for_a_resumed_one(make_tpm, storage):
    tpm = make_tpm(storage)
    tpm.power_on(delete_volatile=False)
    run(tpm, STARTUP_CLEAR)
    assert is_shut_down_at(tpm.stop, storage)


def test_a_reset_after_a_shutdown_is_no_shutdown_of_what_follows(tpm, storage):
    assert result_of(run(tpm, SHUTDOWN_CLEAR)) == 0
    assert not tpm.can_be_asked
    tpm.power_on(delete_volatile=True)
    assert tpm.can_be_asked
    assert result_of(tpm.startup("clear")) == 0
    assert is_shut_down_at(tpm.stop, storage)


@pytest.mark.parametrize("state", ["stored", "shut down", "at work"])
def test_a_successor_knows_what_its_predecessor_did_last(make_tpm, storage, tpm, state):
    if state == "stored":
        tpm.store_volatile()
    elif state == "shut down":
        run(tpm, SHUTDOWN_CLEAR)
    else:
        run(tpm, GET_RANDOM)
    snapshot = tpm.snapshot()
    tpm.shut_down()
    successor = make_tpm(storage)
    successor.resume(snapshot)
    assert is_shut_down_at(successor.stop, storage) is (state == "at work")


class Refusing:
    """libtpms, whose start gives an error when it has done half of its work."""

    def __init__(self, lib):
        self._lib = lib

    def __getattr__(self, name):
        return getattr(self._lib, name)

    def TPMLIB_MainInit(self):
        self._lib.TPMLIB_MainInit()
        return 9  # TPM_FAIL


@pytest.mark.parametrize("version", ["1.2", "2.0"])
def test_a_state_that_only_the_start_refuses_is_refused_too(make_tpm, storage, monkeypatch, version):
    """TPMLIB_ValidateState has looked at it and said yes; TPMLIB_MainInit does not."""
    tpm = make_tpm(storage, version)
    tpm.power_on(delete_volatile=True)
    tpm.stop()
    before = dict(storage.blobs)
    with monkeypatch.context() as patched:
        patched.setattr(libtpms, "lib", Refusing(libtpms.lib))
        with pytest.raises(VtpmError, match="permall: libtpms does not accept it") as caught:
            tpm.power_on(delete_volatile=True)
    assert caught.value.code is Code.STATE_CORRUPT
    assert tpm.power is Power.STOPPED
    command = TPM12_GET_RANDOM if version == "1.2" else GET_RANDOM
    assert len(run(tpm, command)) == 10
    assert storage.blobs == before
    tpm.blobs.offer("permall", before["permall"])  # which libtpms takes only while it has no TPM
    tpm.power_on(delete_volatile=True)
    assert result_of(tpm.startup("clear")) == 0


def test_a_handover_that_only_the_start_refuses_leaves_the_tpm_off(make_tpm, storage, tpm, monkeypatch):
    snapshot = tpm.snapshot()
    tpm.shut_down()
    successor = make_tpm(storage)
    with monkeypatch.context() as patched:
        patched.setattr(libtpms, "lib", Refusing(libtpms.lib))
        with pytest.raises(VtpmError) as caught:
            successor.resume(snapshot)
    assert caught.value.code is Code.HANDOVER_REFUSED
    assert not successor.is_powered
    successor.power_on(delete_volatile=True)
    assert result_of(successor.startup("clear")) == 0


def test_whoever_waits_for_a_tpm_that_answers_is_told(make_tpm, storage):
    """When it was started, or goes on; not when it has power and no more."""
    tpm = make_tpm(storage)
    started = []
    tpm.on_started = lambda: started.append(1)
    tpm.power_on(delete_volatile=True)
    assert started == []
    assert result_of(tpm.startup("clear")) == 0
    assert len(started) == 1
    tpm.store_volatile()
    tpm.power_on(delete_volatile=False)
    assert len(started) == 2
    snapshot = tpm.snapshot()
    tpm.shut_down()
    successor = make_tpm(storage)
    successor.on_started = lambda: started.append(1)
    successor.resume(snapshot)
    assert len(started) == 3


def test_a_successor_gives_other_random_bytes_than_its_predecessor_after_the_snapshot(make_tpm, storage, tpm):
    snapshot = tpm.snapshot()
    seen = {run(tpm, GET_RANDOM)}
    for _ in range(5):
        tpm.shut_down()
        tpm = make_tpm(storage)
        tpm.resume(snapshot)
        seen.add(run(tpm, GET_RANDOM))
    assert len(seen) == 6


def test_so_does_a_tpm_whose_command_could_not_be_stored(tpm, storage):
    """It goes back to what it was before that command."""
    seen = set()
    for _ in range(5):
        storage.failure = VtpmError(Code.STATE_FULL, "no space")
        assert result_of(run(tpm, HIERARCHY_CHANGE_AUTH)) == 0x101
        storage.failure = None
        seen.add(run(tpm, GET_RANDOM))
    assert len(seen) == 5


@pytest.mark.parametrize("version", ["1.2", "2.0"])
@pytest.mark.parametrize("name", ["permall", "volatilestate"])
def test_a_damaged_state_is_refused_by_its_name_before_anything_is_stored(make_tpm, storage, version, name):
    tpm = make_tpm(storage, version)
    tpm.power_on(delete_volatile=True)
    assert result_of(tpm.startup("clear")) == 0
    tpm.store_volatile()
    tpm.stop()
    whole = dict(storage.blobs)
    storage.blobs[name] = whole[name][: len(whole[name]) // 2]
    before = dict(storage.blobs)
    storage.stores.clear()
    with pytest.raises(VtpmError, match=f"^{name}: libtpms does not accept it") as caught:
        tpm.power_on(delete_volatile=True)
    assert caught.value.code is Code.STATE_CORRUPT
    assert (storage.blobs, storage.stores, tpm.power) == (before, [], Power.STOPPED)
    storage.blobs = whole
    tpm.power_on(delete_volatile=True)


def test_an_encrypted_blob_that_is_asked_for_in_pieces_is_one_blob(tpm):
    """Encrypted once more it is another one, whose end does not fit the beginning."""
    keys = Keys(state=StateKey(bytes(range(16))))
    controller = Controller(tpm, on_shutdown=lambda: None, on_error=lambda _error: None, keys=keys)

    def ask(kind, offset, flags=0):
        return controller.handle(ptm.GetStateBlob(flags, kind, offset))

    first = ask(ptm.BlobType.PERMANENT, 0)
    assert first.state_flags == ptm.STATE_FLAG_ENCRYPTED
    assert ask(ptm.BlobType.PERMANENT, 1) == ask(ptm.BlobType.PERMANENT, 4000) == first
    again = ask(ptm.BlobType.PERMANENT, 0)
    assert again.data != first.data
    assert ask(ptm.BlobType.VOLATILE, 100).data not in (first.data, again.data)
    in_clear = ask(ptm.BlobType.PERMANENT, 100, ptm.STATE_FLAG_DECRYPTED)
    assert tpm.blobs.get("permall") in in_clear.data
