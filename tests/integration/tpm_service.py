"""A TPM behind a dispatcher in this process, without a daemon: what is the same whichever way its clients come.

The part of each front end is in a module of its own: cuse_service, socket_service, fuse_service, and in
test_kernel_frontend and tests/fuzz/harness.py.
"""

import threading

from memory_storage import MemoryStorage

from swtpm_svc.frontends.dispatch import Dispatcher
from swtpm_svc.service.loop import Loop
from swtpm_svc.state.encryption import NO_KEYS
from swtpm_svc.tpm import libtpms
from swtpm_svc.tpm.controller import Controller, Rights
from swtpm_svc.tpm.executor import Executor
from swtpm_svc.tpm.tpm import Tpm

ALL = Rights(control=True, secrets=True)


def put_away(tpm):
    """Shut `tpm` down, and leave libtpms as a new process has it: its globals are those of the next test too."""
    tpm.shut_down()
    libtpms.terminate()
    libtpms.Callbacks.failure = None
    libtpms.set_buffer_size(libtpms.set_buffer_size(0).maximum)
    if tpm.version == "2.0":  # that of a TPM 1.2 is in its state, and libtpms 0.9.2 crashes when it is asked without
        libtpms.set_locality(4)
        assert libtpms.reset_established() == 0
    libtpms.set_locality(0)


class Events:
    """What a front end told the service."""

    def __init__(self):
        self.refusals, self.executions, self.controls, self.failures, self.gone = [], [], [], [], 0

    def refused(self, caller, error):
        self.refusals.append((caller.uid, error.code))

    def executed(self, caller, command, response):
        self.executions.append((command, response))

    def controlled(self, caller, request, result):
        self.controls.append((caller.uid, type(request), result))

    def failed(self, error):
        self.failures.append(error)

    def device_gone(self):
        self.gone += 1


class Service:
    """`post` has a callback run on the serving thread, soon. What clients ask to end is counted in `shutdowns`."""

    def __init__(
        self,
        version="2.0",
        *,
        post,
        rights=lambda _caller: ALL,
        keys=NO_KEYS,
        events=None,
        storage=None,
        on_shutdown=None,
    ):
        self.events = events or Events()
        self.shutdowns = []
        self.storage = storage or MemoryStorage()
        self.tpm = Tpm(version, self.storage, self.events.failed)
        on_shutdown = on_shutdown or (lambda: self.shutdowns.append(1))
        self.controller = Controller(self.tpm, on_shutdown=on_shutdown, on_error=self.events.failed, keys=keys)
        self.executor = Executor(post)
        self.dispatcher = Dispatcher(self.tpm, self.controller, self.executor, rights, self.events)

    def start(self, startup="clear"):
        self.tpm.power_on(delete_volatile=True)
        if startup:
            assert self.tpm.startup(startup)[6:10] == bytes(4)
        return self

    def execute(self, command):
        """A command that comes by no front end."""
        return self.tpm.execute(memoryview(bytearray(command)), int.from_bytes(command[6:10], "big"))

    def close(self):
        put_away(self.tpm)


class ThreadedService(Service):
    """A thread serves its front end, which is `frontend` once it is made; `serve` starts the thread."""

    def __init__(self, version="2.0", **kw):
        self.loop = Loop()
        super().__init__(version, post=self.loop.post, **kw)
        self._thread = threading.Thread(target=self.loop.run)

    def serve(self):
        self._thread.start()

    def call(self, function):
        """Run `function` on the serving thread and wait for its result."""
        done, results = threading.Event(), []

        def work():
            results.append(function())
            done.set()

        self.loop.post(work)
        assert done.wait(10)
        return results[0]

    def close_frontend(self):
        self.frontend.close()

    def close(self):
        self.loop.post(self.loop.stop)
        self._thread.join(30)
        self.executor.join()
        self.loop.run_posted()
        self.close_frontend()
        super().close()
        self.loop.__exit__()
