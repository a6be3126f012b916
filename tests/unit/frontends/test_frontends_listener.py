"""A socket that connections arrive on, when there is nothing to take one with: told once, and tried again after a
while."""

import errno
import os
import socket
from types import SimpleNamespace

import pytest

from swtpm_svc.errors import Code
from swtpm_svc.frontends.sockets import listener as listener_module
from swtpm_svc.frontends.sockets.listener import Listener


class Socket:
    """`answers` is what accept() gives, one after the other: a connection, or a number of an error."""

    def __init__(self, answers):
        self.answers, self.is_closed, self.blocks = list(answers), False, True

    def accept(self):
        answer = self.answers.pop(0)
        if isinstance(answer, int):
            raise OSError(answer, os.strerror(answer))
        return answer, ""

    def setblocking(self, blocks):
        self.blocks = blocks

    def fileno(self):
        return 7

    def getsockname(self):
        return "/run/vtpm/vtpm0/ctrl.sock"

    def close(self):
        self.is_closed = True


class Listening:
    def __init__(self, *answers):
        self.socket, self.watched, self.later = Socket(answers), {}, []
        self.taken, self.told = [], []
        watcher = SimpleNamespace(
            add=self.watched.__setitem__,
            remove=self.watched.pop,
            after=lambda delay_s, callback: self.later.append((delay_s, callback)),
        )
        self.listener = Listener(self.socket, watcher, self.taken.append, self.told.append)

    def readable(self):
        self.watched[7]()

    def wait(self):
        """The time passes after which it looks again."""
        ((delay_s, look),) = self.later
        self.later.clear()
        assert delay_s == listener_module._PAUSE_S
        look()


def test_who_connects_is_passed_on():
    listening = Listening("first", "second")
    assert not listening.socket.blocks
    listening.readable()
    listening.readable()
    assert (listening.taken, listening.told) == (["first", "second"], [])


@pytest.mark.parametrize("number", listener_module._EXHAUSTED, ids=errno.errorcode.get)
def test_connections_that_have_to_wait_are_told_of_once_and_taken_later(number):
    listening = Listening(number, number, "first", number)
    listening.readable()
    for _ in range(2):
        assert listening.watched == {}  # it would be called for ever
        listening.wait()
        listening.readable()
    (error,) = listening.told
    assert error.code is Code.TOO_MANY
    assert error.message == f"connections at /run/vtpm/vtpm0/ctrl.sock have to wait: {os.strerror(number)}"
    assert error.remedy
    assert listening.taken == ["first"]
    listening.readable()
    assert len(listening.told) == 2  # it is another time


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ECONNABORTED])
def test_a_client_that_has_gone_already_is_nothing(number):
    listening = Listening(number, "next")
    listening.readable()
    listening.readable()
    assert (listening.taken, listening.told, listening.later) == (["next"], [], [])


@pytest.mark.parametrize("is_waiting", [False, True])
def test_after_its_end_it_is_not_watched_again(is_waiting):
    listening = Listening(errno.EMFILE)
    if is_waiting:
        listening.readable()
        listening.watched[7] = None  # remove() of a loop minds no descriptor that is not there
    listening.listener.close()
    listening.watched.clear()
    if is_waiting:
        listening.wait()
    listening.listener.close()
    assert listening.watched == {}
    assert listening.socket.is_closed


def test_a_real_socket():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        listening = Listening()
        listening.listener.socket = server
        listening.readable()
        with listening.taken[0] as connection:
            assert connection.getpeername() == client.getsockname()
