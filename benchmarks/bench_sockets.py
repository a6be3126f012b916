"""A command's round trip through a UNIX and a TCP data socket: ours as a ratio of the distribution's swtpm, interleaved.

Both are processes of their own, both serve a TPM 2.0 that keeps its state in a directory in memory or on disk, as /tmp is;
the client is this process. The ratio is of medians; below 1 ours is faster. All run on one processor: on two, it is the
scheduler that is measured, which moves client and server apart or together (ratios of 1.4 and of 4 were seen on an idle
virtual machine of two processors, with the same code).
"""

import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "tests", place) for place in ("", "integration")]

from tpm_commands import GET_RANDOM, PCR_EXTEND_16, PCR_READ_16, STARTUP_CLEAR

ROUNDS, BATCH = 60, 100
TCP_THEIRS, TCP_OURS = 25210, 25220

SERVER = """
import sys
sys.path[:0] = {paths!r}
from swtpm_svc.frontends.dispatch import Dispatcher
from swtpm_svc.frontends.sockets import SocketFrontend, parse_address
from swtpm_svc.service.loop import Loop
from swtpm_svc.state.store import Store
from swtpm_svc.tpm.controller import Controller, Rights
from swtpm_svc.tpm.executor import Executor
from swtpm_svc.tpm.tpm import Tpm
loop = Loop()
tpm = Tpm("2.0", Store.open({state!r}, "2.0"), print)
tpm.power_on(delete_volatile=True)
controller = Controller(tpm, on_shutdown=loop.stop, on_error=print)
class Events:
    def __getattr__(self, name):
        return print
rights = Rights(control=True, secrets=True)
front = SocketFrontend(loop, Dispatcher(tpm, controller, Executor(loop.post), lambda _caller: rights, Events()))
for address in ({unix!r}, "tcp:{tcp}"):
    front.listen(parse_address(address), "data", mode=0o600, gid=None, passed=None)
loop.run()
"""


def connect(where):
    deadline = time.monotonic() + 10
    while True:
        sock = socket.socket(socket.AF_UNIX if isinstance(where, str) else socket.AF_INET)
        try:
            sock.connect(where)
        except OSError:
            sock.close()
            assert time.monotonic() < deadline, where
            time.sleep(0.05)
            continue
        if sock.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock


def round_trip_us(sock, command):
    begin = time.perf_counter()
    for _ in range(BATCH):
        sock.send(command)
        sock.recv(4096)
    return (time.perf_counter() - begin) / BATCH * 1e6


def compare(title, theirs, ours):
    for sock in (theirs, ours):
        sock.send(STARTUP_CLEAR)
        sock.recv(4096)
    for name, command in (("GetRandom", GET_RANDOM), ("PCR_Read", PCR_READ_16), ("PCR_Extend", PCR_EXTEND_16)):
        times = [(round_trip_us(theirs, command), round_trip_us(ours, command)) for _ in range(ROUNDS)]
        swtpm, mine = (statistics.median(column) for column in zip(*times))
        print(f"{title:5} {name:12} {swtpm:10.1f} {mine:10.1f} {mine / swtpm:7.2f}")


def main():
    if shutil.which("swtpm") is None:
        sys.exit("no swtpm: apt-get install swtpm")
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    directory = tempfile.mkdtemp(prefix="vtpm-bench-")
    processes = []
    try:
        for name in ("theirs", "ours"):
            os.mkdir(f"{directory}/{name}")
        code = SERVER.format(
            paths=[os.path.join(HERE, "..")], state=f"{directory}/ours", unix=f"{directory}/ours.sock", tcp=TCP_OURS
        )
        processes.append(subprocess.Popen([sys.executable, "-c", code]))
        print("round trip through a data socket, us, medians")
        print(f"{'':5} {'':12} {'swtpm':>10} {'ours':>10} {'ratio':>7}")
        for title, server, theirs, ours in (
            ("UNIX", f"type=unixio,path={directory}/theirs.sock", f"{directory}/theirs.sock", f"{directory}/ours.sock"),
            ("TCP", f"type=tcp,port={TCP_THEIRS}", ("127.0.0.1", TCP_THEIRS), ("127.0.0.1", TCP_OURS)),
        ):
            words = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={directory}/theirs", "--flags", "not-need-init"]
            process = subprocess.Popen([*words, "--server", server])
            processes.append(process)
            with connect(theirs) as one, connect(ours) as other:
                compare(title, one, other)
            process.kill()
            process.wait()
    finally:
        for process in processes:
            process.kill()
            process.wait()
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
