"""What no peer can do to a real daemon: crash it, keep another client out, make it lose descriptors or memory.

One daemon for all of these. Another client works all the time, on a thread of its own; what a peer did wrong ends with
an error reply or with the end of that peer's connection.
"""

import array
import os
import signal
import socket
import struct
import threading
import time
from contextlib import suppress

import pytest
from daemon_process import DaemonProcess
from tpm_commands import CREATE_RSA, GET_RANDOM, PCR_READ_16, STARTUP_CLEAR, result_of

from swtpm_svc.frontends.sockets.socket_frontend import MAX_CONNECTIONS_OF_ONE
from swtpm_svc.wire import ptm, ptm_socket

pytestmark = pytest.mark.needs("binding")

h = bytes.fromhex
GET_CONFIG = h("0000000f")


class Worker(threading.Thread):
    """A client that works: `answered` commands, of which the slowest took `slowest_s`."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(path)
        self.answered, self.wrong, self.slowest_s, self.done = 0, [], 0.0, False

    def run(self):
        while not self.done:
            start = time.monotonic()
            self.sock.sendall(GET_RANDOM)
            response = self.sock.recv(4096)
            self.slowest_s = max(self.slowest_s, time.monotonic() - start)
            if len(response) != 20:
                self.wrong.append(response)
                return
            self.answered += 1
            time.sleep(0.001)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    """A TPM 2.0 that is started."""
    process = DaemonProcess(tmp_path_factory.mktemp("bad")).start()
    yield process
    assert process.stop(signal.SIGTERM) == 0
    log = process.log()
    assert "Traceback" not in log
    assert "report this line as a bug" not in log  # the remedy of Code.INTERNAL


@pytest.fixture(autouse=True)
def nothing_is_lost(daemon):
    """Another client works meanwhile; afterwards the daemon has the descriptors and the threads that it had."""
    wait_for_connections(daemon, 0)
    before = resources(daemon)
    worker = Worker(daemon.data)
    worker.start()
    wait_for_connections(daemon, 1)  # a test that counts descriptors counts the worker's, too
    yield
    answered = worker.answered
    deadline = time.monotonic() + 30
    while worker.is_alive() and worker.answered < answered + 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    worker.done = True
    worker.join(30)
    worker.sock.close()
    assert worker.wrong == []
    assert worker.answered > answered, "the other client was kept out"
    assert worker.slowest_s < 20, "the other client had to wait for what the peer did"
    wait_for_connections(daemon, 0)
    assert resources(daemon) == before


def resources(daemon):
    """Descriptors and threads."""
    pid = daemon.process.pid
    return len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))


def resident_kib(daemon):
    with open(f"/proc/{daemon.process.pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def wait_for_connections(daemon, number):
    deadline = time.monotonic() + 30
    while (connections := daemon.status()["connections"]) != number:
        assert time.monotonic() < deadline, f"{connections} connections, not {number}"
        time.sleep(0.02)


def connect(path):
    """Unlike a socket with a timeout, waits when too many others are just connecting."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    sock.settimeout(30)
    return sock


def exchange(sock, data):
    sock.sendall(data)
    return sock.recv(65536)


def end_of(sock):
    """What comes until the connection ends; fails when it does not."""
    received = b""
    with suppress(ConnectionError):
        while data := sock.recv(65536):
            received += data
    return received


# --- bytes
# ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channel", ["control", "data"])
def test_a_mebibyte_of_garbage(daemon, channel):
    for seed in range(4):
        garbage = [os.urandom(1 << 20), bytes(1 << 20), b"\xff" * (1 << 20), GET_CONFIG[:3] * (1 << 18)][seed]
        with connect(getattr(daemon, channel)) as sock, suppress(OSError):
            sock.settimeout(0.5)
            sock.sendall(garbage)
            end_of(sock)


@pytest.mark.parametrize("message", ["00", "000000", "0000000d", "00000002 0000", "00000007 00001000 61", "00000005",
                                     "00000012 00000000 00000001 0000"])  # fmt: skip
@pytest.mark.parametrize("end", ["close", "reset", "wait"])
def test_control_messages_that_are_cut_off(daemon, message, end):
    with connect(daemon.control) as sock:
        sock.sendall(h(message))
        if end == "wait":  # it has a connection of its own, and others have theirs
            with connect(daemon.control) as other:
                assert exchange(other, GET_CONFIG) == bytes(8)
        elif end == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("message", ["00000007 00100001", "00000007 ffffffff", "0000000d 00000000 00000001 7fffffff"])
