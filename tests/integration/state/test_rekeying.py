"""Going over from one key to another: all files at one moment, whenever it is killed, and whatever the file system
refuses."""

import errno
import os
import random
import signal
import stat
import time
from pathlib import Path
from typing import Any, Callable

import pytest
from counted_calls import Steps
from keyed_state import A, B, C, contents, is_under, make, payloads

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.state import blob, files, replacement
from swtpm_svc.state.backend import PERMALL, VOLATILESTATE
from swtpm_svc.state.rekeying import CLEAR, OLD, rekey
from swtpm_svc.state.state_directory import BAD, file_name

ROUNDS = 60


@pytest.fixture(params=["1.2", "2.0"])
def version(request) -> str:
    return request.param


CHANGES = [(None, A), (A, None), (A, B), (B, A)]


@pytest.mark.parametrize(("old", "new"), CHANGES, ids=str)
def test_all_files_go_over(version, old, new, tmp_path):
    directory = make(tmp_path, version, old)
    os.chmod(os.path.join(directory, file_name(version, PERMALL)), 0o640)  # as swtpm has it
    done = rekey(directory, version, old, new)
    assert done.files == dict.fromkeys(sorted(payloads(version)), OLD if old else CLEAR)
    assert is_under(directory, version, new)
    assert not is_under(directory, version, old)
    for name, payload in payloads(version).items():
        assert stat.S_IMODE(os.stat(os.path.join(directory, name)).st_mode) == 0o600
        content = Path(directory, name).read_bytes()
        assert (payload in content) == (new is None)
    assert set(os.listdir(directory)) == {*payloads(version), ".lock"}
    again = rekey(directory, version, old, new)
    assert (again.files, again.unchanged) == ({}, tuple(sorted(payloads(version))))


@pytest.mark.parametrize(("old", "new"), CHANGES, ids=str)
def test_a_rekey_that_is_killed_leaves_all_files_under_one_key(old, new, tmp_path):
    """Killed before each of its system calls in turn."""
    version = "2.0"
    outcomes = []

    def kill(step: int) -> bool:
        directory = make(tmp_path / f"at-{step}", version, old)
        killed = killed_at(step, lambda: rekey(directory, version, old, new))
        under = [is_under(directory, version, key) for key in (old, new)]
        assert sorted(under) == [False, True], (step, under)
        assert set(os.listdir(directory)) == {*payloads(version), ".lock"}
        rekey(directory, version, old, new)
        assert is_under(directory, version, new)
        outcomes.append(under[1])
        return killed

    steps = next(step for step in range(1, 400) if not kill(step))
    assert steps > 40
    assert outcomes == sorted(outcomes), "it is under the new key from one moment on"
    assert {False, True} == set(outcomes)


