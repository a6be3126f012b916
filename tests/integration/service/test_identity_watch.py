"""The daemon's eye on the endorsement keys: real daemons on state that is swapped, lost and damaged between their
starts."""

import json
import os
import re
import shutil
import stat
import subprocess
import threading
import time

import pytest
from daemon_process import DaemonProcess
from swtpm_process import Swtpm
from tpm_commands import STARTUP_CLEAR, result_of, with_session
from tpm_service import Service

from swtpm_svc.cli.vtpmctl import doctor, entry
from swtpm_svc.cli.vtpmctl.host import Places
from swtpm_svc.provision import subject_public_key
from swtpm_svc.provision.ek_templates import ENDORSEMENT_KEYS
from swtpm_svc.provision.ownership import PROBE, connect, create_endorsement_key
from swtpm_svc.service.identity import clones
from swtpm_svc.service.identity.identity_record import Record
from swtpm_svc.service.identity.identity_watch import Chores, IdentityWatch
from swtpm_svc.tpm import libtpms
from swtpm_svc.tpm.executor import Executor
from swtpm_svc.wire import tpm2
from swtpm_svc.wire.tpm_header import ST_NO_SESSIONS, TAG_RQU_COMMAND, encode_command

SHUTDOWN_STATE = encode_command(ST_NO_SESSIONS, 0x145, b"\0\1")
#: TPM2_CreatePrimary in the null hierarchy, of a key on P-256: quickly made, and left where it is.
CREATE_ECC = with_session(
    0x131, bytes.fromhex("40000007"), tpm2.encode_create_primary(ENDORSEMENT_KEYS["ecc-p256"].template)
)
NOTICE = re.compile(
    r"notice: this is another TPM than before, or it was cleared: (.*)\. What .* BitLocker .* LUKS .*: .* the old files of (.*)"
)
FORGED = "0" * 64


def record_of(keys, **more):
    return json.dumps({"format": 1, "keys": keys, "storage": None, "change": None, **more})


class Instance:
    """A daemon, its record, and the TPM's own word on its key."""

    def __init__(self, folder, version, **daemon):
        folder.mkdir()
        self.folder, self.version = folder, version
        self.daemon = DaemonProcess(folder, "lab", tpm=f'version = "{version}"', **daemon)
        self.record_path = f"{self.daemon.state}/identity.json"
        self.permall = f"{self.daemon.state}/{'tpm2' if version == '2.0' else 'tpm'}-00.permall"

    def start(self):
        self.daemon.start()
        return self

    def restart(self):
        """What the new process has said."""
        self.daemon.stop()
        self.start()
        return self.daemon.log()

    def vtpmctl(self, *words):
        assert entry.main([words[0], "lab", *words[1:]], Places(config=str(self.folder))) == 0

    def fingerprint(self, algorithm="rsa2048"):
        """By openssl, of the key that the TPM gives out."""
        pem = self.folder / "pubek.pem"
        self.vtpmctl("getpubek", "--algorithm", algorithm, "--output", str(pem))
        der = subprocess.run(
            ["openssl", "pkey", "-pubin", "-in", pem, "-outform", "DER"], capture_output=True, check=True
        ).stdout
        return (
            subprocess.run(["openssl", "sha256", "-r"], input=der, capture_output=True, check=True).stdout[:64].decode()
        )

    def record(self):
        with open(self.record_path, encoding="utf-8") as file:
            return json.load(file)

    def write_record(self, text):
        with open(self.record_path, "w", encoding="utf-8") as file:
            file.write(text)


@pytest.fixture
def instance(tmp_path):
    made = []

    def make(version="2.0", name="one", **kw):
        made.append(Instance(tmp_path / name, version, **kw))
        return made[-1]

    yield make
    for one in made:
        one.daemon.stop()


@pytest.fixture(params=["2.0", "1.2"])
def version(request):
    return request.param


