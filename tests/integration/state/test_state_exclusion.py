"""Only one process has a state directory: swtpm and we exclude each other, and the error says whom to stop."""

import fcntl
import os
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from unix_listener import listens

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.state import lock
from swtpm_svc.state.files import Directory
from swtpm_svc.state.lock import StateLock
from swtpm_svc.state.store import Store

DEADLINE_S = 20.0


def refused(directory: object) -> VtpmError:
    with pytest.raises(VtpmError) as caught:
        Store.open(str(directory), "2.0")
    assert caught.value.code is Code.STATE_LOCKED
    return caught.value


@contextmanager
def process(*arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Killed and reaped at the end, if it has not ended before."""
    started = subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


@contextmanager
def other_holder(directory: object, how: str) -> Iterator["subprocess.Popen[str]"]:
    """A process that takes the lock with `how`, one of fcntl.lockf's kind ("posix") and a Store ("store")."""
    program = {
        "posix": "import fcntl; held = open(directory + '/.lock', 'w'); fcntl.lockf(held, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "store": "from swtpm_svc.state.store import Store; held = Store.open(directory, '2.0')",
    }[how]
    text = f"directory = {str(directory)!r}; {program}; print('locked', flush=True); input()"
    with process(sys.executable, "-c", text) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "locked\n"
        yield started


@pytest.mark.parametrize("how", ["posix", "store"])
def test_the_holder_is_named(how, tmp_path):
    with other_holder(tmp_path, how) as holder:
        error = refused(tmp_path)
        assert error.message.startswith(f"{tmp_path}/.lock is held by process {holder.pid} (python")
        # the second, when a service runs these tests
        assert (error.remedy or "").startswith((f"stop process {holder.pid} first", "stop it first: systemctl "))
    Store.open(str(tmp_path), "2.0").close()


def test_the_holders_unit_is_named(tmp_path, monkeypatch):
    """Where systemd runs it, /proc/PID/cgroup says which service it is; here that one file is made up."""
    read = lock._read
    line = "0::/system.slice/system-vtpm.slice/vtpm@old.service\n"
    monkeypatch.setattr(lock, "_read", lambda path: line if path.endswith("/cgroup") else read(path))
    with other_holder(tmp_path, "posix") as holder:
        error = refused(tmp_path)
    assert error.message.startswith(f"{tmp_path}/.lock is held by process {holder.pid} (")
    assert error.message.endswith(", vtpm@old.service)")
    assert error.remedy == "stop it first: systemctl stop vtpm@old.service"


def test_a_second_store_of_the_same_process_is_refused(tmp_path):
    with Store.open(str(tmp_path), "2.0"):
        assert f"held by process {os.getpid()} " in refused(tmp_path).message
    Store.open(str(tmp_path), "2.0").close()


def test_closing_another_descriptor_of_the_lock_file_does_not_lose_it(tmp_path):
    """It would with a POSIX lock: the reason for the other kind."""
    with Store.open(str(tmp_path), "2.0"):
        open(tmp_path / ".lock").close()
        refused(tmp_path)


def test_a_forked_child_that_ends_does_not_lose_it(tmp_path):
    with Store.open(str(tmp_path), "2.0"):
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        refused(tmp_path)


def test_the_lock_is_not_inherited_by_programs_that_are_started(tmp_path):
    with Store.open(str(tmp_path), "2.0") as store, process("sleep", "60"):
        store.close()
        Store.open(str(tmp_path), "2.0").close()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_lock_file_that_was_removed_meanwhile_does_not_count(replaced, tmp_path, monkeypatch):
    """Between our open and our lock someone removes the file: a lock on the nameless rest would exclude nobody."""
    locked = fcntl.fcntl
    calls = []

    def remove_first(fd, command, argument=0):
        calls.append(command)
        if len(calls) == 1:
            os.unlink(tmp_path / ".lock")
            if replaced:
                (tmp_path / ".lock").write_text("")
        return locked(fd, command, argument)

    monkeypatch.setattr(lock.fcntl, "fcntl", remove_first)
    with Store.open(str(tmp_path), "2.0"):
        assert len(calls) == 2
        refused(tmp_path)


def test_a_holder_that_goes_away_at_once_is_no_obstacle(tmp_path, monkeypatch):
    directory = Directory(str(tmp_path))
    answers = iter([False])
    tried = lock._try_lock
    monkeypatch.setattr(lock, "_try_lock", lambda fd, path: next(answers, None) is None and tried(fd, path))
    StateLock.acquire(directory.fd, str(tmp_path)).close()
    directory.close()


def test_the_lock_file_stays_and_is_signed(tmp_path):
    (tmp_path / ".lock").write_text("something older and longer")
    Store.open(str(tmp_path), "2.0").close()
    assert (tmp_path / ".lock").read_text().startswith(f"{os.getpid()}\n")


def test_a_lock_file_that_others_can_open_is_closed_to_them(tmp_path):
    """As `cp` leaves it: a lock for reading takes no more than that."""
    (tmp_path / ".lock").touch()
    (tmp_path / ".lock").chmod(0o644)
    Store.open(str(tmp_path), "2.0").close()
    assert (tmp_path / ".lock").stat().st_mode & 0o7777 == 0o600


def test_a_symbolic_link_is_not_followed(tmp_path):
    (tmp_path / ".lock").symlink_to("/dev/null")
    with pytest.raises(VtpmError) as caught:
        Store.open(str(tmp_path), "2.0")
    assert caught.value.code is Code.STATE_UNWRITABLE


@pytest.mark.needs("root")
def test_a_holder_whose_open_files_may_not_be_seen_is_named_by_its_signature(tmp_path):
    """An unprivileged process sees neither the open files of others nor, for our kind of lock, the holder's number."""
    os.chmod(tmp_path, 0o777)
    with Store.open(str(tmp_path), "2.0"):
        os.chmod(tmp_path / ".lock", 0o666)
        directory = os.open(tmp_path, os.O_RDONLY)
        program = textwrap.dedent(f"""
            import os
            from swtpm_svc.errors import VtpmError
            from swtpm_svc.state.lock import StateLock
            os.setgid(65534), os.setuid(65534)
            try:
                StateLock.acquire({directory}, {str(tmp_path)!r})
            except VtpmError as error:
                print(error.report(error.code.value))
        """)
        done = subprocess.run(
            [sys.executable, "-c", program],
            pass_fds=[directory],
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        os.close(directory)
    assert f"held by process {os.getpid()}" in done.stdout, done.stderr


@pytest.mark.needs("swtpm")
def test_we_are_refused_while_swtpm_runs_and_swtpm_while_we_do(tmp_path):
    sockets = tmp_path / "s"
    state = tmp_path / "state"
    sockets.mkdir()
    state.mkdir()
    with swtpm(state, sockets) as tpm:
        assert tpm.poll() is None
        error = refused(state)
        assert error.message.startswith(f"{state}/.lock is held by process {tpm.pid} (swtpm")
    with Store.open(str(state), "2.0"):
        command = swtpm_command(state, sockets)
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
        assert done.returncode != 0
        assert "Could not lock access to lockfile" in done.stderr
    Store.open(str(state), "2.0").close()


def swtpm_command(state: object, sockets: object) -> list[str]:
    command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--flags", "not-need-init"]
    return [*command, "--ctrl", f"type=unixio,path={sockets}/c", "--server", f"type=unixio,path={sockets}/d"]


@contextmanager
def swtpm(state: object, sockets: object) -> Iterator["subprocess.Popen[str]"]:
    """Running and with its lock taken: a command is answered after that. Newer releases make the state before."""
    with process(*swtpm_command(state, sockets)) as started:
        end = time.monotonic() + DEADLINE_S
        while not listens(f"{sockets}/d"):
            assert time.monotonic() < end, "swtpm does not listen"
            time.sleep(0.02)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(DEADLINE_S)
            connection.connect(f"{sockets}/d")
            connection.sendall(bytes.fromhex("80010000000c0000017b0008"))
            assert connection.recv(4096)[:2] == b"\x80\x01"
        yield started
