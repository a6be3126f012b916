"""A TPM behind the CUSE front end, served by a thread with its loop, without a kernel or a daemon."""

import os
import select
import socket

from cuse_kernel import OUT, Kernel
from tpm_service import ThreadedService

from swtpm_svc.continuity.parking import Park
from swtpm_svc.frontends.cuse.cuse_frontend import CuseFrontend


class LiveKernel(Kernel):
    """Waits for the reply to each request."""

    def __init__(self, sock):
        super().__init__(lambda: None, sock)

    def collect(self):
        """The reply to the last request, and what comes before it."""
        while self.unique not in self.replies:
            assert select.select([self.sock], [], [], 30)[0], "no reply within 30 s"
            frame = self.sock.recv(1 << 17)
            length, error, unique = OUT.unpack_from(frame)
            assert length == len(frame)
            assert unique not in self.replies, "answered twice"
            self.replies[unique] = (-error, frame[16:])


class ThreadedCuse(ThreadedService):
    """`kernel` talks to it from the test's thread."""

    def __init__(self, version="2.0"):
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.park = Park.create("vtpm0")
        super().__init__(version)
        park, fd = self.park, self.ours.fileno()
        places = park.slot, park.waiters, park.polls
        self.frontend = CuseFrontend(fd, *places, self.dispatcher, self.loop.lend)
        self.loop.add(fd, self.frontend.serve_one)
        self.kernel = LiveKernel(theirs)
        self.start()
        self.serve()

    @property
    def waits_in_read(self):
        """Does it wait in C, in a read() of the device?"""
        return os.get_blocking(self.ours.fileno())  # not what Python's socket thinks

    def close_frontend(self):
        self.loop.remove(self.ours.fileno())

    def close(self):
        super().close()
        self.park.close()
        self.ours.close()
        self.kernel.sock.close()
        vars(self.kernel).clear()
        vars(self).clear()
