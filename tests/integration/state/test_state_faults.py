"""Faults while state is written: killed between any two system calls, refused by any of them, full and read-only
disks."""

import errno
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Callable, Optional

import pytest
from counted_calls import Steps

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.state import files
from swtpm_svc.state.backend import PERMALL, VOLATILESTATE
from swtpm_svc.state.state_directory import file_name
from swtpm_svc.state.store import Store

DEADLINE_S = 60.0
HEADS = {"1.2": bytes.fromhex("0001002200"), "2.0": bytes.fromhex("0003ab364723")}
MAX_STEPS = 60


def payload(version: str, text: bytes) -> bytes:
    return HEADS[version] + text


def make(directory: str, version: str, *texts: bytes) -> None:
    with Store.open(directory, version) as store:
        for text in texts:
            store.store(PERMALL, payload(version, text))
        store.store(VOLATILESTATE, payload(version, b"old"))


def killed_at(step: int, action: Callable[[], None]) -> bool:
    """Run `action` in a child that is killed with SIGKILL before its system call number `step`; False when it has
    fewer."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            files.os = Steps(step, lambda: os.kill(os.getpid(), signal.SIGKILL))  # type: ignore[assignment]
            action()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


@pytest.fixture(params=["1.2", "2.0"])
def version(request) -> str:
    return request.param


@pytest.fixture
def fresh(tmp_path) -> Callable[[], str]:
    """A new directory at each call."""
    return lambda: tempfile.mkdtemp(dir=tmp_path)


def each_step(kill: Callable[[int], bool]) -> int:
    """Kill at step 1, 2, ... until the action comes to its end; the number of steps."""
    for step in range(1, MAX_STEPS):
        if not kill(step):
            return step - 1
    raise AssertionError("it does not end")


@pytest.mark.parametrize("name", [PERMALL, VOLATILESTATE])
def test_a_store_that_is_killed_leaves_the_old_or_the_new_content(version, name, fresh):
    found = set()

    def kill(step: int) -> bool:
        directory = fresh()
        make(directory, version, b"older", b"old")

        def action() -> None:
            with Store.open(directory, version) as store:
                store.store(name, payload(version, b"new" * 20))

        killed = killed_at(step, action)
        with Store.open(directory, version) as store:
            loaded = store.load(name)
            assert loaded in (payload(version, b"old"), payload(version, b"new" * 20))
            assert loaded is not None
            found.add(loaded)
        assert not [file for file in os.listdir(directory) if file.startswith("TMP")]
        return killed

    assert each_step(kill) > 10
    assert len(found) == 2


def test_a_first_store_that_is_killed_leaves_all_or_nothing(version, fresh):
    """Nothing means that the next start is not refused."""
    found = set()

    def kill(step: int) -> bool:
        directory = fresh()

        def action() -> None:
            with Store.open(directory, version) as store:
                store.store(PERMALL, payload(version, b"first"))

        killed = killed_at(step, action)
        with Store.open(directory, version) as store:
            found.add(store.load(PERMALL))
        return killed

    each_step(kill)
    assert found == {None, payload(version, b"first")}


def content(directory: str) -> dict[str, bytes]:
    found = {}
    for name in os.listdir(directory):
        if name != ".lock":
            with open(os.path.join(directory, name), "rb") as file:
                found[name] = file.read()
    return found


FAULTS = {
    errno.ENOSPC: Code.STATE_FULL,
    errno.EDQUOT: Code.STATE_FULL,
    errno.EROFS: Code.STATE_UNWRITABLE,
    errno.EACCES: Code.STATE_UNWRITABLE,
    errno.EIO: Code.STATE_UNWRITABLE,
}


@pytest.mark.parametrize("number", FAULTS, ids=errno.errorcode.get)
@pytest.mark.parametrize("first", [False, True], ids=["replaced", "first"])
def test_a_store_that_any_system_call_refuses_leaves_the_old_content(version, number, first, fresh, monkeypatch):
    """Each call in turn; close and stat aside, which have no such errors here."""
    tried = []

    def fail() -> None:
        if steps.where not in ("close", "stat"):
            tried.append(steps.where)
            raise OSError(number, os.strerror(number))

    for step in range(1, MAX_STEPS):
        directory = fresh()
        if not first:
            make(directory, version, b"older", b"old")
        with Store.open(directory, version) as store:
            before = store.load(PERMALL)
            steps = Steps(step, fail)
            monkeypatch.setattr(files, "os", steps)
            failed: Optional[VtpmError] = None
            try:
                store.store(PERMALL, payload(version, b"new" * 20))
            except VtpmError as error:
                failed = error
            monkeypatch.setattr(files, "os", os)
            if failed:
                assert failed.code is FAULTS[number]
                assert os.strerror(number) in failed.message
                assert directory in failed.message
                assert failed.remedy
                assert store.load(PERMALL) == before
            else:
                assert store.load(PERMALL) == payload(version, b"new" * 20)
                assert steps.where in ("", "close", "stat")
            assert not [name for name in content(directory) if name.startswith("TMP")]
            # and the store goes on
            store.store(PERMALL, payload(version, b"newest"))
        if not steps.where:
            break
    else:
        raise AssertionError("it does not end")
    assert set(tried) == (
        {"open", "write", "fsync", "link"} if first else {"open", "write", "fsync", "unlink", "link", "rename"}
    )


def test_a_file_system_without_nameless_files(version, fresh, monkeypatch):
    """NFS has none, for one."""
    real = os.open

    def refuse(path: str, flags: int, *arguments: Any, **options: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "")
        return real(path, flags, *arguments, **options)

    monkeypatch.setattr(files.os, "open", refuse)
    directory = fresh()
    make(directory, version, b"one")
    with Store.open(directory, version) as store:
        assert store.load(PERMALL) == payload(version, b"one")


@pytest.mark.needs("strace")
def test_a_store_costs_one_fsync_of_the_file_and_one_of_the_directory(tmp_path):
    """Counted by the kernel's own word, in order: the file before it gets its name, the directory after."""
    state = tmp_path / "state"
    state.mkdir()
    program = f"""
        from swtpm_svc.state.store import Store
        with Store.open({str(state)!r}, "2.0") as store:
            for text in (b"1", b"2", b"3"):
                store.store("permall", text * 3000)
            store.store("volatilestate", b"v")
            store.store("volatilestate", b"w")
            store.delete("volatilestate", must_exist=True)
    """
    trace = tmp_path / "trace"
    calls = (
        "trace=fsync,fdatasync,sync,syncfs,sync_file_range,msync,link,linkat,rename,renameat,renameat2,unlink,unlinkat"
    )
    command = [
        "strace",
        "-f",
        "-y",
        "-s",
        "200",
        "-o",
        str(trace),
        "-e",
        calls,
        sys.executable,
        "-c",
        textwrap.dedent(program),
    ]
    subprocess.run(command, timeout=DEADLINE_S, check=True)
    seen = [re.sub(r"^\d+ +", "", line) for line in trace.read_text().splitlines() if str(state) in line]
    steps = [describe(line, str(state)) for line in seen if not line.startswith("unlink") or "= 0" in line]
    nameless = ["fsync file", "link", "fsync directory"]
    assert steps == [
        *nameless,
        *["fsync file", "link", "rename", "fsync directory"],  # 2: no .previous to remove yet
        *["fsync file", "unlink", "link", "rename", "fsync directory"],  # 3
        *nameless,  # v
        *["fsync file", "rename", "fsync directory"],  # w
        *["unlink", "fsync directory"],
    ]


