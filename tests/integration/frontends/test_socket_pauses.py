"""A peer that does not wait for its answer: what it sends stays in the kernel meanwhile, and nothing of it is begun.

Else one connection could have any number of commands in the worker's queue.
"""

import os
import select
import socket
import stat
import threading

import pytest
from socket_service import SocketService, free_ports
from tpm_commands import GET_RANDOM, HIERARCHY_CHANGE_AUTH, PCR_READ_16, STARTUP_CLEAR, result_of, with_session

from swtpm_svc.config.addresses import parse_address
from swtpm_svc.frontends.dispatch import Dispatcher
from swtpm_svc.frontends.sockets.control_channel import ControlChannel
from swtpm_svc.frontends.sockets.data_channel import DataChannel
from swtpm_svc.frontends.sockets.mssim_channel import MssimChannel
from swtpm_svc.tpm.controller import Rights
from swtpm_svc.wire import ptm, ptm_socket
from swtpm_svc.wire.caller import Caller
from swtpm_svc.wire.mssim import COMMAND_PORT

h = bytes.fromhex
SEND_COMMAND = h("00000008")


class Work:
    """The worker, which does nothing while `gate` is not set, and what was given to it."""

    def __init__(self, service):
        self.service, self.gate, self.given = service, threading.Event(), 0
        submit = service.executor.submit

        def counted(work, done, **options):
            self.given += 1
            submit(work, done, **options)

        service.executor.submit = counted

    def block(self):
        self.service.call(lambda: self.service.executor.submit(self.gate.wait, lambda _result: None))
        self.given = 0

    def settle(self):
        """All that has come is looked at."""
        for _ in range(3):
            self.service.call(lambda: None)


@pytest.fixture
def port():
    return free_ports()


@pytest.fixture
def service(tmp_path, port):
    service = SocketService(str(tmp_path / "tpm"), mssim=port)
    service.work = Work(service)
    yield service
    service.work.gate.set()
    service.close()


@pytest.fixture
def connect(service):
    made = []

    def connect(path=service.path):
        sock = socket.socket(socket.AF_UNIX if isinstance(path, str) else socket.AF_INET)
        sock.connect(path)
        sock.settimeout(20)
        made.append(sock)
        return sock

    with connect() as first:
        first.sendall(STARTUP_CLEAR)
        assert result_of(first.recv(4096)) == 0
    yield connect
    for sock in made:
        sock.close()


def prefixed(command, locality=0):
    return SEND_COMMAND + bytes([locality]) + len(command).to_bytes(4, "big") + command


@pytest.mark.parametrize("wrap", [bytes, prefixed], ids=["bare", "prefixed"])
@pytest.mark.parametrize("first", [GET_RANDOM, HIERARCHY_CHANGE_AUTH], ids=["plain", "stored"])
def test_a_command_while_the_worker_is_busy(service, connect, wrap, first):
    service.work.block()
    peer = connect()
    peer.sendall(wrap(first))
    service.work.settle()
    assert service.work.given == 1
    for _ in range(5):
        peer.sendall(wrap(PCR_READ_16))
        service.work.settle()
    assert service.work.given == 1
    service.work.gate.set()
    answered = peer.recv(4096)
    assert result_of(answered[4:] if wrap is prefixed else answered) == 0


