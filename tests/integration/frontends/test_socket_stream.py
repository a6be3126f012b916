"""Plain commands on a data socket are served in C: that they are, and that it ends for everything else that is to be
done.

`python` counts how often the serving thread came to Python for a data socket.
"""

import array
import fcntl
import math
import os
import select
import signal
import socket
import struct
import termios
import threading
import time

import pytest
from daemon_process import DaemonProcess
from socket_service import SocketService, free_ports
from tpm_commands import (
    CREATE_RSA,
    GET_RANDOM,
    HIERARCHY_CHANGE_AUTH,
    NV_DEFINE_COUNTER,
    NV_INCREMENT,
    NV_READ_COUNTER,
    PCR_EXTEND_16,
    PCR_READ_16,
    STARTUP_CLEAR,
    counter_of,
    result_of,
)

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.frontends.sockets.data_channel import DataChannel
from swtpm_svc.wire import ptm, ptm_socket

h = bytes.fromhex

SHUTDOWN_CLEAR = h("80010000000c000001450000")
PREFIX = h("00000008 00")
UNKNOWN_COMMAND = h("80010000000a000001ff")
#: TPM2_PCR_Read without its parameter.
REFUSED_COMMAND = h("80010000000a0000017e")
COUNT = 500


class Calls:
    def __init__(self):
        self.readable = 0
        self.sent = []
        #: It went to C with a response or half a command still to be dealt with.
        self.too_early = 0


@pytest.fixture
def python(monkeypatch):
    calls = Calls()
    on_readable, serve, send = DataChannel.on_readable, DataChannel._serve_plain, DataChannel.send

    def count_readable(self):
        calls.readable += 1
        on_readable(self)

    def watch_serve(self):
        calls.too_early += bool(self._unsent or self._received)
        return serve(self)

    def note_sent(self, data):
        calls.sent.append(len(data))
        send(self, data)

    monkeypatch.setattr(DataChannel, "on_readable", count_readable)
    monkeypatch.setattr(DataChannel, "_serve_plain", watch_serve)
    monkeypatch.setattr(DataChannel, "send", note_sent)
    yield calls
    assert calls.too_early == 0


@pytest.fixture
def service(tmp_path, python):
    port = free_ports()
    service = SocketService(str(tmp_path / "tpm"), tcp=port)
    service.port = port
    yield service
    service.close()


@pytest.fixture
def client(service):
    with connect(service) as client:
        assert result_of(ask(client, STARTUP_CLEAR)) == 0
        yield client


def connect(service, family=socket.AF_UNIX):
    client = socket.socket(family)
    client.connect(service.path if family == socket.AF_UNIX else ("127.0.0.1", service.port))
    client.settimeout(30)
    return client


def ask(client, command):
    client.sendall(command)
    return client.recv(8192)


def commands(service):
    """What the dispatcher has counted; to ask takes the serving thread out of C."""
    return service.call(lambda: service.dispatcher.commands)


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


# --- it is taken
# ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET], ids=["unix", "tcp"])
def test_python_is_not_called_for_each_plain_command(service, client, python, family):
    idle = [connect(service) for _ in range(60)]
    with connect(service, family) as busy:
        assert result_of(ask(busy, GET_RANDOM)) == 0
        wait_for(lambda: service.call(lambda: service.frontend.connections) == 62)
        before, counted = python.readable, commands(service)
        for _ in range(COUNT):
            assert result_of(ask(busy, PCR_EXTEND_16)) == 0
            assert len(ask(busy, GET_RANDOM)) == 20
        assert python.readable - before <= 2
        assert commands(service) - counted == 2 * COUNT
    for sock in idle:
        sock.close()


def test_what_it_answers_is_what_python_answers(service, client):
    table = [
        PCR_READ_16,
        UNKNOWN_COMMAND,
        NV_DEFINE_COUNTER,
        NV_INCREMENT,
        NV_READ_COUNTER,
        NV_DEFINE_COUNTER,
        PCR_READ_16,
    ]
    answers = [[ask(client, command) for command in table]]
    service.call(lambda: service.tpm.shut_down())
    service.storage.blobs.clear()
    service.call(lambda: service.tpm.power_on(delete_volatile=True))
    service.call(lambda: setattr(service.dispatcher, "trace", True))
    assert result_of(ask(client, STARTUP_CLEAR)) == 0
    answers.append([ask(client, command) for command in table])
    assert answers[0] == answers[1]
    assert [command for command, _response in service.events.executions] == [STARTUP_CLEAR, *table]


