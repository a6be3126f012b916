"""A client's round trip through a real /dev/cuse: ours as a ratio of the least C server that does the same work,
interleaved.

That is cuse_server.c: libfuse's cuse_lowlevel and libtpms, open, write and read. Needs /dev/cuse, root, udev and
libfuse3-dev; without /dev/cuse it runs itself in the User-Mode Linux lab. A round asks each server in turn for the same
batch. `ratio` is of the times that a tenth of the rounds kept below, which other work on the machine hardly moves;
`median` is of the medians, with the quartiles of the rounds' own ratios. Below 1 ours is faster. All is measured twice:
`pinned` to one processor, where it takes all that each side does, and `free`, where the scheduler decides what runs
beside what.
"""

import os
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
LAB = os.path.join(HERE, "..", "tests", "lab")
sys.path[:0] = [f"{LAB}/uml", f"{LAB}/.."]

from device_clients import Client, wait_for
from manager import Instance
from tpm_commands import GET_RANDOM, PCR_EXTEND_16, PCR_READ_16, STARTUP_CLEAR

ROUNDS, BATCH = 500, 10
PLAIN = "vtpm-plain"
PROGRAM = "/tmp/cuse_server"


def start_plain_server():
    """The C server, compiled as ours is."""
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "fuse3"], capture_output=True, text=True, check=True
    ).stdout.split()
    subprocess.run(["cc", "-O2", "-o", PROGRAM, f"{HERE}/cuse_server.c", *flags, "-ltpms"], check=True)
    server = subprocess.Popen([PROGRAM, PLAIN])
    wait_for(lambda: os.path.exists(f"/dev/{PLAIN}"), "the device of the C server")
    return server


def round_trip_us(client, command):
    begin = time.perf_counter()
    for _ in range(BATCH):
        client(command)
    return (time.perf_counter() - begin) / BATCH * 1e6


def measure(word):
    server = start_plain_server()
    instance = Instance("vtpm0").start()
    try:
        ours, theirs = Client(instance.device), Client(f"/dev/{PLAIN}")
        theirs(STARTUP_CLEAR)
        for name, command in (("GetRandom", GET_RANDOM), ("PCR_Read", PCR_READ_16), ("PCR_Extend", PCR_EXTEND_16)):
            rounds = [(round_trip_us(theirs, command), round_trip_us(ours, command)) for _ in range(ROUNDS)]
            columns = list(zip(*rounds))
            plain, whole = (statistics.quantiles(column, n=10)[0] for column in columns)
            middle = statistics.median(columns[1]) / statistics.median(columns[0])
            low, _middle, high = statistics.quantiles([mine / other for other, mine in rounds], n=4)
            line = f"{word:7} {name:11} {plain:8.1f} {whole:8.1f} {whole / plain:6.2f}"
            print(f"{line} {middle:8.2f} ({low:.2f}-{high:.2f})", flush=True)
        ours.close()
        theirs.close()
    finally:
        instance.close()
        server.kill()
        server.wait()


def main():
    if sys.argv[1:]:
        measure(sys.argv[1])
        return
    print("round trip (write and read) at the device, us", flush=True)
    print(f"{'':19} {'C server':>8} {'ours':>8} {'ratio':>6} {'median':>8}", flush=True)
    lab = [] if os.path.exists("/dev/cuse") else [f"{LAB}/uml.sh", "-t", "280"]
    processors = os.sched_getaffinity(0)
    for word, allowed in (("pinned", {min(processors)}), ("free", processors)):
        os.sched_setaffinity(0, allowed)
        subprocess.run([*lab, "python", os.path.abspath(__file__), word], check=True)


if __name__ == "__main__":
    main()
