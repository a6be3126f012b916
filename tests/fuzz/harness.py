"""What the fuzz targets share: a real TPM, front ends without a daemon, and what must be so after any input.

Nothing here needs atheris, so that tests/integration/frontends/test_fuzz_targets.py can run the targets on their seeds.
"""

import array
import os
import random
import select
import socket
import zlib

from tpm_service import Service

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.tpm.controller import Rights
from swtpm_svc.wire.caller import Caller

MAX_TURNS = 100_000


class FaultsRaise:
    """What a front end tells the service; a fault of the program ends the run."""

    def refused(self, caller, error):
        pass

    def executed(self, caller, command, response):
        assert isinstance(command, bytes)
        assert len(response) >= 10

    def controlled(self, caller, request, result):
        pass

    def failed(self, error):
        if error.code is Code.INTERNAL:
            raise AssertionError(error.message)

    def device_gone(self):
        raise AssertionError("the device is gone")


class Turns:
    """The serving loop, a turn at a time: nothing runs but in `settle`."""

    def __init__(self):
        self.readers, self.writers, self.posted = {}, {}, []
        self.executor = None

    def add(self, fd, on_readable):
        assert fd not in self.readers
        self.readers[fd] = on_readable

    def remove(self, fd):
        self.readers.pop(fd, None)
        self.writers.pop(fd, None)

    def want_write(self, fd, on_writable):
        assert fd in self.readers
        if on_writable is None:
            self.writers.pop(fd, None)
        else:
            self.writers[fd] = on_writable

    def lend(self):
        return -1, 0.0  # nothing else will happen: one command, and back

    def post(self, callback):
        self.posted.append(callback)

    def settle(self):
        """Serve until there is nothing to do."""
        for _ in range(MAX_TURNS):
            ready = self._ready()
            for fd, events in ready:
                if events & select.POLLOUT and fd in self.writers:
                    self.writers[fd]()
                if events & ~select.POLLOUT and fd in self.readers:
                    self.readers[fd]()
            if ready:
                continue
            self.executor.join()
            if not self.posted:
                return
            self.posted.pop(0)()
        raise AssertionError("it does not come to rest")

    def _ready(self):
        poll = select.poll()
        for fd in self.readers:
            poll.register(fd, select.POLLIN | (select.POLLOUT if fd in self.writers else 0))
        return poll.poll(0)


class FuzzedService(Service):
    """A TPM behind a dispatcher, made anew (`reset`) for each input."""

    def __init__(self, version="2.0"):
        self.version = version
        self.turns = Turns()
        self.rights = Rights(control=True, secrets=True)
        super().__init__(
            version, post=self.turns.posted.append, rights=lambda _caller: self.rights, events=FaultsRaise()
        )
        self.turns.executor = self.executor
        self.start(startup=None)
        self.pristine = dict(self.storage.blobs)
        self.descriptors = 0

    def reset(self, data):
        """A started TPM and a source of chance, both the same for the same input."""
        chance = random.Random(zlib.crc32(data))
        if self.version == "2.0" or not self.tpm.is_running:  # a reset of a TPM 1.2 takes a third of a second
            self._power_cycle()
        self.rights = Rights(control=chance.random() < 0.8, secrets=chance.random() < 0.5)
        self.descriptors = len(os.listdir("/proc/self/fd"))
        return chance

    def _power_cycle(self):
        self.tpm.stop()
        self.tpm.set_locality(0)
        self.tpm.buffer_size(4096)
        self.storage.blobs = dict(self.pristine)
        try:
            self.tpm.power_on(delete_volatile=True)
        except VtpmError:  # what was offered is not a state blob, which is said once
            self.tpm.power_on(delete_volatile=True)
        assert self.tpm.startup("clear")[6:10] == bytes(4)

    def check(self):
        """After an input, its peers gone: nothing is left of it."""
        self.turns.settle()
        assert not self.executor.busy
        assert not self.turns.readers, "a connection is still there"
        found = len(os.listdir("/proc/self/fd"))
        assert found <= self.descriptors, f"{found} descriptors, there were {self.descriptors}"

    def feed(self, make_channel, data, chance, *, descriptors=False):
        """Send `data` in random pieces to the channel that `make_channel(socket, caller)` makes; read now and then."""
        ours, peer = socket.socketpair()
        peer.setblocking(False)
        channel = make_channel(ours, Caller(1000, 1000, 4711))
        reads = chance.random() < 0.9
        while data:
            size = chance.choice((1, 3, 4, 12, 100, 5000, len(data)))
            piece, data = data[:size], data[size:]
            try:
                if descriptors and chance.random() < 0.2:
                    self._send_descriptors(peer, piece, chance)
                else:
                    peer.send(piece)
            except OSError:
                break  # it was disconnected
            self.turns.settle()
            if reads:
                _drain(peer)
        peer.close()
        self.turns.settle()
        assert not channel.is_open

    @staticmethod
    def _send_descriptors(peer, piece, chance):
        pair = socket.socketpair(type=chance.choice((socket.SOCK_STREAM, socket.SOCK_DGRAM)))
        pipe = os.pipe()
        fds = chance.sample([pair[0].fileno(), *pipe], chance.randint(1, 3))
        try:
            peer.sendmsg([piece], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
        finally:
            for sock in pair:
                sock.close()
            for fd in pipe:
                os.close(fd)


def _drain(peer):
    try:
        while peer.recv(1 << 20):
            pass
    except OSError:
        pass
