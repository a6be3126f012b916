"""`vtpmctl create` beside other users: who may hold it up, what they may put in its way, and where they may lead it."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from created_host import Host

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.state import newborn
from swtpm_svc.state.newborn import Owner, Place
from swtpm_svc.state.store import Store

QUICK = ("--no-certificates", "--ek", "ecc-p256")
NOBODY = 65534
GIB = 1 << 30


@pytest.fixture
def host() -> Iterator[Host]:
    """In a folder that any user can reach."""
    with tempfile.TemporaryDirectory(prefix="vtpm-create-", dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        yield Host(Path(folder))


@contextmanager
def held_by_nobody(path: Path) -> Iterator[None]:
    """Another user has opened `path` to read it, and has each kind of lock on it that this gives."""
    code = (
        "import fcntl, os, sys, time\n"
        "fd = os.open(sys.argv[1], os.O_RDONLY)\n"
        "fcntl.flock(fd, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\n"
        "time.sleep(600)\n"
    )
    words = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", sys.executable, "-c", code, path]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield
    finally:
        process.kill()
        process.communicate()


def place_in(base: Path, owner: int = 0) -> Place:
    return Place(str(base), "vm1", Owner(owner, owner))


# --- who may hold it -------------------------------------------------------------------------------------------------


@pytest.mark.needs("root")
def test_no_other_user_keeps_a_tpm_from_being_made(host: Host) -> None:
    with held_by_nobody(host.state), held_by_nobody(host.config), held_by_nobody(host.folder):
        host.made("vm1", *QUICK)
    assert os.listdir(host.state) == ["vm1"]


@pytest.mark.parametrize("kind", ["mode", "link", "fifo", "owner"])
def test_a_lock_that_others_can_hold_is_refused(host: Host, kind: str) -> None:
    lock = host.state / newborn.LOCK
    if kind == "fifo":
        os.mkfifo(lock, 0o600)
    else:
        lock.touch(0o644 if kind == "mode" else 0o600)
    if kind == "link":
        os.link(lock, host.folder / "other")
    if kind == "owner":
        if os.geteuid() != 0:
            pytest.skip("only root can give a file away")
        os.chown(lock, NOBODY, NOBODY)
    error = host.refused("vm1", *QUICK)
    assert (error["code"], error["message"]) == (
        Code.STATE_UNWRITABLE.value,
        f"{lock} is not a lock made by us: others can hold it",
    )
    assert os.listdir(host.state) == [newborn.LOCK]


def test_one_that_is_held_is_waited_for_and_named(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newborn, "LOCK_TIME_S", 0.1)
    fd = os.open(host.state / newborn.LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(VtpmError, match=r"\.create\.lock is held by another process") as caught:
        newborn.install(place_in(host.state), "2.0", b"\0" * 100, None)
    assert caught.value.code is Code.STATE_LOCKED
    os.close(fd)
    newborn.install(place_in(host.state), "2.0", b"\0" * 100, None)
    assert os.listdir(host.state) == ["vm1"]


# --- what may be in its way ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["fifo", "large", "device"])
@pytest.mark.parametrize("where", [newborn.MARKER, "tpm2-00.permall"])
def test_planted_files_are_neither_waited_for_nor_read_without_an_end(host: Host, where: str, what: str) -> None:
    state = host.state / "vm1"
    state.mkdir()
    for name in (newborn.MARKER, "tpm2-00.permall"):
        (state / name).write_bytes(b"planted")
    planted = state / where
    planted.unlink()
    if what == "fifo":
        os.mkfifo(planted)
    elif what == "large":
        with planted.open("wb") as file:
            file.truncate(3 * GIB)
    else:
        planted.symlink_to("/dev/zero")
    limited = ["prlimit", f"--as={GIB}", *host.command("create", "vm1", *QUICK)]
    done = subprocess.run(limited, capture_output=True, text=True, timeout=60, check=False)
    assert "has a TPM already" in done.stderr
    assert done.returncode == 73
    assert sorted(os.listdir(state)) == sorted([newborn.MARKER, "tpm2-00.permall"])


# --- where it may be led ---------------------------------------------------------------------------------------------


@pytest.fixture
def theirs(host: Host) -> Path:
    """A directory of another user's."""
    path = host.folder / "theirs"
    path.mkdir()
    os.chown(path, NOBODY, NOBODY)
    return path


@pytest.mark.needs("root")
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_root_is_the_user_whose_directory_it_comes_to(theirs: Path, depth: int) -> None:
    base = theirs
    for number in range(depth):
        base = base / f"deeper{number}"
        base.mkdir()
        os.chown(base, NOBODY, NOBODY)
    newborn.install(place_in(base), "2.0", b"\0" * 100, None)
    assert {path.stat().st_uid for path in (base / "vm1", *(base / "vm1").iterdir())} == {NOBODY}
    assert (os.geteuid(), os.getegid()) == (0, 0)


@pytest.mark.needs("root")
def test_root_does_not_write_below_a_user_s_directory_what_the_user_may_not(theirs: Path) -> None:
    """Such a directory could be another one a moment later: the user can rename it."""
    (theirs / "roots").mkdir(0o755)
    with pytest.raises(VtpmError, match="Permission denied"):
        newborn.install(place_in(theirs / "roots"), "2.0", b"\0" * 100, None)
    assert not list((theirs / "roots").iterdir())
    assert (os.geteuid(), os.getegid()) == (0, 0)


@pytest.mark.needs("root")
def test_the_directory_that_is_missing_is_made_by_the_user(theirs: Path) -> None:
    newborn.install(place_in(theirs / "new"), "2.0", b"\0" * 100, None)
    found = (theirs / "new").stat()
    assert (found.st_uid, found.st_mode & 0o7777) == (NOBODY, 0o755)


def test_a_directory_that_is_swapped_meanwhile_gets_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is looked at and what is written to is the directory that was opened, whatever its path leads to by now."""
    base, aside, other = host.folder / "base", host.folder / "aside", host.folder / "other"
    base.mkdir()
    (other / "vm1").mkdir(parents=True)
    (other / "vm1" / "mine").write_text("mine")
    real = Store.open

    def swapped(directory: str, *words: object) -> Store:
        base.rename(aside)
        base.symlink_to(other)
        return real(directory, *words)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "open", swapped)
    newborn.install(place_in(base, os.geteuid()), "2.0", b"\0" * 100, None)
    assert sorted(os.listdir(aside / "vm1")) == [".lock", "tpm2-00.permall"]
    assert sorted(os.listdir(other)) == ["vm1"]
    assert os.listdir(other / "vm1") == ["mine"]


def test_a_killed_one_leaves_a_lock_that_is_in_nobody_s_way(host: Host) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - ends in SIGKILL

        def finish() -> None:
            os.write(write, b"x")
            time.sleep(600)

        newborn.install(place_in(host.state, os.geteuid()), "2.0", b"\0" * 100, None, finish)
    assert os.read(read, 1) == b"x"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert newborn.LOCK in os.listdir(host.state)
    newborn.install(place_in(host.state, os.geteuid()), "2.0", b"\1" * 100, None)
    assert os.listdir(host.state) == ["vm1"]
    shutil.rmtree(host.state)
    os.close(read)
    os.close(write)