def test_control_messages_that_announce_too_much(daemon, message):
    with connect(daemon.control) as sock:
        sock.sendall(h(message))
        assert end_of(sock) == h("00000003")


@pytest.mark.parametrize("number", ["00000000", "00000014", "00000100", "01000000", "ffffffff", "80010000"])
def test_unknown_control_commands(daemon, number):
    with connect(daemon.control) as sock:
        sock.sendall(h(number))
        assert end_of(sock) == h("0000000a")


def test_a_state_blob_one_byte_at_a_time(daemon):
    with connect(daemon.control) as sock:
        for byte in ptm_socket.pack(ptm.SetStateBlob(0, 1, bytes(300))):
            sock.sendall(bytes([byte]))
        assert sock.recv(100) == h("0000000a")  # not while the TPM runs
        assert exchange(sock, GET_CONFIG) == bytes(8)


@pytest.mark.parametrize(
    "command",
    [
        "80010000000a00000145",
        "8001",
        "80010000000a",
        "8001ffffffff0000017b",
        "80010000000900000145",
        "8001000000000000017b0008",
    ],
)
def test_commands_that_are_cut_off_or_lie_about_their_size(daemon, command):
    with connect(daemon.data) as sock:
        sock.settimeout(0.3)
        sock.sendall(h(command)[:-1] if command.endswith("145") else h(command))
        with suppress(socket.timeout):
            assert result_of(sock.recv(4096)) != 0
    with connect(daemon.data) as sock:
        assert result_of(exchange(sock, GET_RANDOM)) == 0


def test_requests_that_nobody_waited_for(daemon):
    """Two thousand at once: each has its reply, and between any two of them others have theirs."""
    with connect(daemon.control) as sock, connect(daemon.data) as other:
        sock.sendall(h("0000000a") * 2000)  # STORE_VOLATILE
        received, answered = 0, 0
        while received < 8000:
            assert result_of(exchange(other, GET_RANDOM)) == 0
            answered += 1
            with suppress(BlockingIOError):
                data = sock.recv(65536, socket.MSG_DONTWAIT)
                assert data == bytes(len(data))
                received += len(data)
    assert answered > 100


# --- descriptors
# ------------------------------------------------------------------------------------------------------------


def pass_descriptors(sock, *fds):
    """SET_DATAFD with these: the result."""
    sock.sendmsg([h("00000010")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
    return int.from_bytes(sock.recv(4), "big")


@pytest.fixture
def odd_descriptors(tmp_path):
    """Descriptors of all kinds but a connected stream socket."""
    reader, writer = os.pipe()
    plain = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    directory, null = os.open(tmp_path, os.O_RDONLY), os.open("/dev/null", os.O_RDWR)
    datagrams = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    packets = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener, unconnected = socket.create_server(("127.0.0.1", 0)), socket.socket()
    sockets = [*datagrams, *packets, listener, unconnected]
    yield {
        "pipe, to read": reader, "pipe, to write": writer, "file": plain, "directory": directory, "null": null,
        "datagrams": datagrams[0].fileno(), "packets": packets[0].fileno(),
        "listener": listener.fileno(), "unconnected": unconnected.fileno(),
    }  # fmt: skip
    for sock in sockets:
        sock.close()
    for fd in (reader, writer, plain, directory, null):
        os.close(fd)


def test_descriptors_that_are_no_connected_stream_sockets(daemon, odd_descriptors):
    for what, fd in odd_descriptors.items():
        with connect(daemon.control) as sock:
            for _ in range(10):
                assert pass_descriptors(sock, fd) == 3, what
            assert exchange(sock, GET_CONFIG) == bytes(8)


def test_descriptors_that_nobody_asked_for(daemon, odd_descriptors):
    """They come with other messages, with half of one, and too many at a time: none is kept for longer than the
    connection."""
    fds = array.array("i", [odd_descriptors["file"]] * 60)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)]
    before = resources(daemon)[0]
    with connect(daemon.control) as sock:
        for _ in range(20):
            sock.sendmsg([GET_CONFIG], rights)
            assert sock.recv(100) == bytes(8)
        sock.sendmsg([h("0000")], rights)
        with connect(daemon.control) as other:
            exchange(other, GET_CONFIG)
            # two connections, and one descriptor that waits for its message; the others may be closed after the answer
            # to `other`
            deadline = time.monotonic() + 10
            while resources(daemon)[0] > before + 3:
                assert time.monotonic() < deadline
                time.sleep(0.02)
    with connect(daemon.data) as data:
        data.sendmsg([GET_RANDOM], rights)  # the kernel closes what a receiver does not take
        assert result_of(data.recv(4096)) == 0


