"""A TPM whose state cannot be stored: it fails, loses nothing, says so, and goes on when it can
(docs/decisions/0014)."""

import contextlib
import os
import resource
import shutil

import pytest
from faulty_disk import FaultyDisk
from memory_storage import MemoryStorage
from small_disks import IN_FAILURE, full, small_disk
from tpm_commands import (
    GET_RANDOM,
    HIERARCHY_CHANGE_AUTH,
    NV_DEFINE_COUNTER,
    NV_INCREMENT,
    NV_READ_COUNTER,
    PCR_EXTEND_16,
    PCR_READ_16,
    STARTUP_CLEAR,
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
from swtpm_svc.state.backend import PERMALL, SAVESTATE, VOLATILESTATE
from swtpm_svc.state.store import Store
from swtpm_svc.tpm import libtpms
from swtpm_svc.tpm.dynamic_launch import get_established, hash_data, hash_end, hash_start
from swtpm_svc.tpm.power import Power
from swtpm_svc.tpm.tpm import Tpm
from swtpm_svc.wire.tpm_header import HEADER

h = bytes.fromhex

RANDOM = {"2.0": GET_RANDOM, "1.2": TPM12_GET_RANDOM}
PCR_READ = {"2.0": PCR_READ_16, "1.2": TPM12_PCR_READ_10}
PCR_EXTEND = {"2.0": PCR_EXTEND_16, "1.2": TPM12_PCR_EXTEND_10}
#: TPM_PhysicalDisable, and TPM_GetCapability of the permanent flags, where it can be seen.
DISABLE = h("00c10000000a00000070")
FLAGS = h("00c10000001600000065 00000004 00000004 00000108")
#: TSC_PhysicalPresence: the command enabled, then presence asserted.
PRESENCE = (h("00c10000000c4000000a0020"), h("00c10000000c4000000a0008"))
STORING = {"2.0": NV_INCREMENT, "1.2": DISABLE}
START_POLICY_SESSION = h("80010000002b00000176 40000007 40000007 0010") + bytes(16) + h("0000 01 0010 000b")[:7]


def run(tpm, command):
    return tpm.execute(memoryview(bytearray(command)), HEADER.unpack_from(command)[2])


def done(tpm, command):
    response = run(tpm, command)
    assert result_of(response) == 0, response.hex()
    return response


def stored_value(tpm):
    """What STORING changes."""
    return counter_of(run(tpm, NV_READ_COUNTER)) if tpm.version == "2.0" else done(tpm, FLAGS)


@pytest.fixture(params=["2.0", "1.2"])
def version(request):
    return request.param


@pytest.fixture
def make_tpm():
    with contextlib.ExitStack() as made:

        def make(version, storage):
            failures, told = [], []
            tpm = Tpm(version, storage, failures.append)
            tpm.failures, tpm.told, tpm.on_failure = failures, told, told.append
            made.callback(put_away, tpm)
            return tpm

        yield make


def started(tpm):
    """Started, something in a PCR, and something stored."""
    tpm.power_on(delete_volatile=True)
    assert result_of(tpm.startup("clear")) == 0
    done(tpm, PCR_EXTEND[tpm.version])
    if tpm.version == "2.0":
        done(tpm, NV_DEFINE_COUNTER)
        done(tpm, NV_INCREMENT)
    else:
        for command in PRESENCE:
            done(tpm, command)
    return tpm


# --- disks that fail
# ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def limited(kind, value):
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))


@contextlib.contextmanager
def no_descriptors(_folder):
    free = os.dup(0)
    os.close(free)
    with limited(resource.RLIMIT_NOFILE, free):
        yield


@contextlib.contextmanager
def a_directory_in_the_previous_generation_s_place(folder):
    (previous,) = [f"{folder}/{name}" for name in os.listdir(folder) if name.endswith(".previous")]
    os.unlink(previous)
    os.makedirs(f"{previous}/something")
    yield
    shutil.rmtree(previous)


ON_A_SMALL_DISK = [full, no_descriptors, a_directory_in_the_previous_generation_s_place]
ON_A_SMALL_DISK.append(pytest.param(lambda _folder: limited(resource.RLIMIT_FSIZE, 100), id="file_size"))
ERRORS = [("EIO", operation) for operation in ("create", "write", "fsync", "rename", "unlink", "fsyncdir")]
ERRORS += [("EROFS", "create"), ("EDQUOT", "write"), ("ENOSPC", "fsync"), ("EACCES", "create")]