def describe(line: str, state: str) -> str:
    call = re.sub(r"at2?$", "", line.split("(", 1)[0])
    if call != "fsync":
        return call
    assert line.endswith("= 0")
    return "fsync directory" if f"<{state}>" in line else "fsync file"


@pytest.fixture
def small_disk(tmp_path) -> Iterator[str]:
    """A tmpfs of 64 KiB."""
    path = str(tmp_path / "disk")
    os.mkdir(path)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", path], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"unobtainable: may not mount a tmpfs here: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


def fill(disk: str) -> None:
    """Until nothing more goes in."""
    with open(os.path.join(disk, "filler"), "wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(4096))
    assert os.statvfs(disk).f_bfree == 0


@pytest.mark.needs("root")
def test_a_full_disk(version, small_disk):
    make(small_disk, version, b"older", b"old")
    with Store.open(small_disk, version) as store:
        before = content(small_disk)
        fill(small_disk)
        with pytest.raises(VtpmError) as caught:
            store.store(PERMALL, payload(version, bytes(20000)))
        assert caught.value.code is Code.STATE_FULL
        assert (
            caught.value.message
            == f"{small_disk}/{file_name(version, PERMALL)} cannot be written: No space left on device"
        )
        assert {name: data for name, data in content(small_disk).items() if name != "filler"} == before
        os.unlink(os.path.join(small_disk, "filler"))
        store.store(PERMALL, payload(version, bytes(20000)))
        assert store.load(PERMALL) == payload(version, bytes(20000))


@pytest.mark.needs("root")
def test_a_disk_that_is_full_from_the_start(version, small_disk):
    fill(small_disk)
    with Store.open(small_disk, version) as store:
        with pytest.raises(VtpmError) as caught:
            store.store(PERMALL, payload(version, b"first"))
        assert caught.value.code is Code.STATE_FULL
    with Store.open(small_disk, version) as store:
        assert store.load(PERMALL) is None


@pytest.mark.needs("root")
def test_a_read_only_disk(version, small_disk):
    make(small_disk, version, b"old")
    before = content(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(VtpmError) as caught:
        Store.open(small_disk, version)
    assert caught.value.code is Code.STATE_UNWRITABLE
    assert caught.value.message == f"{small_disk}/.lock cannot be written: Read-only file system"
    assert (caught.value.remedy or "").startswith("mount its file system read-write; ")
    assert content(small_disk) == before


@pytest.fixture
def open_to_all() -> Iterator[str]:
    """A directory that any user can reach, which pytest's own are not."""
    path = tempfile.mkdtemp(dir="/tmp", prefix="vtpm-test-")
    os.chmod(path, 0o755)
    yield path
    shutil.rmtree(path)


def report_as_nobody(directory: str) -> list[str]:
    """What an unprivileged process is told when it opens the state: code, cause, remedy."""
    program = f"""
        import os
        from swtpm_svc.errors import VtpmError
        from swtpm_svc.state.store import Store
        os.setgid(65534), os.setuid(65534)
        try:
            Store.open({directory!r}, "2.0").close()
            print("opened")
        except VtpmError as error:
            print(error.code.name, error.message, error.remedy, sep="\\n")
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    return subprocess.run(
        command, stdout=subprocess.PIPE, text=True, timeout=DEADLINE_S, check=True
    ).stdout.splitlines()


@pytest.mark.needs("root")
def test_rights_that_are_missing(open_to_all):
    make(open_to_all, "2.0", b"old")
    os.chmod(f"{open_to_all}/.lock", 0o666)
    before = content(open_to_all)

    def whose(mode: str) -> str:
        return f"Permission denied: it belongs to user root, mode {mode}, and this runs as user nobody"

    os.chmod(open_to_all, 0o700)
    assert report_as_nobody(open_to_all)[:2] == ["STATE_UNREADABLE", f"{open_to_all} cannot be read: {whose('0700')}"]
    os.chmod(open_to_all, 0o555)
    assert report_as_nobody(open_to_all) == [
        "STATE_UNWRITABLE",
        f"{open_to_all} cannot be written: {whose('0555')}",
        f"give it to the user that this runs as: chown -h 65534:65534 {open_to_all}",
    ]
    os.unlink(f"{open_to_all}/.lock")
    assert report_as_nobody(open_to_all)[:2] == [
        "STATE_UNWRITABLE",
        f"{open_to_all} cannot be written: {whose('0555')}",
    ]
    # what root has restored into the service's directory
    os.chown(open_to_all, 65534, 65534)
    os.chmod(open_to_all, 0o700)
    assert report_as_nobody(open_to_all)[:2] == [
        "STATE_UNREADABLE",
        f"{open_to_all}/tpm2-00.permall cannot be read: {whose('0600')}",
    ]
    os.unlink(f"{open_to_all}/.lock")
    os.close(os.open(f"{open_to_all}/.lock", os.O_CREAT, 0o600))
    assert report_as_nobody(open_to_all)[:2] == [
        "STATE_UNWRITABLE",
        f"{open_to_all}/.lock cannot be written: {whose('0600')}",
    ]
    assert content(open_to_all) == before
    assert stat.S_IMODE(os.stat(f"{open_to_all}/tpm2-00.permall").st_mode) == 0o600