def test_it_goes_on_while_nothing_else_is_to_be_done(service, client):
    """A socket that keeps messages apart has the next command there before the last is answered, which a stream has
    not."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reader, writer = os.pipe()
    with ours, theirs, select.epoll() as epoll:
        epoll.register(theirs, select.EPOLLIN)
        epoll.register(reader, select.EPOLLIN)

        def serve(deadline_s=math.inf):
            return service.call(lambda: service.tpm.serve_stream(theirs.fileno(), epoll.fileno(), deadline_s))

        for _ in range(9):
            ours.send(GET_RANDOM)
        assert serve(0.0) == (1, None), "the time is over"
        os.write(writer, b"x")
        assert serve() == (1, None), "another descriptor is ready"
        os.read(reader, 1)
        until = time.monotonic() + 0.2
        assert serve(until) == (7, None)
        assert until <= time.monotonic() < until + 5
        assert [len(ours.recv(100)) for _ in range(9)] == [20] * 9
        ours.send(GET_RANDOM)
        ours.send(REFUSED_COMMAND)
        executed, left = serve()
        assert (executed, left.command, left.response[6:10], left.sent) == (2, REFUSED_COMMAND, h("000001da"), 0)
        assert serve() == (0, None), "nothing has come"
        ours.send(GET_RANDOM)
        ours.send(PREFIX)
        ours.shutdown(socket.SHUT_RDWR)
        executed, left = serve()
        assert (executed, left.command, len(left.response), left.sent) == (1, GET_RANDOM, 20, 0), "who asked has gone"
        assert serve() == (0, PREFIX)
        assert serve() == (0, b""), "the end"
    os.close(reader)
    os.close(writer)


# --- what it leaves to Python
# -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pieces", "answer_size"),
    [
        ([UNKNOWN_COMMAND], 10),
        ([SHUTDOWN_CLEAR], 10),
        ([PREFIX + struct.pack(">I", len(GET_RANDOM)) + GET_RANDOM], 28),
        ([GET_RANDOM[:5], GET_RANDOM[5:]], 20),
        ([GET_RANDOM[:11], GET_RANDOM[11:]], 20),
        ([h("80010000001600 00017b"), GET_RANDOM], 10),
        ([GET_RANDOM + GET_RANDOM], 10),
        ([h("80010000000a0000017e00")], 10),
        ([h("8001000010000000017b") + bytes(4086)], 10),
        ([h("80010000000a20001000")], 10),
    ],
    ids=["refused", "shutdown", "prefix", "halves", "almost", "inner", "two", "longer", "4096", "vendor"],
)
def test_each_other_command_comes_to_python_and_the_next_plain_one_does_not(
    service, client, python, pieces, answer_size
):
    for _ in range(3):
        before = python.readable
        for piece in pieces:
            client.sendall(piece)
            time.sleep(0.02)
        assert len(client.recv(8192)) == answer_size
        ask(client, GET_RANDOM)
        assert python.readable > before, "the next command must find the loop in Python"
        before = python.readable
        assert [len(ask(client, GET_RANDOM)) for _ in range(20)] == [20] * 20
        assert python.readable == before
    assert commands(service) == 1 + 3 * 22


def test_a_stop_and_an_init_are_seen_by_the_next_command(service, client):
    with socket.socket(socket.AF_UNIX) as control:
        control.connect(service.control_path)
        for _ in range(2):
            assert result_of(ask(client, GET_RANDOM)) == 0
            assert ask(control, ptm_socket.pack(ptm.Stop())) == bytes(4)
            assert ask(client, GET_RANDOM) == h("80010000000a00000101")
            assert ask(control, ptm_socket.pack(ptm.Init(0))) == bytes(4)
            assert result_of(ask(client, STARTUP_CLEAR)) == 0


def test_what_is_known_of_the_tpm_is_right_after_it(service, client):
    def known():
        snapshot = service.call(service.tpm.snapshot)
        return snapshot.is_shut_down, snapshot.volatile_is_stored

    assert ask(client, SHUTDOWN_CLEAR) == h("80010000000a00000000")
    service.call(service.tpm.store_volatile)
    assert known() == (True, True)
    assert result_of(ask(client, PCR_READ_16)) == 0
    assert known() == (False, False)


def test_a_long_command_of_another_client(service, client, python, monkeypatch):
    """Both are answered: the short ones wait for the long one, then they are plain again."""
    with connect(service) as other:
        submitted, submit = [], service.executor.submit
        monkeypatch.setattr(service.executor, "submit", lambda *job, **kw: (submitted.append(job), submit(*job, **kw)))
        assert result_of(ask(client, GET_RANDOM)) == 0
        other.sendall(CREATE_RSA)
        wait_for(lambda: commands(service) == 3)
        assert submitted
        for _ in range(20):
            assert result_of(ask(client, GET_RANDOM)) == 0
        assert result_of(other.recv(8192)) == 0
        assert result_of(ask(client, GET_RANDOM)) == 0
        before = python.readable
        for _ in range(20):
            ask(client, GET_RANDOM)
        assert python.readable == before


def test_clients_that_never_pause_do_not_keep_each_other_waiting(service, client):
    results, stop = [], threading.Event()

    def without_pause():
        with connect(service) as busy:
            while not stop.is_set():
                results.append(result_of(ask(busy, GET_RANDOM)))

    threads = [threading.Thread(target=without_pause) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: len(results) > 50)
        for _ in range(COUNT):
            assert result_of(ask(client, PCR_EXTEND_16)) == 0
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(service.control_path)
            assert ask(control, ptm_socket.pack(ptm.GetConfig())) == bytes(8)
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert set(results) == {0}


@pytest.mark.parametrize("pauses", [True, False])
def test_signals_and_the_timer_are_served(service, client, pauses):
    ticks, signals = [], []
    before = signal.getsignal(signal.SIGUSR1)
    service.loop.on_signal(signal.SIGUSR1, lambda: signals.append(threading.get_ident()))
    service.call(lambda: service.loop.every(0.05, lambda: ticks.append(time.monotonic())))
    try:
        begin, sent = time.monotonic(), 0
        while time.monotonic() < begin + 1:
            assert result_of(ask(client, GET_RANDOM)) == 0
            if time.monotonic() > begin + 0.2 * sent:
                os.kill(os.getpid(), signal.SIGUSR1)
                sent += 1
                wait_for(lambda seen=sent: len(signals) == seen)
            if pauses:
                time.sleep(0.12)
        assert len(ticks) >= 10  # of 20; a loaded machine may be late
        assert set(signals) == {service.call(threading.get_ident)}
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_storage_failure_is_the_tpms_result_and_is_told(service, client):
    assert result_of(ask(client, GET_RANDOM)) == 0
    failure = service.storage.failure = VtpmError(Code.STATE_FULL, "the disk is full")
    response = ask(client, HIERARCHY_CHANGE_AUTH)
    assert result_of(response) == 0x101  # TPM_RC_FAILURE
    assert service.events.failures == [failure]
    assert service.events.executions == [(HIERARCHY_CHANGE_AUTH, response)]
    service.storage.failure = None


# --- how a connection ends
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET], ids=["unix", "tcp"])
@pytest.mark.parametrize("ending", ["close", "reset", "half", "unread"])
def test_a_client_that_goes(service, client, family, ending):
    other = connect(service, family)
    assert result_of(ask(other, GET_RANDOM)) == 0
    if ending == "reset":
        other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    elif ending == "half":
        other.shutdown(socket.SHUT_WR)
        assert other.recv(100) == b""
    elif ending == "unread":
        other.sendall(PCR_EXTEND_16)
    other.close()
    wait_for(lambda: service.call(lambda: service.frontend.connections) == 1)
    assert result_of(ask(client, GET_RANDOM)) == 0
    assert service.events.failures == []


def pair(kind, send_buffer):
    """A client's socket, and the service's with a small buffer for what it sends."""
    if kind == "unix":
        ours, theirs = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ours = socket.socket()
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            ours.connect(listener.getsockname())
            theirs, _address = listener.accept()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    ours.settimeout(30)
    return ours, theirs


def unread(sock):
    """Bytes that were sent and that the peer has not taken yet."""
    count = array.array("i", [0])
    fcntl.ioctl(sock, termios.TIOCOUTQ, count)
    return count[0]


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_responses_that_nobody_reads_wait_whole_and_in_order(service, client, python, kind):
    """200 responses of 1.2 KiB into buffers of a few KiB: some are cut by TCP, where one byte more would not have
    fitted."""
    handle = ask(client, CREATE_RSA)[10:14]
    context_save = h("80010000000e00000162") + handle
    cut = []
    with socket.socket(socket.AF_UNIX) as control:
        control.connect(service.control_path)
        for send_buffer in (0, 10_000, 40_000):
            ours, theirs = pair(kind, send_buffer)
            with ours:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [theirs.fileno()]))]
                control.sendmsg([ptm_socket.pack(ptm.SetDataFd())], rights)
                assert control.recv(4) == bytes(4)
                theirs.close()
                size = len(ask(ours, context_save))
                python.sent.clear()
                counted = commands(service)
                for number in range(1, 201):
                    ours.sendall(context_save)
                    # one by one: what lies there together is taken for one command
                    wait_for(lambda done=counted + number: commands(service) == done)
                assert unread(ours) == 0
                cut += [sent for sent in python.sent if sent < size]
                assert 0 < len(python.sent) < 200
                received = b""
                while len(received) < 200 * size:
                    received += ours.recv(65536)
                headers = [received[at : at + 10] for at in range(0, len(received), size)]
                assert headers == [h("8001") + struct.pack(">II", size, 0)] * 200
                assert result_of(ask(ours, PCR_READ_16)) == 0
    assert kind == "unix" or cut


# --- a daemon, for long
# -----------------------------------------------------------------------------------------------------


def resident_kib(pid):
    """Rss of /proc/PID/smaps_rollup, which is counted page by page (statm is not exact: proc(5))."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Rss:"))