def test_several_descriptors_at_once(daemon):
    """The first one is taken, the others are closed."""
    pairs = [socket.socketpair() for _ in range(3)]
    with connect(daemon.control) as sock:
        assert pass_descriptors(sock, *(theirs.fileno() for _ours, theirs in pairs)) == 0
        for _ours, theirs in pairs:
            theirs.close()
        (first, _), *rest = pairs
        first.settimeout(20)
        assert result_of(exchange(first, GET_RANDOM)) == 0
        for ours, _theirs in rest:
            ours.settimeout(20)
            assert ours.recv(1) == b""
    for ours, _theirs in pairs:
        ours.close()


def test_data_sockets_of_both_kinds_at_once(daemon):
    """Two that were passed and two that connected: each has its own responses."""
    with connect(daemon.control) as control, connect(daemon.data) as one, connect(daemon.data) as two:
        passed = []
        for _ in range(2):
            ours, theirs = socket.socketpair()
            assert pass_descriptors(control, theirs.fileno()) == 0
            theirs.close()
            ours.settimeout(20)
            passed.append(ours)
        socks = [one, two, *passed]
        for index, sock in enumerate(socks):
            sock.sendall(GET_RANDOM if index % 2 else PCR_READ_16)
        sizes = [len(sock.recv(4096)) for sock in socks]
        assert sizes[0] == sizes[2] > 32
        assert sizes[1] == sizes[3] == 20
        for ours in passed:
            ours.close()


# --- connections
# --------------------------------------------------------------------------------------------------------------


def test_a_thousand_connections(daemon):
    """One after another, some of which say something and some nothing; memory does not grow with them."""

    def storm(count):
        for number in range(count):
            with connect(daemon.control if number % 2 else daemon.data) as sock:
                if number % 3 == 0:
                    sock.sendall(h("0000"))
                elif number % 3 == 1:
                    sock.sendall(GET_CONFIG if number % 2 else GET_RANDOM)

    storm(1000)
    wait_for_connections(daemon, 1)
    before = resident_kib(daemon)
    storm(1000)
    wait_for_connections(daemon, 1)
    assert resident_kib(daemon) < before + 512


def test_more_connections_than_a_user_may_have(daemon):
    silent = [connect(daemon.control) for _ in range(MAX_CONNECTIONS_OF_ONE + 40)]
    ended = 0
    for sock in silent:
        sock.settimeout(0.05 if ended < 41 else 0.001)
        with suppress(socket.timeout):
            ended += sock.recv(1) == b""
    assert ended == 41  # one is the client's that works all the time
    for sock in silent:
        sock.close()
    wait_for_connections(daemon, 1)
    with connect(daemon.control) as sock:
        assert exchange(sock, GET_CONFIG) == bytes(8)


def test_a_connection_that_is_reset_in_the_middle_of_a_long_command(daemon):
    for _ in range(5):
        sock = connect(daemon.data)
        sock.sendall(CREATE_RSA)
        sock.close()
    with connect(daemon.data) as sock:
        assert result_of(exchange(sock, STARTUP_CLEAR)) == 0x100  # TPM_RC_INITIALIZE: it is started


def test_clients_that_never_read(daemon):
    request = ptm_socket.pack(ptm.GetStateBlob(0, 2, 0))
    socks = [connect(daemon.control) for _ in range(4)]
    data = connect(daemon.data)
    for sock in socks:
        sock.settimeout(1)
        with suppress(OSError):
            for _ in range(1000):
                sock.sendall(request)
    data.settimeout(1)
    with suppress(OSError):
        for _ in range(100_000):
            data.sendall(GET_RANDOM)
    assert resident_kib(daemon) < 200 * 1024
    for sock in (*socks, data):
        sock.close()