def test_a_first_start_and_a_new_key_are_recorded_in_silence(instance, version):
    one = instance(version).start()
    assert os.path.exists(one.record_path) == (version == "2.0")  # there is nothing yet to know a TPM 1.2 by
    one.vtpmctl("createek")
    log = one.restart()
    assert "notice" not in log
    storage = one.record()["storage"]
    assert one.record() == {"format": 1, "keys": {"rsa2048": one.fingerprint()}, "storage": storage, "change": None}
    assert storage is None if version == "1.2" else re.fullmatch("[0-9a-f]{16}", storage)
    assert stat.S_IMODE(os.stat(one.record_path).st_mode) == 0o600
    assert one.daemon.status()["identity"] == {"keys": one.record()["keys"], "change": None, "clones": []}
    written = os.stat(one.record_path).st_mtime_ns
    assert "notice" not in one.restart()
    assert os.stat(one.record_path).st_mtime_ns == written  # nothing new, nothing written


def test_another_tpm_under_the_name_is_told_once(instance, version):
    one, other = instance(version).start(), instance(version, "other").start()
    for each in (one, other):
        each.vtpmctl("createek")
    was, now = one.fingerprint(), other.fingerprint()
    one.daemon.stop()
    other.daemon.stop()
    shutil.copy(one.permall, one.folder / "backup")
    shutil.copy(other.permall, one.permall)
    one.start()
    found = NOTICE.search(one.daemon.log())
    assert found
    assert found[1] == f"the endorsement key rsa2048 was sha256:{was}, is now sha256:{now}"
    assert found[2] == one.daemon.state
    change = one.daemon.status()["identity"]["change"]
    assert (change["was"], change["is"]) == ({"rsa2048": was}, {"rsa2048": now})
    assert "notice" not in one.restart()
    assert one.daemon.status()["identity"]["change"] == change  # still to be seen
    one.daemon.stop()
    shutil.copy(one.folder / "backup", one.permall)
    one.start()
    found = NOTICE.search(one.daemon.log())
    assert found
    assert found[1].endswith(f"was sha256:{now}, is now sha256:{was}")


def test_a_tpm_made_anew_is_told(instance, version):
    """Somebody has emptied the directory, and the service makes a new TPM: that is what locks people out most often."""
    one = instance(version).start()
    one.vtpmctl("createek")
    was = one.fingerprint()
    one.daemon.stop()
    for name in os.listdir(one.daemon.state):
        if "-00." in name:
            os.unlink(f"{one.daemon.state}/{name}")
    one.start()
    found = NOTICE.search(one.daemon.log())
    assert found
    assert found[1] == f"the endorsement key rsa2048 was sha256:{was}, is not there any more"
    assert one.record()["keys"] == {}
    assert one.record()["change"]["is"] == {"rsa2048": None}


def test_an_owned_tpm_1_2_is_known_too(instance, tmp_path):
    """It tells its key to its owner alone, and the daemon has no password."""
    one, other = instance("1.2").start(), instance("1.2", "other").start()
    (tmp_path / "owner").write_text("ownerpass")
    keys = []
    for each in (one, other):
        each.vtpmctl("createek")
        keys.append(each.fingerprint())
        each.vtpmctl("takeown", "--owner-password-file", str(tmp_path / "owner"))
    assert "notice" not in one.restart()
    assert one.record()["keys"] == {"rsa2048": keys[0]}
    one.daemon.stop()
    other.daemon.stop()
    shutil.copy(other.permall, one.permall)
    one.start()
    found = NOTICE.search(one.daemon.log())
    assert found
    assert found[1].endswith(f"was sha256:{keys[0]}, is now sha256:{keys[1]}")


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


def test_every_algorithm_is_watched(instance):
    one = instance().start()
    for algorithm in ("rsa2048", "ecc-p256", "ecc-p384"):
        one.vtpmctl("createek", "--algorithm", algorithm)
    one.daemon.stop()
    keys = one.record()["keys"]
    one.start()
    assert keys == {algorithm: one.fingerprint(algorithm) for algorithm in keys}
    assert list(keys) == ["rsa2048", "ecc-p256", "ecc-p384"]
    one.daemon.stop()
    one.write_record(record_of({**keys, "ecc-p256": FORGED, "ecc-p521": FORGED}))
    one.start()
    found = NOTICE.search(one.daemon.log())
    assert found
    assert found[1] == (
        f"the endorsement key ecc-p256 was sha256:{FORGED}, is now sha256:{keys['ecc-p256']};"
        f" the endorsement key ecc-p521 was sha256:{FORGED}, is not there any more"
    )


