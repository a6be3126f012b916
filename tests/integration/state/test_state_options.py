"""What [state] says of a directory, beside where it is: mode, fsync, lock, backup."""

import os
import signal
import stat
from unittest import mock

import pytest

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.state.backend import PERMALL, VOLATILESTATE
from swtpm_svc.state.state_directory import BACKUP, PREVIOUS, StateDirectory, file_name
from swtpm_svc.state.store import Store

HEADS = {"1.2": bytes.fromhex("0001002200"), "2.0": bytes.fromhex("0003ab364723")}


@pytest.fixture(params=list(HEADS))
def version(request):
    return request.param


def payload(version, text):
    return HEADS[version] + text


def opened(path, version, **options):
    return Store.of(StateDirectory.open(str(path), version, **options), version)


def made(path, version, **options):
    """Two generations, and the file of the later one."""
    with opened(path, version, **options) as store:
        for text in (b"old", b"new"):
            store.store(PERMALL, payload(version, text))
    return path / file_name(version, PERMALL)


def test_the_mode_is_the_one_that_is_asked_for(version, tmp_path):
    permall = made(tmp_path, version)
    assert stat.S_IMODE(permall.stat().st_mode) == 0o600
    before = os.umask(0o077)
    try:
        with opened(tmp_path, version, mode=0o644) as store:
            assert stat.S_IMODE(permall.stat().st_mode) == 0o644  # what is there already, too
            store.store(PERMALL, payload(version, b"newer"))
            store.store(VOLATILESTATE, payload(version, b"first"))
    finally:
        os.umask(before)
    for name in (PERMALL, VOLATILESTATE):
        assert stat.S_IMODE((tmp_path / file_name(version, name)).stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / ".lock").stat().st_mode) == 0o600


def test_what_is_there_keeps_its_mode_if_that_is_wanted(version, tmp_path):
    permall = made(tmp_path, version)
    with opened(tmp_path, version, mode=0o640, changes_modes=False) as store:
        assert stat.S_IMODE(permall.stat().st_mode) == 0o600
        store.store(PERMALL, payload(version, b"newer"))
    assert stat.S_IMODE(permall.stat().st_mode) == 0o640
    with opened(tmp_path, version, mode=0o600):
        assert stat.S_IMODE(permall.stat().st_mode) == 0o600


def test_without_fsync_nothing_waits_for_the_disk(version, tmp_path):
    with mock.patch.object(os, "fsync", side_effect=AssertionError):
        permall = made(tmp_path, version, syncs=False)
    assert permall.exists()


def test_without_a_lock_there_may_be_two(version, tmp_path):
    with opened(tmp_path, version, locks=False) as store, opened(tmp_path, version) as other:
        assert (store.is_locked, other.is_locked) == (True, True)
    assert (tmp_path / ".lock").exists()  # the other one's


def test_the_generation_before_has_the_name_that_is_asked_for(version, tmp_path):
    names = {PREVIOUS: {}, BACKUP: {"backs_up": True}}
    for suffix, options in names.items():
        folder = tmp_path / suffix
        folder.mkdir()
        made(folder, version, **options)
        assert {name.suffix for name in folder.iterdir() if name.name != ".lock"} == {".permall", suffix}


def test_a_damaged_generation_and_the_one_before_change_places(version, tmp_path):
    permall = made(tmp_path, version, backs_up=True)
    good = permall.read_bytes()
    permall.write_bytes(good[:-1])
    with pytest.raises(VtpmError) as caught:
        opened(tmp_path, version)
    assert caught.value.code is Code.STATE_CORRUPT
    with opened(tmp_path, version, backs_up=True) as store:
        assert store.load(PERMALL) == payload(version, b"old")
        assert len(store.take_remarks()) == 1
        assert store.take_remarks() == []
    assert (tmp_path / f"{permall.name}{BACKUP}").read_bytes() == good[:-1]


def test_two_damaged_ones_stay_where_they_are(version, tmp_path):
    permall = made(tmp_path, version, backs_up=True)
    backup = tmp_path / f"{permall.name}{BACKUP}"
    permall.write_bytes(b"damaged")
    backup.write_bytes(b"damaged too")
    with pytest.raises(VtpmError):
        opened(tmp_path, version, backs_up=True)
    assert (permall.read_bytes(), backup.read_bytes()) == (b"damaged", b"damaged too")


@pytest.mark.parametrize("options", [{}, {"backs_up": True}])
def test_a_backup_takes_the_place_of_what_is_missing(version, options, tmp_path):
    """With and without the option, as swtpm does it."""
    permall = made(tmp_path, version, backs_up=True)
    permall.unlink()
    with opened(tmp_path, version, **options) as store:
        assert store.load(PERMALL) == payload(version, b"old")
        assert "was missing" in store.take_remarks()[0]
    assert not (tmp_path / f"{permall.name}{BACKUP}").exists()


def killed_at_rename(step, action):
    """Run `action` in a child that is killed before its rename number `step`; False when it has fewer."""
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    real, left = os.rename, [step]

    def rename(*words, **keys):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        real(*words, **keys)

    os.rename = rename
    try:
        action()
    finally:
        os._exit(0)


def test_a_kill_while_they_change_places_leaves_a_tpm(version, tmp_path):
    ends = []
    for step in range(1, 5):
        folder = tmp_path / str(step)
        folder.mkdir()
        made(folder, version, backs_up=True).write_bytes(b"damaged")
        ends.append(killed_at_rename(step, lambda: opened(folder, version, backs_up=True).close()))  # noqa: B023
        with opened(folder, version, backs_up=True) as store:
            assert store.load(PERMALL) == payload(version, b"old")
    assert ends == [True, True, True, False]
