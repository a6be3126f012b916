"""A TPM behind the CUSE front end, without a kernel or a daemon: cuse_kernel.py is the kernel."""

import socket
import struct

from cuse_kernel import Kernel
from tpm_service import ALL, Service

from swtpm_svc.continuity.parking import Park
from swtpm_svc.frontends.cuse.cuse_frontend import CuseFrontend
from swtpm_svc.frontends.cuse.device_opener import DeviceOpener
from swtpm_svc.frontends.dispatch import Dispatcher
from swtpm_svc.tpm.controller import Rights
from swtpm_svc.wire import fuse

OPERATOR, STRANGER = 1001, 1002
RIGHTS = {0: ALL, OPERATOR: Rights(control=True, secrets=False)}


def no_loop():
    """There is no loop to wait on: one request, and no more."""
    return -1, 0.0


def rights_of(caller):
    return RIGHTS.get(caller.uid, Rights(control=False, secrets=False))


class CuseService(Service):
    """The front end, and the kernel that talks to it; the test is the serving thread."""

    def __init__(self, version="2.0", **kw):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self.sockets, self.posted = (ours, theirs), []
        self.park = Park.create("vtpm0")
        super().__init__(version, post=self.posted.append, rights=rights_of, **kw)
        self.frontend = self.make_frontend()
        self.kernel = Kernel(self.frontend.serve_one, theirs, self.finish_work)

    def make_frontend(self, *, make_opener=DeviceOpener, lend=no_loop, **dispatch):
        """As that of a successor; `dispatch` are words for its dispatcher."""
        words = {"rights_of": rights_of, **dispatch}
        dispatcher = Dispatcher(self.tpm, self.controller, self.executor, events=self.events, **words)
        park, fd = self.park, self.sockets[0].fileno()
        return CuseFrontend(fd, park.slot, park.waiters, park.polls, dispatcher, lend, make_opener)

    def finish_work(self):
        """Wait for the worker and run what it posted, until nothing is left to do."""
        while self.executor.busy:
            self.executor.join()
            while self.posted:
                self.posted.pop(0)()
        self.kernel.collect()

    def close(self):
        self.finish_work()
        super().close()
        self.park.close()
        for sock in self.sockets:
            sock.close()
        # the mapping of the park has a descriptor too, for as long as anything knows a front end on it
        vars(self.kernel).clear()
        vars(self).clear()


def exchange(kernel, handle, command):
    error, body = kernel.call_and_wait(fuse.Opcode.WRITE, kernel.write_body(handle, command))
    assert (error, struct.unpack_from("=I", body)[0]) == (0, len(command))
    error, response = kernel.read(handle)
    assert error == 0
    return response