def test_a_tpm_that_a_client_starts_is_looked_at_then(instance):
    one = instance(startup="none").start()
    one.vtpmctl("createek")  # starts it
    one.daemon.stop()
    one.write_record(record_of({"rsa2048": FORGED}))
    one.start()
    assert "notice" not in one.daemon.log()
    with one.daemon.connect() as client:
        client.sendall(STARTUP_CLEAR)
        assert result_of(client.recv(4096)) == 0
    one.daemon.settle()
    assert NOTICE.search(one.daemon.log())


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


def test_state_that_is_loaded_while_it_runs_is_told(instance):
    """vtpmctl stop, load, init: no start of the service lies between the two TPMs."""
    one, other = instance().start(), instance("2.0", "other").start()
    for each in (one, other):
        each.vtpmctl("createek")
    one.restart()
    other.vtpmctl("save", "permanent", str(other.folder / "blob"))
    one.vtpmctl("stop")
    one.vtpmctl("load", "permanent", str(other.folder / "blob"))
    one.vtpmctl("init")
    with one.daemon.connect() as client:
        client.sendall(STARTUP_CLEAR)
        assert result_of(client.recv(4096)) == 0
    one.daemon.settle()
    assert NOTICE.search(one.daemon.log())
    assert one.record()["keys"] == {"rsa2048": other.fingerprint()}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 100_000,
        record_of({}, format=2),
        '{"format": 1, "keys": {}}',
        record_of([]),
        record_of({"rsa2048": 7}),
        record_of({"rsa2048": "Z"}),
        record_of({"rsa2048": None}),
        record_of({}, storage="Z"),
        record_of({}, change={"time": 1, "was": 5, "is": {}}),
        record_of({}, change={"time": float("inf"), "was": {}, "is": {}}),
        record_of({}, change={"time": 1, "was": {"rsa2048": "Z"}, "is": {}}),
        "\udc80",
    ],
)
def test_a_damaged_record_is_made_anew(instance, text):
    one = instance().start()
    one.vtpmctl("createek")
    one.daemon.stop()
    good = one.record()
    with open(one.record_path, "wb") as file:
        file.write(text.encode("utf-8", "surrogateescape"))
    one.start()
    log = one.daemon.log()
    assert re.search(r"warning: .*/identity\.json is made anew.*: it cannot be used \(.+\)\n", log), log
    assert "notice" not in log
    assert "Traceback" not in log
    assert one.record() == good


def test_a_damaged_record_of_a_tpm_without_a_key_is_told_once(instance):
    one = instance("1.2").start()
    one.write_record("damaged")
    assert "made anew" in one.restart()
    assert "made anew" not in one.restart()


def test_a_tpm_2_without_a_key_is_known_by_its_storage_hierarchy(instance, tmp_path):
    one, other = instance().start(), instance("2.0", "other").start()
    (tmp_path / "owner").write_text("ownerpass")
    assert "notice" not in one.restart()
    other.daemon.stop()
    marks = [each.record()["storage"] for each in (one, other)]
    assert marks[0] != marks[1]
    one.daemon.stop()
    shutil.copy(other.permall, one.permall)
    one.start()
    found = NOTICE.search(one.daemon.log())
    assert found
    assert found[1] == f"its storage hierarchy was {marks[0]}, is now {marks[1]}"
    # with a password it cannot be asked any more, which is not a change
    one.vtpmctl("takeown", "--owner-password-file", str(tmp_path / "owner"))
    assert "notice" not in one.restart()
    assert one.record()["storage"] == marks[1]