def fail_and_heal(tpm, folder, fault):
    """What the TPM is while `fault` is there, and afterwards."""
    version = tpm.version
    pcr, value, random = done(tpm, PCR_READ[version]), stored_value(tpm), done(tpm, RANDOM[version])
    session = done(tpm, START_POLICY_SESSION)[10:14] if version == "2.0" else None
    permall = contents(folder)
    with fault:
        assert run(tpm, STORING[version]) == IN_FAILURE[version]
        assert tpm.power is Power.FAILED
        assert [tpm.failure.heals, tpm.failure.cause] == [True, tpm.failures[0]]
        assert tpm.failure.cause.remedy
        for command in (PCR_READ[version], RANDOM[version], STORING[version], PCR_EXTEND[version]):
            assert run(tpm, command) == IN_FAILURE[version]
        assert (len(tpm.failures), len(tpm.told), tpm.healed) == (1, 1, 0), "it is told once"
    assert contents(folder) == permall, "what was acknowledged is what is stored"
    assert done(tpm, PCR_READ[version]) == pcr
    assert (tpm.power, tpm.failure, tpm.healed, tpm.told[1:]) == (Power.RUNNING, None, 1, [None])
    assert stored_value(tpm) == value, "what was not acknowledged has not happened"
    assert done(tpm, RANDOM[version]) != random
    if session:
        done(tpm, h("80010000000e00000189") + session)  # TPM2_PolicyGetDigest
        done(tpm, h("80010000000e00000165") + session)
    done(tpm, STORING[version])
    changed = stored_value(tpm)
    assert changed != value
    assert contents(folder) != permall
    tpm.power_on(delete_volatile=True)
    assert result_of(tpm.startup("clear")) == 0
    assert stored_value(tpm) == changed


def contents(folder):
    (permall,) = [
        f"{folder}/{name}" for name in os.listdir(folder) if name.endswith(".permall") and not name.startswith("TMP")
    ]
    with open(permall, "rb") as file:
        return file.read()


@pytest.mark.needs("root")
@pytest.mark.parametrize("fault", ON_A_SMALL_DISK)
def test_what_cannot_be_stored_has_not_happened_and_it_goes_on_when_it_can(make_tpm, tmp_path, version, fault):
    with small_disk(tmp_path), Store.open(str(tmp_path), version) as store:
        tpm = started(make_tpm(version, store))
        fail_and_heal(tpm, tmp_path, fault(tmp_path))
        tpm.stop()


@pytest.fixture
def faulty_disk(tmp_path):
    disk = FaultyDisk(tmp_path)
    yield disk
    disk.close()


@pytest.mark.needs("root", "fuse")
@pytest.mark.parametrize(("error", "operation"), ERRORS)
def test_a_disk_with_an_error_in_any_step(make_tpm, faulty_disk, version, error, operation):
    @contextlib.contextmanager
    def fault():
        faulty_disk.fail(error, operation)
        yield
        faulty_disk.mend()

    with Store.open(faulty_disk.path, version) as store:
        tpm = started(make_tpm(version, store))
        fail_and_heal(tpm, faulty_disk.path, fault())
        tpm.stop()


# --- commands of all kinds
# ------------------------------------------------------------------------------------------------


FULL = VtpmError(Code.STATE_FULL, "no space", remedy="make room")
CHANGE_AUTH_LOCKOUT = with_session(0x129, h("4000000a"), h("0003") + b"abc")
COMMANDS = {
    "2.0": [
        NV_DEFINE_COUNTER,
        NV_INCREMENT,
        HIERARCHY_CHANGE_AUTH,
        CHANGE_AUTH_LOCKOUT,
        with_session(0x127, h("4000000c"), h("01")),  # ClearControl
        with_session(0x126, h("4000000c")),  # Clear
        with_session(0x125, h("4000000c")),  # ChangePPS, on the worker
        h("80010000000c000001450000"),  # Shutdown
    ],
    "1.2": [TPM12_SAVE_STATE, DISABLE, h("00c10000000b00000072 01"), h("00c10000000a0000005d")],
}