@pytest.mark.parametrize("wrap", [bytes, prefixed], ids=["bare", "prefixed"])
def test_a_command_while_the_one_before_is_stored(service, connect, wrap):
    """It was executed at once; the disk is what takes its time."""
    store = service.storage.store
    service.storage.store = lambda *words: (service.work.gate.wait(), store(*words))
    peer = connect()
    peer.sendall(wrap(HIERARCHY_CHANGE_AUTH))
    service.work.settle()
    commands = service.call(lambda: service.dispatcher.commands)
    peer.sendall(wrap(GET_RANDOM))
    service.work.settle()
    assert service.call(lambda: service.dispatcher.commands) == commands
    service.work.gate.set()
    around = 8 if wrap is prefixed else 0
    received = b""
    while len(received) < 19 + 20 + 2 * around:
        received += peer.recv(4096)
    second = received[19 + around :]
    assert result_of(received[around // 2 :]) == result_of(second[around // 2 :]) == 0


#: An HMAC key with a password, under dictionary-attack protection, and its use: the first is not executed, but stores
#: that such an object is in use (TPM_RC_RETRY, measured with libtpms 0.9.2). No other plain command stores anything.
CREATE_HMAC = with_session(
    0x131,
    h("40000001"),
    h("0009 0005") + b"hello" + h("0000 0010 0008 000b 00040060 0000 0005 000b 0000 0000 00000000"),
)
USE_HMAC = with_session(
    0x155, h("80000000"), h("0003") + b"abc" + h("000b"), auth=h("40000009 0000 00 0005") + b"hello"
)


def test_a_command_while_a_plain_one_before_is_stored(service, connect):
    """It came the short way, and what it stores goes the long one."""
    peer = connect()
    peer.sendall(CREATE_HMAC)
    assert result_of(peer.recv(4096)) == 0
    store = service.storage.store
    service.storage.store = lambda *words: (service.work.gate.wait(), store(*words))
    peer.sendall(USE_HMAC)
    service.work.settle()
    commands = service.call(lambda: service.dispatcher.commands)
    peer.sendall(GET_RANDOM)
    service.work.settle()
    assert service.call(lambda: service.dispatcher.commands) == commands
    service.work.gate.set()
    received = b""
    while len(received) < 10 + 20:
        received += peer.recv(4096)
    assert [result_of(received), result_of(received[10:])] == [0x922, 0]
    peer.sendall(USE_HMAC)
    assert result_of(peer.recv(4096)) == 0


def test_a_control_request_while_the_worker_is_busy(service, connect):
    service.work.block()
    peer = connect(service.control_path)
    peer.sendall(ptm_socket.pack(ptm.SetLocality(1)))
    service.work.settle()
    assert service.work.given == 1
    for _ in range(5):
        peer.sendall(ptm_socket.pack(ptm.SetLocality(2)))
        service.work.settle()
    assert service.work.given == 1
    service.work.gate.set()
    received = b""
    while len(received) < 6 * 4:
        received += peer.recv(4096)
    assert received == bytes(24)
    assert service.call(lambda: service.tpm.locality) == 2


def test_a_message_of_the_simulator_while_the_worker_is_busy(service, connect, port):
    service.work.block()
    peer = connect(("127.0.0.1", port))
    message = SEND_COMMAND + b"\0" + len(GET_RANDOM).to_bytes(4, "big") + GET_RANDOM
    for _ in range(5):
        peer.sendall(message)
        service.work.settle()
    assert service.work.given == 1
    service.work.gate.set()
    received = b""
    while len(received) < 5 * (4 + 20 + 4):
        received += peer.recv(4096)


def test_a_signal_to_the_simulator_while_the_worker_is_busy(service, connect, port):
    service.work.block()
    peer = connect(("127.0.0.1", port + 1))
    for _ in range(5):
        peer.sendall(h("00000002"))  # SIGNAL_POWER_OFF
        service.work.settle()
    assert service.work.given == 1
    service.work.gate.set()
    received = b""
    while len(received) < 20:
        received += peer.recv(4096)
    assert received == bytes(20)


def test_a_message_of_the_simulator_and_a_half(service, connect, port):
    """What follows an answered message has its turn when it is whole."""
    peer = connect(("127.0.0.1", port))
    message = SEND_COMMAND + b"\0" + len(GET_RANDOM).to_bytes(4, "big") + GET_RANDOM
    peer.sendall(message + message[:7])
    for rest in (message[7:] + message[:5], message[5:]):
        received = b""
        while len(received) < 4 + 20 + 4:
            received += peer.recv(4096)
        service.work.settle()
        peer.sendall(rest)
    assert result_of(peer.recv(4096)[4:]) == 0


class Turns:
    """The loop, whose next turns a test takes itself."""

    def __init__(self):
        self.watched, self.posted, self.epoll = {}, [], select.epoll()

    def add(self, fd, on_readable):
        assert fd not in self.watched
        self.watched[fd] = on_readable

    def remove(self, fd):
        del self.watched[fd]

    def want_write(self, fd, on_writable):
        pass

    def lend(self):
        return self.epoll.fileno(), 0.0

    def post(self, callback):
        self.posted.append(callback)


@pytest.fixture
def turns():
    turns = Turns()
    yield turns
    turns.epoll.close()


@pytest.mark.parametrize("is_allowed", [True, False])
def test_a_command_while_its_callers_rights_are_looked_up(service, turns, is_allowed):
    """For the locality of its prefix."""
    ours, theirs = socket.socketpair()
    found = []
    dispatcher = Dispatcher(
        service.tpm,
        service.dispatcher.controller,
        service.executor,
        lambda _caller: None,
        service.events,
        look_up=lambda _caller, then: found.append(then),
    )
    channel = DataChannel(ours, Caller(1, 1, 1), turns, lambda _channel: None, dispatcher)
    fd = ours.fileno()
    theirs.sendall(prefixed(GET_RANDOM, 2))
    turns.watched[fd]()
    assert len(found) == 1
    assert fd not in turns.watched
    found.pop()(Rights(control=is_allowed, secrets=False))
    if is_allowed:
        service.executor.join()
        service.work.settle()
    assert fd in turns.watched
    response = theirs.recv(4096)
    assert result_of(response[4:]) == (0x100 if is_allowed else 0x907)  # TPM_RC_INITIALIZE, TPM_RC_LOCALITY
    channel.close()
    theirs.close()


def test_between_the_requests_of_one_message_nothing_more_is_received(service, turns):
    """Others have their turns then; what comes meanwhile would make the message longer and longer."""
    ours, theirs = socket.socketpair()
    channel = ControlChannel(
        ours, Caller(0, 0, 1), turns, lambda _channel: None, service.dispatcher, lambda _socket, _caller: False
    )
    fd = ours.fileno()
    request = ptm_socket.pack(ptm.GetConfig())
    theirs.sendall(request * 3)
    turns.watched[fd]()
    for left in (2, 1):
        assert fd not in turns.watched
        assert len(turns.posted) == 1
        turns.posted.pop()()
        assert (fd in turns.watched) is (left == 1)
    assert turns.posted == []
    assert theirs.recv(4096) == ptm_socket.encode(ptm.ConfigReply(0, 0)) * 3
    channel.close()
    assert turns.watched == {}
    theirs.close()


@pytest.mark.parametrize("kind", ["control", "data", "data while it is busy", "simulator"])
def test_who_is_woken_for_nothing_goes_on(service, turns, kind):
    """A descriptor may be said to be readable, and is not when it is read."""
    ours, theirs = socket.socketpair()
    ended = []
    fixed = (ours, Caller(0, 0, 1), turns, ended.append, service.dispatcher)
    if kind == "control":
        channel = ControlChannel(*fixed, lambda _socket, _caller: False)
    elif kind == "simulator":
        channel = MssimChannel(*fixed, COMMAND_PORT)
    else:
        channel = DataChannel(*fixed)
    if kind == "data while it is busy":
        service.work.block()
    for _ in range(3):
        turns.watched[ours.fileno()]()
    assert channel.is_open
    assert ended == []
    theirs.close()
    turns.watched[ours.fileno()]()
    assert not channel.is_open
    assert ended == [channel]
    assert turns.watched == {}


@pytest.mark.needs("root")
def test_a_socket_file_is_given_to_a_group_and_to_no_other_user(service, tmp_path):
    path = str(tmp_path / "given")
    address = parse_address(path)
    service.call(lambda: service.frontend.listen(address, "control", mode=0o660, gid=65534, passed=None))
    found = os.stat(path)
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (0, 65534, 0o660)
    own = os.stat(service.path)
    assert (own.st_uid, own.st_gid, stat.S_IMODE(own.st_mode)) == (0, os.getgid(), 0o600)