def test_a_tpm_2_that_was_cleared_is_told(instance):
    """TPM2_Clear gives the storage hierarchy another secret, and removes what was stored."""
    one = instance().start()
    one.vtpmctl("createek")
    one.restart()
    before = one.record()
    with one.daemon.connect() as client:
        client.sendall(with_session(0x126, bytes.fromhex("4000000a")))  # TPM2_Clear, with the lockout password
        assert result_of(client.recv(4096)) == 0
    one.daemon.stop()
    found = NOTICE.search(one.daemon.log())
    assert found
    assert found[1].endswith(f"was sha256:{before['keys']['rsa2048']}, is not there any more")
    assert one.record()["storage"] != before["storage"]


def test_a_record_that_is_no_file_is_let_be(instance):
    one = instance().start()
    one.vtpmctl("createek")
    os.unlink(one.record_path)
    os.mkdir(one.record_path)
    log = one.restart()
    assert "it cannot be used" in log
    assert f"{one.record_path} cannot be written" in log
    assert one.daemon.status()["identity"]["keys"] == {"rsa2048": one.fingerprint()}


@pytest.mark.needs("swtpm", "swtpm_ioctl")
def test_swtpm_and_rekey_let_the_record_be(instance, version, tmp_path):
    """The directory goes to the distribution's swtpm and back, and its state is encrypted and decrypted."""
    one = instance(version).start()
    one.vtpmctl("createek")
    one.daemon.stop()
    before = one.record()
    peer = Swtpm(version, one.daemon.state, str(tmp_path))
    pubek = one.folder / "by-swtpm.pem"
    assert entry.main(["getpubek", peer.data, "--output", str(pubek)]) == 0
    peer.stop()
    key = tmp_path / "key"
    key.write_text("00" * 32)
    key.chmod(0o600)
    one.vtpmctl("rekey", "--to", f"file={key}")
    one.vtpmctl("rekey", "--from", f"file={key}", "--to", "none")
    assert one.record() == before
    assert "notice" not in one.start().daemon.log()
    assert pubek.read_bytes() == (one.fingerprint() and (one.folder / "pubek.pem").read_bytes())


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


# --- in a directory of its own, as systemd gives it ------------------------------------------------------------------


class Service(Instance):
    """As the unit starts it: the record has a directory of its own."""

    def __init__(self, folder, version, **daemon):
        super().__init__(folder, version, **daemon)
        self.beside = self.record_path
        self.own = folder / "vtpm-identity" / "lab"
        self.own.mkdir(parents=True)
        self.record_path = f"{self.own}/identity.json"

    def start(self):
        self.daemon.start(environment={"STATE_DIRECTORY": f"{self.daemon.state}:{self.own}"})
        return self

    def start_by_hand(self):
        super().start()

    def lose_state(self):
        """With the service stopped, and a directory made again, as systemd does."""
        self.daemon.stop()
        shutil.rmtree(self.daemon.state)
        os.mkdir(self.daemon.state)


@pytest.fixture
def service(tmp_path):
    made = []

    def make(version="2.0", name="one", **kw):
        made.append(Service(tmp_path / name, version, **kw))
        return made[-1]

    yield make
    for one in made:
        one.daemon.stop()


def test_a_tpm_that_is_lost_with_its_directory_is_told_once(service, version):
    one = service(version).start()
    one.vtpmctl("createek")
    was = one.fingerprint()
    assert "notice" not in one.restart()
    assert not os.path.exists(one.beside)
    assert stat.S_IMODE(os.stat(one.record_path).st_mode) == 0o600
    one.lose_state()
    one.start()
    found = NOTICE.search(one.daemon.log())
    assert found
    assert found[1] == f"the endorsement key rsa2048 was sha256:{was}, is not there any more"
    assert found[2] == one.daemon.state
    assert one.daemon.status()["identity"]["change"]["was"] == {"rsa2048": was}
    assert "notice" not in one.restart()
    assert one.daemon.status()["identity"]["change"]["was"] == {"rsa2048": was}  # still to be seen


def test_a_tpm_2_without_keys_that_is_lost_is_told(service):
    one = service().start()
    mark = one.record()["storage"]
    one.lose_state()
    one.start()
    found = NOTICE.search(one.daemon.log())
    assert found
    assert found[1] == f"its storage hierarchy was {mark}, is now {one.record()['storage']}"