@pytest.mark.parametrize(
    ("version", "command"),
    [(version, command) for version, commands in COMMANDS.items() for command in commands],
    ids=lambda value: value if isinstance(value, str) else value[6:10].hex(),
)
def test_each_command_that_stores_something_can_be_repeated(make_tpm, version, command):
    """As if it had not been sent: the response to the second is what it would have been to the first."""
    storage = MemoryStorage()
    tpm = started(make_tpm(version, storage))
    if command == NV_DEFINE_COUNTER:
        command = command.replace(h("01500000"), h("01500001"))
    before = dict(storage.blobs)
    storage.failure = FULL
    assert run(tpm, command) == IN_FAILURE[version]
    assert storage.blobs == before
    assert tpm.failures == [FULL]
    storage.failure = None
    done(tpm, command)
    assert (tpm.healed, storage.blobs == before) == (1, False)


def test_a_startup_that_cannot_be_stored_leaves_it_not_started(make_tpm):
    storage = MemoryStorage()
    tpm = make_tpm("2.0", storage)
    tpm.power_on(delete_volatile=True)
    storage.failure = FULL
    assert run(tpm, STARTUP_CLEAR) == IN_FAILURE["2.0"]
    storage.failure = None
    assert result_of(run(tpm, GET_RANDOM)) == 0x100  # TPM_RC_INITIALIZE
    done(tpm, STARTUP_CLEAR)


def test_a_counted_failure_of_an_authorization_is_not_lost(make_tpm):
    """It answers what it would have, since that is as true as before, and executes nothing more until the count is
    stored."""
    storage = MemoryStorage()
    tpm = started(make_tpm("2.0", storage))
    done(tpm, CHANGE_AUTH_LOCKOUT)
    stores = len(storage.stores)
    storage.failure = FULL
    wrong = with_session(0x139, h("4000000a"), auth=h("40000009 0000 00 0005") + b"wrong")  # DictionaryAttackLockReset
    response = run(tpm, wrong)
    assert response == IN_FAILURE["2.0"]  # this command may change what is stored: it has not happened
    storage.failure = None
    assert result_of(run(tpm, wrong)) & 0x8F == 0x8E  # TPM_RC_AUTH_FAIL
    assert len(storage.stores) > stores
    assert result_of(run(tpm, wrong)) == 0x921  # TPM_RC_LOCKOUT: once is enough for lockout


def hmac_key(tpm):
    """An HMAC key with the password "hello", under dictionary attack protection."""
    template = h("0008 000b 00040060 0000 0005 000b 0000")
    public = len(template).to_bytes(2, "big") + template
    return done(
        tpm, with_session(0x131, h("40000007"), h("0009 0005") + b"hello" + h("0000") + public + h("0000 00000000"))
    )[10:14]


def hmac(handle, password):
    return with_session(0x155, handle, h("0003") + b"abc" + h("000b"), auth=h("40000009 0000 00 0005") + password)


def test_an_authorization_that_fails_by_the_way_is_counted_when_it_can_be(make_tpm):
    """TPM2_HMAC stores nothing, only the count of failed authorizations: what it answers stays true."""
    storage = MemoryStorage()
    tpm = started(make_tpm("2.0", storage))
    key = hmac_key(tpm)
    run(tpm, hmac(key, b"hello"))  # it first writes down that such an object is in use
    done(tpm, hmac(key, b"hello"))
    storage.failure = FULL
    before = dict(storage.blobs)
    assert result_of(run(tpm, hmac(key, b"wrong"))) & 0xBF == 0x8E  # TPM_RC_AUTH_FAIL
    assert (tpm.power, tpm.failures, storage.blobs) == (Power.FAILED, [FULL], before)
    assert run(tpm, hmac(key, b"hello")) == IN_FAILURE["2.0"]
    storage.failure = None
    done(tpm, hmac(key, b"hello"))
    assert storage.blobs != before
    counter = done(tpm, h("8001000000160000017a 00000006 0000020e 00000001"))[-4:]
    assert counter == h("00000001")
    libtpms.terminate()  # the plug: what was counted is on the disk
    again = make_tpm("2.0", storage)
    again.power_on(delete_volatile=True)
    assert result_of(again.startup("clear")) == 0
    assert done(again, h("8001000000160000017a 00000006 0000020e 00000001"))[-4:] >= counter