def killed_at(step: int, action: Callable[[], Any]) -> bool:
    """Run `action` in a child that is killed before its system call number `step`; False when it has fewer."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            count(step, lambda: os.kill(os.getpid(), signal.SIGKILL))
            action()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


class MoreSteps(Steps):
    def __getattr__(self, name: str) -> Any:
        function = getattr(os, name)
        if name not in ("mkdir", "rmdir", "listdir"):
            return super().__getattr__(name)

        def counted(*arguments: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls == self.step:
                self.at_step()
            return function(*arguments, **options)

        return counted


def count(step: int, at_step: Callable[[], None]) -> MoreSteps:
    steps = MoreSteps(step, at_step)
    files.os = replacement.os = steps  # type: ignore[attr-defined]
    return steps


@pytest.fixture
def real_os():
    yield
    files.os = replacement.os = os  # type: ignore[attr-defined]


@pytest.mark.usefixtures("real_os")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_rekey_that_fails_leaves_all_files_under_one_key(number, tmp_path):
    """Every system call in turn is refused."""
    version = "1.2"

    def refuse() -> None:
        if steps.where != "close":  # of what was only read, or was synced before: nothing is lost
            raise OSError(number, os.strerror(number))

    for step in range(1, 400):
        directory = make(tmp_path / f"at-{step}", version, A)
        steps = count(step, refuse)
        failure = None
        try:
            rekey(directory, version, A, B)
        except VtpmError as error:
            failure = error
        finally:
            files.os = replacement.os = os  # type: ignore[attr-defined]
        under = [is_under(directory, version, key) for key in (A, B)]
        assert sorted(under) == [False, True], (step, under)
        if failure is not None:
            assert failure.code in (Code.STATE_FULL, Code.STATE_UNWRITABLE, Code.STATE_UNREADABLE), failure
            assert failure.remedy
        if steps.calls < step:
            assert failure is None
            return
    raise AssertionError("it does not end")


def test_killed_at_any_moment_in_the_middle_of_many(tmp_path):
    """SIGKILL from outside, at random moments of a process that goes to and fro between two keys."""
    found = {A.mode: 0, B.mode: 0}
    directory = make(tmp_path / "state", "2.0", A)
    for _ in range(ROUNDS):
        child = os.fork()
        if child == 0:
            try:
                while True:
                    rekey(directory, "2.0", A, B)
                    rekey(directory, "2.0", B, A)
            finally:
                os._exit(1)
        time.sleep(random.uniform(0.005, 0.06))
        os.kill(child, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
        under = [key for key in (A, B) if is_under(directory, "2.0", key)]
        assert len(under) == 1
        found[under[0].mode] += 1
    assert min(found.values()) > 0, found


def test_a_mixed_set_is_brought_to_one_key(version, tmp_path):
    """What a service would refuse: some in clear, some under the old key, some under the new one."""
    directory = make(tmp_path, version, A)
    names = list(payloads(version))
    for name, key in zip(names, (B, None)):
        Path(directory, name).write_bytes(blob.encode_checked(payloads(version)[name], key))
    done = rekey(directory, version, A, B)
    assert done.unchanged == (names[0],)
    assert {name: done.files[name] for name in names[1:]} == {names[1]: CLEAR, names[2]: OLD, names[3]: OLD}
    assert is_under(directory, version, B)


@pytest.mark.parametrize(("old", "new"), [(None, B), (None, None), (C, B), (C, None), (B, None), (B, C)], ids=str)
def test_the_wrong_old_key_changes_nothing(version, old, new, tmp_path):
    directory = make(tmp_path, version, A)
    before = contents(directory)
    with pytest.raises(VtpmError) as caught:
        rekey(directory, version, old, new)
    assert caught.value.code is Code.STATE_KEY
    assert "--from" in (caught.value.remedy or "")
    assert contents(directory) == before


def test_one_damaged_file_stops_all_and_one_that_was_set_aside_does_not(version, tmp_path):
    directory = make(tmp_path, version, A)
    aside = Path(directory, file_name(version, PERMALL) + BAD)
    aside.write_bytes(b"no state")
    good = Path(directory, file_name(version, VOLATILESTATE))
    content = good.read_bytes()
    good.write_bytes(content[:-20])
    before = contents(directory)
    with pytest.raises(VtpmError, match="cut off") as caught:
        rekey(directory, version, A, B)
    assert caught.value.code is Code.STATE_CORRUPT
    assert contents(directory) == before
    good.write_bytes(content)
    left_over = Path(directory, {"1.2": "TMP-00.permall", "2.0": "TMP2-00.permall"}[version])
    left_over.write_bytes(blob.encode_checked(payloads(version)[file_name(version, PERMALL)]))
    done = rekey(directory, version, A, B)
    assert done.left == (aside.name,)
    assert aside.read_bytes() == b"no state"
    assert not left_over.exists(), "it was in clear"
    assert is_under(directory, version, B)


def test_no_state_is_said(version, tmp_path):
    with pytest.raises(VtpmError) as caught:
        rekey(str(tmp_path), version, A, B)
    assert caught.value.code is Code.STATE_MISSING