def test_a_tpm_of_another_kind_under_the_name_is_told(service):
    one = service().start()
    mark = one.record()["storage"]
    one.lose_state()
    with open(one.daemon.config, encoding="utf-8") as file:
        text = file.read()
    with open(one.daemon.config, "w", encoding="utf-8") as file:
        file.write(text.replace('version = "2.0"', 'version = "1.2"'))
    one.start()
    found = NOTICE.search(one.daemon.log())
    assert found
    assert found[1] == f"its storage hierarchy was {mark}, is not there any more"
    assert "notice" not in one.restart()


def test_another_state_directory_under_the_name_is_told(service, tmp_path):
    """[state] directory has changed, or the whole directory was replaced, with a record of its own in it."""
    one, other = service().start(), service("2.0", "other")
    other.start_by_hand()
    for each in (one, other):
        each.vtpmctl("createek")
    was, now = one.fingerprint(), other.fingerprint()
    one.daemon.stop()
    other.daemon.stop()
    assert os.path.exists(other.beside)
    shutil.rmtree(one.daemon.state)
    shutil.copytree(other.daemon.state, one.daemon.state)
    one.start()
    found = NOTICE.search(one.daemon.log())
    assert found
    assert found[1] == f"the endorsement key rsa2048 was sha256:{was}, is now sha256:{now}"
    assert not os.path.exists(one.beside)


def test_a_record_beside_the_state_is_taken_over_once(service, version):
    one = service(version)
    one.start_by_hand()
    one.vtpmctl("createek")
    one.daemon.stop()
    with open(one.beside, encoding="utf-8") as file:
        before = json.load(file)
    one.start()
    assert "notice" not in one.daemon.log()
    assert not os.path.exists(one.beside)
    assert one.record() == before
    one.lose_state()
    one.start()
    assert NOTICE.search(one.daemon.log())


def test_a_record_that_is_taken_over_tells_a_change(service):
    one = service()
    one.start_by_hand()
    one.vtpmctl("createek")
    one.daemon.stop()
    with open(one.beside, "w", encoding="utf-8") as file:
        file.write(record_of({"rsa2048": FORGED}))
    one.start()
    assert NOTICE.search(one.daemon.log())
    assert not os.path.exists(one.beside)


def test_a_damaged_record_beside_the_state_is_told_and_goes(service):
    one = service().start()
    one.daemon.stop()
    os.unlink(one.record_path)
    with open(one.beside, "w", encoding="utf-8") as file:
        file.write("damaged")
    one.start()
    assert "identity.json is made anew" in one.daemon.log()
    assert "notice" not in one.daemon.log()
    assert not os.path.exists(one.beside)
    assert one.record()["storage"]
    assert "made anew" not in one.restart()


def test_a_directory_of_its_own_that_is_missing(service):
    """It is told what that costs; the TPM is watched as without one, and what it had is there again with the
    directory."""
    one = service().start()
    one.vtpmctl("createek")
    was = one.fingerprint()
    one.daemon.stop()
    aside = one.own.with_name("aside")
    one.own.rename(aside)
    one.start()
    log = one.daemon.log()
    assert f"warning: the directory {one.own} does not exist" in log
    assert f"is kept in {one.daemon.state}, and is lost with it" in log
    assert one.daemon.status()["identity"]["keys"] == {"rsa2048": was}
    assert os.path.exists(one.beside)
    one.lose_state()
    one.start()
    assert NOTICE.search(one.daemon.log()) is None
    one.daemon.stop()
    aside.rename(one.own)
    one.start()
    found = NOTICE.search(one.daemon.log())
    assert found
    assert f"was sha256:{was}, is not there any more" in found[1]