# --- power
# ------------------------------------------------------------------------------------------------------------------


def test_a_failed_tpm_is_handed_over_with_its_pcrs(make_tpm):
    """Its successor is the TPM of the last acknowledged command too; it has failed until that can be stored."""
    storage = MemoryStorage()
    tpm = started(make_tpm("2.0", storage))
    pcr, value = done(tpm, PCR_READ_16), stored_value(tpm)
    storage.failure = FULL
    run(tpm, NV_INCREMENT)
    snapshot = tpm.snapshot()
    storage.failure = None
    tpm.shut_down()  # there is room for a moment: what is stored says that it was shut down
    storage.failure = FULL
    successor = make_tpm("2.0", storage)
    successor.resume(snapshot)
    assert (successor.power, successor.failure.cause) == (Power.FAILED, FULL)
    assert run(successor, GET_RANDOM) == IN_FAILURE["2.0"]
    storage.failure = None
    assert done(successor, PCR_READ_16) == pcr
    assert stored_value(successor) == value


def test_a_reset_is_a_reset_also_of_a_failed_tpm(make_tpm, version):
    storage = MemoryStorage()
    tpm = started(make_tpm(version, storage))
    fresh = bytes(20 if version == "1.2" else 32)
    storage.failure = FULL
    run(tpm, STORING[version])
    tpm.power_on(delete_volatile=False)
    assert (tpm.power, tpm.failure) == (Power.RUNNING, None)
    storage.failure = None
    assert result_of(tpm.startup("clear")) == 0
    assert done(tpm, PCR_READ[version]).endswith(fresh)
    tpm.stop()
    assert (tpm.power, tpm.failure) == (Power.STOPPED, None)


def test_the_volatile_state_of_a_failed_tpm_is_not_stored_in_part(make_tpm):
    storage = MemoryStorage()
    tpm = started(make_tpm("2.0", storage))
    storage.failure = FULL
    with pytest.raises(VtpmError, match="no space"):
        tpm.store_volatile()
    assert tpm.is_running, "it needs no volatile state on a disk to run"
    assert not tpm.unstored
    storage.failure = None
    done(tpm, GET_RANDOM)
    assert VOLATILESTATE not in storage.blobs


def test_operations_that_are_no_commands_fail_alike(make_tpm):
    """TPM_IO_Hash_End of a TPM 1.2 stores tpmEstablished."""
    storage = MemoryStorage()
    tpm = started(make_tpm("1.2", storage))
    storage.failure = FULL
    results = [hash_start(tpm), hash_data(tpm, b"x"), hash_end(tpm)]
    assert any(results)
    assert (tpm.power, tpm.failures) == (Power.FAILED, [FULL])
    storage.failure = None
    done(tpm, TPM12_PCR_READ_10)
    assert tpm.healed == 1


def test_two_files_that_belong_together_are_undone_together(make_tpm):
    """The first could be stored, the second not: the first is stored as it was before."""

    class HalfFull(MemoryStorage):
        def store(self, name, payload):
            if name == SAVESTATE and self.failure is not None:
                raise self.failure
            self.stores.append(name)
            self.blobs[name] = payload

    storage = HalfFull()
    tpm = started(make_tpm("1.2", storage))
    tpm._storage.store(PERMALL, b"torn")  # stands for a command that stores both
    storage.failure = FULL
    assert run(tpm, TPM12_SAVE_STATE) == IN_FAILURE["1.2"]
    assert storage.blobs[PERMALL] == b"torn"
    storage.failure = None
    done(tpm, TPM12_GET_RANDOM)
    assert storage.blobs[PERMALL] != b"torn"
    assert SAVESTATE not in storage.blobs


# --- failure mode of libtpms itself
# ------------------------------------------------------------------------------------------


def put_into_failure_mode(tpm, monkeypatch):
    """What libtpms does when it is told that something was not stored, which this program never does."""

    def refuse(_name, _payload):
        raise FULL

    with monkeypatch.context() as patch:
        patch.setattr(tpm._storage, "store", refuse)
        patch.setattr(tpm, "finish", lambda response: (libtpms.take_failure(), response)[1])
        assert result_of(run(tpm, STORING[tpm.version])) != 0