@pytest.mark.needs("binding")
@pytest.mark.parametrize("reconnects", [False, True], ids=["one connection", "a connection for each ten commands"])
def test_10_000_commands_leave_no_memory_behind(tmp_path, reconnects):
    """Of all kinds: on the short way, refused, with a prefix, and stored with fsync."""
    daemon = DaemonProcess(tmp_path).start()
    batch = [GET_RANDOM, PCR_READ_16, PCR_EXTEND_16] * 30
    batch += [UNKNOWN_COMMAND, PREFIX + struct.pack(">I", len(GET_RANDOM)) + GET_RANDOM] * 4 + [
        NV_INCREMENT,
        NV_READ_COUNTER,
    ]
    increments = 0
    try:
        client = daemon.connect()
        assert result_of(ask(client, NV_DEFINE_COUNTER)) == 0
        assert result_of(ask(client, NV_INCREMENT)) == 0
        first = counter_of(ask(client, NV_READ_COUNTER))
        after = []
        for _ in range(10):
            for _ in range(10):
                for number, command in enumerate(batch):
                    if reconnects and number % 10 == 0:
                        client.close()
                        client = daemon.connect()
                    response = ask(client, command)
                increments += 1
                assert counter_of(response) == first + increments
            after.append(resident_kib(daemon.process.pid))
        client.close()
        assert daemon.status()["commands"] == 10_003
        assert after[-1] - after[0] <= 256, after
    finally:
        assert daemon.stop() == 0
    assert "Traceback" not in daemon.log()


@pytest.mark.needs("binding")
@pytest.mark.parametrize("busy", [True, False])
def test_a_daemon_stops_in_order_while_a_client_is_served(tmp_path, busy):
    """SIGTERM comes to its one thread, which waits or works in C."""
    daemon = DaemonProcess(tmp_path).start()
    client = daemon.connect()
    assert result_of(ask(client, GET_RANDOM)) == 0
    done = threading.Event()

    def work():
        try:
            while ask(client, GET_RANDOM):
                pass
        except OSError:
            pass
        done.set()

    if busy:
        threading.Thread(target=work).start()
        time.sleep(0.2)
    begin = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - begin < 10
    assert not busy or done.wait(30)
    client.close()