@pytest.mark.needs("root")
def test_a_disk_that_is_full_loses_no_record(service):
    """Neither the one that was to be taken over, nor the notice."""
    one = service()
    one.start_by_hand()
    one.vtpmctl("createek")
    one.daemon.stop()
    with open(one.beside, "w", encoding="utf-8") as file:
        file.write(record_of({"rsa2048": FORGED}))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=1", "none", one.own], check=True)
    try:
        one.start()
        log = one.daemon.log()
        assert NOTICE.search(log)
        assert f"{one.record_path} cannot be written: No space left on device" in log
        one.daemon.stop()
        assert os.path.exists(one.beside)
    finally:
        subprocess.run(["umount", one.own], check=True)
    one.start()
    assert NOTICE.search(one.daemon.log())
    assert not os.path.exists(one.beside)


def test_what_else_a_drop_in_adds_is_not_the_record_s_place(instance):
    one = instance()
    other = one.folder / "more"
    other.mkdir()
    one.daemon.start(environment={"STATE_DIRECTORY": f"{one.daemon.state}:{other}"})
    one.daemon.settle()
    assert os.path.exists(one.record_path)
    assert os.listdir(other) == []


# --- copies ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def copies(tmp_path, instance, version, monkeypatch):
    """A TPM that is served, and a copy of its state (cp -a) that is not yet; what systemd would make for them is
    there."""
    monkeypatch.setattr(clones, "DIRECTORY", str(tmp_path / "vtpmkeys"))
    original, copy = instance(version, "one"), instance(version, "two")
    original.start()
    if version == "1.2":
        original.vtpmctl("createek")
    original.daemon.stop()
    shutil.rmtree(copy.daemon.state)
    subprocess.run(["cp", "-a", original.daemon.state, copy.daemon.state], check=True)
    for one in (original, copy):
        os.makedirs(f"{clones.DIRECTORY}/{one.folder.name}")
    return original, copy


def start(one):
    paths = f"{one.folder}:{clones.DIRECTORY}/{one.folder.name}"
    one.daemon.start(environment={"RUNTIME_DIRECTORY": paths})
    return one.daemon.status()["identity"]


def test_a_copy_is_noticed_when_both_are_served(copies, capsys):
    """Also a TPM 2.0 without an endorsement key, by the mark of its storage hierarchy."""
    original, copy = copies
    assert start(original)["clones"] == []
    assert start(copy)["clones"] == ["one"]
    [told] = re.findall("warning: (this TPM is that of one, too: .*)", copy.daemon.log())
    assert "move its state away" in told
    assert "this TPM is that of" not in original.daemon.log()
    capsys.readouterr()
    for one in copies:  # by vtpmctl both are told, whichever was first
        one.vtpmctl("identity")
        assert "served as: one, two, which have the SAME TPM" in capsys.readouterr().out
        one.vtpmctl("identity", "--json")
        assert json.loads(capsys.readouterr().out)["served_as"] == ["one", "two"]
    finding = next(one for one in doctor.examine("lab", Places(config=str(copy.folder))) if one.check == "copies")
    assert (finding.verdict, finding.text.startswith("one, two have the same TPM")) == ("fail", True)


def test_a_copy_is_told_once_and_again_when_there_is_another(copies):
    original, copy = copies
    start(original)
    start(copy)
    subprocess.run(["tpm2_getrandom", "-T", f"swtpm:path={copy.daemon.data}", "4"], capture_output=True, check=False)
    with copy.daemon.connect() as client:  # started once more: asked once more
        client.sendall(STARTUP_CLEAR)
        client.recv(4096)
    assert copy.daemon.status()["identity"]["clones"] == ["one"]
    assert copy.daemon.log().count("this TPM is that of") == 1


def test_a_copy_that_is_alone_is_none(copies):
    """The original has ended, and systemd has removed its directory: the state was moved, or is a spare."""
    original, copy = copies
    start(original)
    original.daemon.stop()
    shutil.rmtree(f"{clones.DIRECTORY}/one")
    assert start(copy)["clones"] == []
    assert "this TPM is that of" not in copy.daemon.log()


def test_without_its_directory_a_daemon_serves_all_the_same(copies):
    original, _copy = copies
    os.rmdir(f"{clones.DIRECTORY}/one")
    assert start(original)["clones"] == []
    assert "this TPM is that of" not in original.daemon.log()
