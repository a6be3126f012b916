"""A TPM behind the socket front end, served by a thread, without a daemon: for tests that are about the protocol."""

import os
import secrets
import socket
import threading
import time

from memory_storage import MemoryStorage

from swtpm_svc.config.addresses import parse_address
from swtpm_svc.frontends.dispatch import Dispatcher
from swtpm_svc.frontends.sockets.socket_frontend import SocketFrontend
from swtpm_svc.service.loop import Loop
from swtpm_svc.tpm.controller import Controller, Rights
from swtpm_svc.tpm.executor import Executor
from swtpm_svc.tpm.tpm import Tpm

ALL = Rights(control=True, secrets=True)


def free_ports():
    """A TCP port that is free, as is the next one; of each of the processes that run tests at a time another one."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    while True:
        port = 20000 + number % 12 * 1000 + secrets.randbelow(998)  # not random's, which hypothesis seeds
        with socket.socket() as first, socket.socket() as second:
            try:
                first.bind(("127.0.0.1", port))
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


class Recorder:
    """What the front end told the service."""

    def __init__(self):
        self.failures, self.refusals, self.executions = [], [], []

    def refused(self, caller, error):
        self.refusals.append((caller.uid, error))

    def executed(self, caller, command, response):
        self.executions.append((command, response))

    def controlled(self, caller, request, result):
        pass

    def failed(self, error):
        self.failures.append(error)


class SocketService:
    """`path` is the data socket, `path`.ctrl the control socket, as tpm2-tss looks for them.

    `tcp`: both over TCP too, on this port and the next; `mssim`: that protocol's two ports likewise.
    """

    def __init__(self, path, version="2.0", power=True, rights=ALL, tcp=None, mssim=None):
        self.path, self.control_path = path, f"{path}.ctrl"
        self.recorder, self.shutdowns = Recorder(), []
        self.loop = Loop()
        self.storage = MemoryStorage()
        self.tpm = Tpm(version, self.storage, self.recorder.failed)
        controller = Controller(self.tpm, on_shutdown=lambda: self.shutdowns.append(1), on_error=self.recorder.failed)
        self.executor = Executor(self.loop.post)
        self.dispatcher = Dispatcher(self.tpm, controller, self.executor, lambda _caller: rights, self.recorder)
        self.frontend = SocketFrontend(self.loop, self.dispatcher)
        self.frontend.listen(parse_address(path), "data", mode=0o600, gid=None, passed=None)
        self.frontend.listen(parse_address(self.control_path), "control", mode=0o600, gid=None, passed=None)
        if tcp:
            self.frontend.listen(parse_address(f"tcp:{tcp}"), "data", mode=0, gid=None, passed=None)
            self.frontend.listen(parse_address(f"tcp:{tcp + 1}"), "control", mode=0, gid=None, passed=None)
        if mssim:
            address = parse_address(f"tcp:{mssim}")
            self.frontend.listen(address, "mssim", mode=0, gid=None, passed=None)
            self.frontend.listen(address.next_port, "mssim-platform", mode=0, gid=None, passed=None)
        if power:
            self.tpm.power_on(delete_volatile=True)
        self._thread = threading.Thread(target=self.loop.run)
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

    def wait_for_connections(self, number):
        deadline = time.monotonic() + 10
        while (found := self.call(lambda: self.frontend.connections)) != number:
            assert time.monotonic() < deadline, f"{found} connections, not {number}"
            time.sleep(0.01)

    def close(self):
        self.loop.post(self.loop.stop)
        self._thread.join(30)
        self.executor.join()
        self.loop.run_posted()
        self.frontend.close(keep_files=False)
        self.tpm.set_locality(0)
        self.tpm.shut_down()
        self.tpm.buffer_size(self.tpm.buffer_size(0).maximum)  # libtpms keeps it, for the next test of this process too
        self.loop.__exit__()
