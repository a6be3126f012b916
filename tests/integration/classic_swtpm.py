"""Our `swtpm` as its callers start it, and the conversations they have with it."""

import contextlib
import socket
import subprocess
import time

from unix_listener import listens

DEADLINE_S = 20.0
GET_RANDOM = bytes.fromhex("80010000000c0000017b0008")
STARTUP_CLEAR = bytes.fromhex("80010000000c000001440000")
NOT_STARTED = bytes.fromhex("80010000000a00000100")
NO_POWER = bytes.fromhex("80010000000a00000101")


def wait_until(holds, what):
    end = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < end, f"not {what} within {DEADLINE_S:g} s"
        time.sleep(0.01)


@contextlib.contextmanager
def running(command, *words, **options):
    """The process, which is ended at the end if it has not."""
    process = subprocess.Popen(
        [str(command), *map(str, words)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise


def serves(path, process=None):
    """Wait until somebody listens at a UNIX path; a process that has ended instead is told with what it said."""

    def holds():
        assert process is None or process.poll() is None, f"it has ended: {process.communicate()[0]}"
        return listens(str(path))

    wait_until(holds, f"served at {path}")


def ask(connection, command=GET_RANDOM):
    connection.settimeout(DEADLINE_S)
    connection.sendall(command)
    return connection.recv(4096)


def connect(path):
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(DEADLINE_S)
    connection.connect(str(path))
    return connection


def random_bytes(path):
    """What a new connection gets for a GetRandom."""
    with connect(path) as connection:
        return ask(connection)


def ioctl(path, *words):
    """The distribution's swtpm_ioctl on a control socket: exit status and what it said."""
    done = subprocess.run(
        ["swtpm_ioctl", "--unix", str(path), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE_S,
    )
    return done.returncode, done.stdout.strip()


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
