"""A command's round trip through a UNIX and a TCP data socket: ours as a ratio of the distribution's swtpm,
interleaved.

Ours is the daemon, once with no other connection and once with 64 that are open and idle (swtpm takes one at a time).
All serve a TPM 2.0 that keeps its state in a directory below /tmp; the client is this process. A round asks each server
in turn for the same batch; the ratio is of the medians of all rounds, and below 1 ours is faster; the spread is that of
the rounds' own ratios, their quartiles. All run on one processor: on two, it is the scheduler that is measured, which
moves client and server apart or together (ratios of 1.4 and of 4 were seen on an idle virtual machine of two
processors, with the same code).
"""

import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "tests", place) for place in ("", "integration")]

from daemon_process import DaemonProcess
from tpm_commands import GET_RANDOM, PCR_EXTEND_16, PCR_READ_16, STARTUP_CLEAR

ROUNDS, BATCH = 500, 20
IDLE = 64
PORT = 25210


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


def compare(title, socks):
    for sock in socks:
        sock.send(STARTUP_CLEAR)
        sock.recv(4096)
    for name, command in (("GetRandom", GET_RANDOM), ("PCR_Read", PCR_READ_16), ("PCR_Extend", PCR_EXTEND_16)):
        rounds = [[round_trip_us(sock, command) for sock in socks] for _ in range(ROUNDS)]
        theirs, *ours = (statistics.median(column) for column in zip(*rounds))
        line = f"{title:5} {name:11} {theirs:8.1f}"
        for column, mine in enumerate(ours, 1):
            low, _middle, high = statistics.quantiles([times[column] / times[0] for times in rounds], n=4)
            line += f" {mine:10.1f} {mine / theirs:6.2f} ({low:.2f}-{high:.2f})"
        print(line)


class Ours:
    """A daemon with `idle` connections, half of them at each of its two sockets: an account has 64 in all."""

    def __init__(self, directory, name, data, control, idle):
        keys = f'data = "{data if isinstance(data, str) else f"tcp:{data[1]}"}"\n'
        keys += f'control = "{control if isinstance(control, str) else f"tcp:{control[1]}"}"'
        os.mkdir(f"{directory}/{name}")
        self.daemon = DaemonProcess(f"{directory}/{name}", name, socket_keys=keys)
        self.daemon.start()
        self.idle = [connect((data, control)[number % 2]) for number in range(idle)]
        self.client = connect(data)

    def close(self):
        for sock in (self.client, *self.idle):
            sock.close()
        self.daemon.stop(signal.SIGKILL)


def measure(directory, title, server, theirs, ours):
    os.mkdir(f"{directory}/{title}")
    words = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={directory}/{title}", "--flags", "not-need-init"]
    process = subprocess.Popen([*words, "--server", server])
    daemons = []
    try:
        for name, data, control, idle in ours:
            daemons.append(Ours(directory, name, data, control, idle))
        with connect(theirs) as client:
            compare(title, [client, *(daemon.client for daemon in daemons)])
    finally:
        process.kill()
        process.wait()
        for daemon in daemons:
            daemon.close()


def main():
    if shutil.which("swtpm") is None:
        sys.exit("no swtpm: apt-get install swtpm")
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    directory = tempfile.mkdtemp(prefix="vtpm-bench-")
    tcp = [("127.0.0.1", PORT + number) for number in range(5)]
    unix = [f"{directory}/{number}" for number in range(5)]
    print("round trip through a data socket, us, medians; ratios with their quartiles; all on one processor")
    print(f"{'':17} {'swtpm':>8} {'ours':>10} {'ratio':>6} {'':11} {f'{IDLE} idle':>10} {'ratio':>6}")
    try:
        measure(
            directory, "UNIX", f"type=unixio,path={unix[0]}", unix[0],
            [("u0", unix[1], tcp[1], 0), (f"u{IDLE}", unix[2], tcp[2], IDLE)],
        )  # fmt: skip
        measure(
            directory, "TCP", f"type=tcp,port={tcp[0][1]}", tcp[0],
            [("t0", tcp[3], unix[3], 0), (f"t{IDLE}", tcp[4], unix[4], IDLE)],
        )  # fmt: skip
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
