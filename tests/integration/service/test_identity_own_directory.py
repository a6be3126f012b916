"""The record of the endorsement keys in a directory of its own, as systemd gives it: it outlives the state."""

import json
import os
import shutil
import stat
import subprocess

import pytest
from watched_instances import FORGED, NOTICE, Instance, UnitInstance, making, record_of


@pytest.fixture(params=["2.0", "1.2"])
def version(request):
    return request.param


@pytest.fixture
def instance(tmp_path):
    with making(Instance, tmp_path) as make:
        yield make


@pytest.fixture
def service(tmp_path):
    with making(UnitInstance, tmp_path) as make:
        yield make


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
