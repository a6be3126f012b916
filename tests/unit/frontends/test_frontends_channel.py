"""One connection: what its peer does not read waits, up to a limit, and a peer that goes ends it once."""

import socket
from functools import partial

import pytest

from swtpm_svc.frontends.sockets import channel as channel_module
from swtpm_svc.frontends.sockets.channel import Channel
from swtpm_svc.wire.caller import Caller

#: More than the kernel keeps for a peer that does not read.
MUCH = 1 << 20


class Watched(dict):
    """A loop that calls nobody back: who waits to read, by descriptor, and who to write."""

    def __init__(self):
        self.writers = {}

    def add(self, fd, on_readable):
        assert fd not in self
        self[fd] = on_readable

    def remove(self, fd):
        if self.pop(fd, None):
            self.writers.pop(fd, None)

    def want_write(self, fd, on_writable):
        assert fd in self
        self.writers[fd] = on_writable
        if on_writable is None:
            del self.writers[fd]


class Connection:
    def __init__(self):
        ours, self.peer = socket.socketpair()
        self.peer.settimeout(5)
        self.fd, self.loop, self.closed = ours.fileno(), Watched(), []
        self.channel = Channel(ours, Caller(1, 1, 1), self.loop, self.closed.append)

    def fill(self):
        """Send until the peer's buffer takes no more; all that was sent."""
        sent = b""
        while not self.loop.writers:
            sent += bytes(range(256)) * 64
            self.channel.send(sent[-256 * 64 :])
        return sent

    def read(self, size):
        """What the peer reads, while the loop calls back who waits to write."""
        found = b""
        while len(found) < size:
            found += self.peer.recv(MUCH)
            for write in list(self.loop.writers.values()):
                write()
        return found

    @property
    def has_ended(self):
        return (self.closed, self.channel.is_open, dict(self.loop), self.loop.writers) == (
            [self.channel],
            False,
            {},
            {},
        )


@pytest.fixture
def connection():
    made = Connection()
    yield made
    made.channel.close()
    made.peer.close()


def test_what_the_peer_has_no_room_for_comes_later_and_in_order(connection):
    sent = connection.fill()
    for number in range(3):
        sent += bytes([number]) * 100
        connection.channel.send(sent[-100:])
    assert connection.read(len(sent)) == sent
    assert connection.loop.writers == {}  # it would be called for ever
    connection.channel.send(b"more")
    assert connection.peer.recv(100) == b"more"
    assert connection.closed == []


@pytest.mark.parametrize("over", [0, 1])
def test_a_peer_that_leaves_too_much_unread_is_disconnected(connection, monkeypatch, over):
    monkeypatch.setattr(channel_module, "MAX_UNSENT", MUCH)
    connection.fill()
    connection.channel.send(bytes(MUCH + over - len(connection.channel._unsent)))
    if over:
        assert connection.has_ended
    else:
        assert connection.closed == []
        assert len(connection.channel._unsent) == MUCH


def test_one_message_that_is_too_much_is_no_exception(connection, monkeypatch):
    monkeypatch.setattr(channel_module, "MAX_UNSENT", 1000)
    connection.channel.send(bytes(4 * MUCH))
    assert connection.has_ended


def test_what_waits_is_sent_when_a_pause_is_over(connection):
    sent = connection.fill()
    connection.channel.pause()
    connection.channel.pause()
    assert (dict(connection.loop), connection.loop.writers) == ({}, {})
    connection.channel.send(b"later")
    assert connection.loop.writers == {}
    connection.channel.go_on()
    connection.channel.go_on()
    assert connection.read(len(sent) + 5) == sent + b"later"


def test_what_has_no_room_in_a_pause_waits_for_its_end(connection):
    connection.channel.pause()
    connection.channel.send(bytes(MUCH))
    assert connection.loop.writers == {}
    connection.channel.go_on()
    assert connection.read(MUCH) == bytes(MUCH)


def test_a_pause_of_nothing_unsent_does_not_wait_to_write(connection):
    connection.channel.pause()
    connection.channel.go_on()
    assert list(connection.loop) == [connection.fd]
    assert connection.loop.writers == {}


def test_a_peer_that_has_gone_ends_it_once(connection):
    connection.peer.close()
    connection.channel.send(b"answer")
    assert connection.has_ended
    for again in (partial(connection.channel.send, b"answer"), connection.channel.close, connection.channel.go_on):
        again()
        assert connection.has_ended


def test_a_peer_that_goes_while_something_waits_ends_it(connection):
    connection.fill()
    connection.peer.close()
    (write,) = connection.loop.writers.values()
    write()
    assert connection.has_ended


def test_a_call_too_many_changes_nothing(connection):
    sent = connection.fill()
    (write,) = connection.loop.writers.values()
    write()
    assert connection.closed == []
    assert connection.read(len(sent)) == sent
