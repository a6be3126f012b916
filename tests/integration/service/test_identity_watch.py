"""The daemon's eye on the endorsement keys: real daemons on state that is swapped, lost and damaged between their
starts."""

import os
import re
import shutil
import stat

import pytest
from swtpm_process import Swtpm
from tpm_commands import GET_RANDOM, STARTUP_CLEAR, result_of, with_session
from watched_instances import FORGED, NOTICE, Instance, making, record_of

from swtpm_svc.cli.vtpmctl import entry


@pytest.fixture
def instance(tmp_path):
    with making(Instance, tmp_path) as make:
        yield make


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


def test_state_that_is_loaded_while_it_runs_is_told(instance):
    """vtpmctl power off, load, init: no start of the service lies between the two TPMs."""
    one, other = instance().start(), instance("2.0", "other").start()
    for each in (one, other):
        each.vtpmctl("createek")
    one.restart()
    other.vtpmctl("save", "permanent", str(other.folder / "blob"))
    one.vtpmctl("power off")
    one.vtpmctl("load", "permanent", str(other.folder / "blob"))
    one.vtpmctl("init")
    with one.daemon.connect() as client:
        client.sendall(GET_RANDOM)
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