def test_libtpms_own_failure_mode_is_a_failure_that_does_not_heal(make_tpm, version, monkeypatch):
    storage = MemoryStorage()
    tpm = started(make_tpm(version, storage))
    put_into_failure_mode(tpm, monkeypatch)
    for _ in range(2):
        assert run(tpm, RANDOM[version]) == IN_FAILURE[version]
        assert (tpm.power, tpm.failure.heals, tpm.failure.cause.code) == (Power.FAILED, False, Code.TPM_FAILED)
    assert (len(tpm.failures), len(tpm.told)) == (1, 1)
    test_result = {"2.0": h("80010000000a0000017c"), "1.2": h("00c10000000a00000054")}[version]
    assert result_of(run(tpm, test_result)) == 0, "it may say why"
    assert (tpm.snapshot().power, tpm.snapshot().volatile) == ("off", b"")
    tpm.power_on(delete_volatile=True)
    assert result_of(tpm.startup("clear")) == 0
    assert (tpm.power, tpm.failure, tpm.healed) == (Power.RUNNING, None, 0)


def test_it_has_power_while_it_goes_back_and_fails_for_good_if_it_cannot(make_tpm, version, monkeypatch):
    """libtpms has no TPM then: one of 2.0 gave no response at all, a 1.2 ended the service by a signal."""
    storage = MemoryStorage()
    tpm = started(make_tpm(version, storage))
    seen = []

    def refuse(_before):
        seen.append(tpm.is_powered)
        raise VtpmError(Code.HANDOVER_REFUSED, "refused")

    monkeypatch.setattr(tpm, "_restore", refuse)
    storage.failure = VtpmError(Code.STATE_FULL, "full")
    assert run(tpm, STORING[version]) == IN_FAILURE[version]
    assert seen == [True], "who connects by mssim meanwhile must not take it for one that is off, and reset it"
    storage.failure = None
    assert run(tpm, RANDOM[version]) == IN_FAILURE[version]
    assert not get_established(tpm)
    assert (tpm.power, tpm.failure.heals, tpm.snapshot().power) == (Power.FAILED, False, "off")
    tpm.power_on(delete_volatile=True)
    assert result_of(tpm.startup("clear")) == 0
    done(tpm, RANDOM[version])


@pytest.mark.parametrize(
    ("sequence", "results"),
    [
        ("d", [0x1A]),
        ("e", [0x1A]),
        ("sede", [0, 0, 0x1A, 0x1A]),
        ("ssde", [0, 9, 0, 0]),
        ("sdede", [0, 0, 0, 0x1A, 0x1A]),
    ],
)
def test_a_hash_sequence_out_of_order_does_not_end_a_tpm_1_2(make_tpm, sequence, results):
    """libtpms 0.9.2 gives these results too, and is in failure mode then."""
    tpm = started(make_tpm("1.2", MemoryStorage()))
    steps = {"s": hash_start, "d": lambda tpm: hash_data(tpm, b"x"), "e": hash_end}
    assert [steps[step](tpm) for step in sequence] == results
    done(tpm, TPM12_GET_RANDOM)
    assert [hash_start(tpm), hash_data(tpm, b"x"), hash_end(tpm)] == [0, 0, 0]
    tpm.power_on(delete_volatile=True)
    assert [hash_start(tpm), hash_data(tpm, b"x"), hash_end(tpm)] == [0x26, 0x1A, 0x1A]  # TPM_INVALID_POSTINIT
    assert result_of(tpm.startup("clear")) == 0


def test_an_error_that_is_no_failure_mode_is_none(make_tpm):
    tpm = started(make_tpm("1.2", MemoryStorage()))
    assert result_of(run(tpm, h("00c10000000a0000007c"))) != 0  # TPM_ReadPubek without its nonce
    assert tpm.is_running


def test_libtpms_prints_nothing(make_tpm, version, monkeypatch, capfd):
    tpm = started(make_tpm(version, MemoryStorage()))
    monkeypatch.setitem(STORING, "2.0", with_session(0x129, h("40000001"), h("0007") + b"hunter2"))
    put_into_failure_mode(tpm, monkeypatch)
    run(tpm, RANDOM[version])
    assert capfd.readouterr() == ("", "")
