"""A TPM behind the socket front end, served by a thread, without a daemon: for tests that are about the protocol."""

import os
import secrets
import socket
import time

from tpm_service import ALL, ThreadedService

from swtpm_svc.config.addresses import parse_address
from swtpm_svc.frontends.sockets.socket_frontend import SocketFrontend


def free_ports():
    """A TCP port that is free, as is the next one; of each of the processes that run tests at a time another one."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw11")[2:])
    while True:
        port = 20000 + number % 12 * 1000 + secrets.randbelow(998)  # not random's, which hypothesis seeds
        with socket.socket() as first, socket.socket() as second:
            try:
                first.bind(("127.0.0.1", port))
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


class SocketService(ThreadedService):
    """`path` is the data socket, `path`.ctrl the control socket, as tpm2-tss looks for them; of a TPM 2.0 `path`.managed
    is a managed data socket.

    `tcp`: both over TCP too, on this port and the next; `mssim`: that protocol's two ports likewise.
    """

    def __init__(self, path, version="2.0", power=True, rights=ALL, tcp=None, mssim=None):
        self.path, self.control_path = path, f"{path}.ctrl"
        super().__init__(version, rights=lambda _caller: rights)
        self.frontend = SocketFrontend(self.loop, self.dispatcher)
        self.frontend.listen(parse_address(path), "data", mode=0o600, gid=None, passed=None)
        self.frontend.listen(parse_address(self.control_path), "control", mode=0o600, gid=None, passed=None)
        if version == "2.0":
            self.frontend.listen(parse_address(f"{path}.managed"), "managed", mode=0o600, gid=None, passed=None)
        if tcp:
            self.frontend.listen(parse_address(f"tcp:{tcp}"), "data", mode=0, gid=None, passed=None)
            self.frontend.listen(parse_address(f"tcp:{tcp + 1}"), "control", mode=0, gid=None, passed=None)
        if mssim:
            address = parse_address(f"tcp:{mssim}")
            self.frontend.listen(address, "mssim", mode=0, gid=None, passed=None)
            self.frontend.listen(address.next_port, "mssim-platform", mode=0, gid=None, passed=None)
        if power:
            self.start(startup=None)
        self.serve()

    def wait_for_connections(self, number):
        deadline = time.monotonic() + 10
        while (found := self.call(lambda: self.frontend.connections)) != number:
            assert time.monotonic() < deadline, f"{found} connections, not {number}"
            time.sleep(0.01)

    def close_frontend(self):
        self.frontend.close(keep_files=False)
