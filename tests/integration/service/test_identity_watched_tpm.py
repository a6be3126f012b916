"""The eye on the endorsement keys, in this process: what it does to the TPM that it looks at, and when it does not look."""

import threading
import time

import pytest
from tpm_commands import result_of, with_session
from tpm_service import Service

from swtpm_svc.provision import subject_public_key
from swtpm_svc.provision.ek_templates import ENDORSEMENT_KEYS
from swtpm_svc.provision.ownership import PROBE, connect, create_endorsement_key
from swtpm_svc.service.identity.identity_record import Record
from swtpm_svc.service.identity.identity_watch import Chores, IdentityWatch
from swtpm_svc.tpm import libtpms
from swtpm_svc.tpm.executor import Executor
from swtpm_svc.wire import tpm2
from swtpm_svc.wire.tpm_header import ST_NO_SESSIONS, TAG_RQU_COMMAND, encode_command


@pytest.fixture(params=["2.0", "1.2"])
def version(request):
    return request.param


SHUTDOWN_STATE = encode_command(ST_NO_SESSIONS, 0x145, b"\0\1")

#: TPM2_CreatePrimary in the null hierarchy, of a key on P-256: quickly made, and left where it is.
CREATE_ECC = with_session(
    0x131, bytes.fromhex("40000007"), tpm2.encode_create_primary(ENDORSEMENT_KEYS["ecc-p256"].template)
)


@pytest.mark.parametrize("exponent", ["", "010001"])
def test_the_key_of_a_tpm_1_2_is_found_in_its_state(exponent):
    """Whoever has made it: with the exponent said, as some tools do, or left out; and after the storage root key has
    come."""
    one = WatchedTpm("1.2")
    assert one.tpm.startup("clear")[6:10] == bytes(4)
    size = len(bytes.fromhex(exponent))
    parms = f"00000001 0003 0001 {12 + size:08x} 00000800 00000002 {size:08x} {exponent}"
    command = encode_command(TAG_RQU_COMMAND, 0x78, bytes(20) + bytes.fromhex(parms))
    assert result_of(one.execute(command)) == 0
    connected = connect(one.execute)
    key = connected.read_pubek()
    one.watch.check()
    assert one.watch.describe()["keys"] == {"rsa2048": subject_public_key.fingerprint(key)}
    connected.take_ownership(bytes(20))
    one.watch.check()
    assert one.watch.describe() == {
        "keys": {"rsa2048": subject_public_key.fingerprint(key)},
        "change": None,
        "clones": [],
    }
    one.close()


def test_it_waits_for_a_long_command():
    """The TPM does one thing at a time: while the worker has it, the loop does not ask it anything."""
    posted, order, gate = [], [], threading.Event()
    executor = Executor(posted.append)
    executor.submit(lambda: order.append(gate.wait(30)), lambda _result: order.append("answered"))
    chores = Chores(executor)
    chores.with_tpm(lambda: order.append("looked"))
    assert order == []
    gate.set()
    for _ in range(2):
        executor.join()
        posted.pop()()
    assert sorted(order, key=str) == [True, "answered", "looked"]
    chores.with_tpm(lambda: order.append("looked"))
    assert order[-1] == "looked"
    assert len(order) == 4


class WatchedTpm(Service):
    """A TPM in this process with a watch on it."""

    def __init__(self, version):
        super().__init__(version, post=None)
        self.start(startup=None)
        self.watch = IdentityWatch(self.tpm, self, self)

    def close(self):
        super().close()
        assert self.events.failures == []

    def load(self):
        return self.storage.blobs.get("identity", Record({}))

    def save(self, record):
        self.storage.blobs["identity"] = record

    def log(self, level, message, **_fields):
        assert level == "debug", message


@pytest.fixture
def watched(version):
    one = WatchedTpm(version)
    yield one
    one.close()


def test_no_client_notices(watched, version):
    """Nothing in the TPM's memory differs but what time alone changes; nothing is stored; and what was shut down stays
    so."""
    tpm = watched.tpm
    watched.watch.check()
    assert tpm.startup("clear")[6:10] == bytes(4)  # the one before has not started it
    connected = connect(watched.execute)
    if version == "1.2":
        connected.create_endorsement_key()
    else:
        for key in ("rsa2048", "ecc-p384"):
            create_endorsement_key(connected, ENDORSEMENT_KEYS[key])
    stores, last = len(watched.storage.stores), tpm._last
    watched.watch.check()  # the first one leaves the handle of the last key in a place for objects that is free
    changed = differing(tpm, watched.watch.check)
    if version == "1.2":
        assert changed == set()
    else:
        # the clock goes on with each command that a TPM executes; its numbers are big-endian, and may carry
        clocks = set().union(*(differing(tpm, lambda: tpm.ask(PROBE)) for _ in range(100)))
        assert changed <= {place - bytes_before for place in clocks for bytes_before in (0, 1, 2)}
    assert set(watched.watch.describe()["keys"]) == ({"rsa2048"} if version == "1.2" else {"rsa2048", "ecc-p384"})
    assert len(watched.storage.stores) == stores
    assert tpm._last is last


def differing(tpm, action):
    """Where the volatile state is another one after it."""
    before = libtpms.volatile_state()
    time.sleep(0.003)  # the clock goes on, so that what shows it is another in any case
    action()
    return {place for place, (one, other) in enumerate(zip(before, libtpms.volatile_state())) if one != other}


def test_a_tpm_that_was_shut_down_is_not_asked(watched, version):
    """A TPM2_Shutdown is undone by the next command, and a TPM_SaveState is made void."""
    tpm = watched.tpm
    assert tpm.startup("clear")[6:10] == bytes(4)
    connected = connect(watched.execute)
    if version == "1.2":
        connected.create_endorsement_key()
        assert result_of(watched.execute(encode_command(TAG_RQU_COMMAND, 0x98))) == 0
        watched.watch.check()
        assert "savestate" in watched.storage.blobs
        assert watched.watch.describe()["keys"]
        return
    create_endorsement_key(connected, ENDORSEMENT_KEYS["ecc-p256"])
    assert result_of(watched.execute(SHUTDOWN_STATE)) == 0
    watched.watch.check()
    assert watched.watch.describe() is None
    tpm.stop()
    tpm.power_on(delete_volatile=True)
    assert result_of(tpm.startup("state")) == 0
    watched.watch.check()
    assert set(watched.watch.describe()["keys"]) == {"ecc-p256"}


def test_a_tpm_without_room_for_one_more_object_is_not_judged(watched, version):
    if version == "1.2":
        return  # it is not asked
    tpm = watched.tpm
    assert tpm.startup("clear")[6:10] == bytes(4)
    create_endorsement_key(connect(watched.execute), ENDORSEMENT_KEYS["ecc-p256"])
    watched.watch.check()
    known = watched.watch.describe()
    while result_of(watched.execute(CREATE_ECC)) == 0:
        pass
    watched.watch.check()
    assert watched.watch.describe() == known
