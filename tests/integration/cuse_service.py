"""A TPM behind the CUSE front end, without a kernel or a daemon: cuse_kernel.py is the kernel."""

import socket

from cuse_kernel import Kernel
from memory_storage import MemoryStorage

from swtpm_svc.continuity.parking import Park
from swtpm_svc.frontends.cuse.cuse_frontend import CuseFrontend
from swtpm_svc.frontends.dispatch import Dispatcher
from swtpm_svc.state.encryption import NO_KEYS
from swtpm_svc.tpm.controller import Controller, Rights
from swtpm_svc.tpm.executor import Executor
from swtpm_svc.tpm.tpm import Tpm

OPERATOR, STRANGER = 1001, 1002
RIGHTS = {0: Rights(control=True, secrets=True), OPERATOR: Rights(control=True, secrets=False)}


class Events:
    def __init__(self):
        self.refusals, self.failures, self.commands, self.controls, self.gone = [], [], [], [], 0

    def refused(self, caller, error):
        self.refusals.append((caller.uid, error.code))

    def executed(self, caller, command, response):
        self.commands.append((command, response))

    def controlled(self, caller, request, result):
        self.controls.append((caller.uid, type(request), result))

    def failed(self, error):
        self.failures.append(error)

    def device_gone(self):
        self.gone += 1


class Service:
    """A front end on a running TPM 2.0, and the kernel that talks to it."""

    def __init__(self, version="2.0", keys=NO_KEYS):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self.sockets = ours, theirs
        self.events, self.posted = Events(), []
        self.storage = MemoryStorage()
        self.park = Park.create("vtpm0")
        self.tpm = Tpm(version, self.storage, self.events.failed)
        self.shutdowns = []
        self.controller = Controller(
            self.tpm, on_shutdown=lambda: self.shutdowns.append(1), on_error=self.events.failed, keys=keys
        )
        self.executor = Executor(self.posted.append)
        self.frontend = self.make_frontend()
        self.kernel = Kernel(self.frontend.serve_one, theirs, self.finish_work)

    def make_frontend(self):
        def rights(caller):
            return RIGHTS.get(caller.uid, Rights(control=False, secrets=False))

        dispatcher = Dispatcher(self.tpm, self.controller, self.executor, rights, self.events)
        return CuseFrontend(self.sockets[0].fileno(), self.park.slot, self.park.waiters, self.park.polls, dispatcher)

    def start(self):
        self.tpm.power_on(delete_volatile=True)
        assert self.tpm.startup("clear")[6:10] == bytes(4)
        return self

    def finish_work(self):
        """Wait for the worker and run what it posted, until nothing is left to do."""
        while self.executor.busy:
            self.executor.join()
            while self.posted:
                self.posted.pop(0)()
        self.kernel.collect()

    def close(self):
        self.finish_work()
        self.tpm.shut_down()
        self.tpm.buffer_size(self.tpm.buffer_size(0).maximum)  # libtpms keeps it, for the next test of this process too
        for sock in self.sockets:
            sock.close()
