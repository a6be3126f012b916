"""One instance that was taken over, and another one of the same user: what the filter of the process keeps from it.

The system calls that the unit refuses as a whole are tried in tests/lab/vm, with those here.
"""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytestmark = pytest.mark.needs("binding", "root")

NOBODY = 65534
#: `victim` is another process of the same user. Each way must be refused (EPERM), and leave it as it was.
WAYS = {
    "kill": "os.kill(victim, signal.SIGKILL)",
    "kill, no signal": "os.kill(victim, 0)",
    "kill all": "os.kill(-1, signal.SIGKILL)",
    "kill the group": "os.killpg(os.getpgid(victim), signal.SIGKILL)",
    "kill our group": "os.kill(0, signal.SIGKILL)",
    "tgkill": "call('tgkill', victim, victim, signal.SIGKILL)",
    "tgkill, high bits": "call('tgkill', (1 << 32) + victim, victim, signal.SIGKILL)",
    "prlimit": "resource.prlimit(victim, resource.RLIMIT_NOFILE, (0, 0))",
    "prlimit, reading": "resource.prlimit(victim, resource.RLIMIT_NOFILE)",
    "fcntl, owner": "fcntl.fcntl(a, fcntl.F_SETOWN, victim)",
    "fcntl, group": "fcntl.fcntl(a, fcntl.F_SETOWN, -os.getpgid(victim))",
    "fcntl, owner of another kind": "fcntl.fcntl(a, 15, struct.pack('ii', 1, victim))",
    "fcntl, signal": "fcntl.fcntl(a, 10, int(signal.SIGKILL))",
    "ioctl, owner": "fcntl.ioctl(a, 0x8901, struct.pack('i', victim))",
    "ioctl, group": "fcntl.ioctl(a, 0x8902, struct.pack('i', victim))",
}
PRELUDE = """
import ctypes, fcntl, os, resource, signal, socket, struct, sys, threading
from swtpm_svc.tpm import libtpms
libc = ctypes.CDLL(None, use_errno=True)
NUMBERS = {"x86_64": {"tgkill": 234}, "aarch64": {"tgkill": 131}}
def call(name, *words):
    if libc.syscall(NUMBERS[os.uname().machine][name], *map(ctypes.c_long, words)) < 0:
        raise OSError(ctypes.get_errno(), name)
victim = int(sys.argv[1])
a, b = socket.socketpair()
os.setpgid(0, 0)
os.setgroups([])  # now that everything is imported, which this user may not be able to read
os.setresgid(*[NOBODY] * 3)
os.setresuid(*[NOBODY] * 3)
libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
""".replace("NOBODY", str(NOBODY))


@contextmanager
def victim() -> Iterator["subprocess.Popen[bytes]"]:
    words = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "sleep", "600"]
    process = subprocess.Popen(words, start_new_session=True)
    try:
        while b"sleep" not in Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")[0]:
            time.sleep(0.01)  # root's still, whom no other user may signal
        yield process
    finally:
        process.kill()
        process.wait()


def run_as_nobody(code: str, pid: int = 0) -> "subprocess.CompletedProcess[str]":
    words = [sys.executable, "-c", PRELUDE + textwrap.dedent(code), str(pid)]
    return subprocess.run(words, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_no_other_process_is_reached(way: str) -> None:
    if "call(" in way and os.uname().machine not in ("x86_64", "aarch64"):
        pytest.skip("the numbers of the system calls are not known here")
    with victim() as other:
        done = run_as_nobody(
            f"""
            assert libtpms.confine() == 0
            try:
                {way}
            except PermissionError:
                print("refused")
            """,
            other.pid,
        )
        assert (done.stdout, done.returncode) == ("refused\n", 0), done.stderr
        assert other.poll() is None
        with open(f"/proc/{other.pid}/limits", encoding="ascii") as file:
            assert "Max open files            0 " not in file.read()


@pytest.mark.parametrize(
    "way", [WAYS["kill"], f"{WAYS['fcntl, signal']}; {WAYS['fcntl, owner']}; ready()", WAYS["prlimit"]]
)
def test_without_the_filter_it_would_be(way: str) -> None:
    """Else the test above would show nothing."""
    with victim() as other:
        done = run_as_nobody(
            f"""
            def ready():
                fcntl.fcntl(a, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
                b.send(b"x")
            {way}
            """,
            other.pid,
        )
        assert done.returncode == 0, done.stderr
        if "prlimit" in way:
            with open(f"/proc/{other.pid}/limits", encoding="ascii") as file:
                assert "Max open files            0 " in file.read()
        else:
            assert other.wait(10) == -signal.SIGKILL


def test_what_a_process_does_to_itself_goes_on() -> None:
    done = run_as_nobody(
        """
        assert libtpms.confine() == 0
        assert libtpms.confine() == 0  # a second one is not a fault
        signal.signal(signal.SIGUSR1, lambda *_: print("signalled"))
        os.kill(os.getpid(), signal.SIGUSR1)
        signal.raise_signal(signal.SIGUSR1)
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        resource.prlimit(os.getpid(), resource.RLIMIT_NOFILE)
        fcntl.fcntl(a, fcntl.F_SETFL, os.O_NONBLOCK)
        thread = threading.Thread(target=lambda: print("a thread"))
        thread.start()
        thread.join()
        sys.stdout.flush()
        os.abort()
        """
    )
    assert done.stdout == "signalled\n" * 3 + "a thread\n", done.stderr
    assert done.returncode == -signal.SIGABRT


def test_who_runs_it_by_hand_keeps_what_set_user_id_programs_give() -> None:
    """fusermount3, for [fuse] of a user who is not root: a filter would need PR_SET_NO_NEW_PRIVS, which ends that."""
    code = (
        PRELUDE[: PRELUDE.index("libc.prctl")]
        + "assert libtpms.confine() == 0; os.kill(victim, 0); print('not confined')"
    )
    with victim() as other:
        done = subprocess.run([sys.executable, "-c", code, str(other.pid)], capture_output=True, text=True, timeout=60)
    assert done.stdout == "not confined\n", done.stderr
