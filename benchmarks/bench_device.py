"""A client's round trip through a real /dev/cuse: ours beside the least that a CUSE server can do.

Needs /dev/cuse, root and udev; elsewhere it runs itself in the User-Mode Linux lab. The bare server uses the same codec
and answers with fixed bytes, so its time is the kernel's, Python's and the codec's; the difference is the TPM and ours.
All of it runs on one processor, or the figures are the scheduler's (bench_sockets.py).
"""

import os
import statistics
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
LAB = os.path.join(HERE, "..", "tests", "lab")
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
if not os.path.exists("/dev/cuse"):
    os.execv(f"{LAB}/uml.sh", ["uml.sh", "-t", "280", "python", os.path.abspath(__file__)])

sys.path[:0] = [f"{LAB}/uml", f"{LAB}/.."]

from device_clients import Client, wait_for
from manager import Instance
from tpm_commands import GET_RANDOM, PCR_EXTEND_16, PCR_READ_16

from swtpm_svc.frontends.cuse import handshake
from swtpm_svc.wire import cuse, fuse

ROUNDS, BATCH = 40, 50
ECHO = "vtpm-echo"


def serve_echo():
    """A CUSE server that answers each command with 20 bytes."""
    fd = handshake.open_cuse()
    handshake.initialise(fd, ECHO, 0, 0)
    os.set_blocking(fd, True)
    frame = bytearray(cuse.MAX_REQUEST)
    view = memoryview(frame)
    answer = bytes(20)
    while True:
        request = cuse.decode(view[: os.readv(fd, [frame])])
        if isinstance(request, cuse.Write):
            reply = cuse.reply_write(request.unique, len(request.data))
        elif isinstance(request, cuse.Read):
            reply = cuse.reply_data(request.unique, answer)
        elif isinstance(request, cuse.Open):
            reply = cuse.reply_open(request.unique, 1, fuse.FOPEN_DIRECT_IO | fuse.FOPEN_NONSEEKABLE)
        else:
            reply = cuse.reply_empty(request.unique)
        os.write(fd, reply)


def round_trip_us(client, command):
    begin = time.perf_counter()
    for _ in range(BATCH):
        client(command)
    return (time.perf_counter() - begin) / BATCH * 1e6


def main():
    echo_pid = os.fork()
    if echo_pid == 0:
        serve_echo()
    wait_for(lambda: os.path.exists(f"/dev/{ECHO}"), "the echo device")
    instance = Instance("vtpm0").start()
    try:
        ours, echo = Client(instance.device), Client(f"/dev/{ECHO}")
        print("round trip (write and read) by the kernel, us, medians")
        print(f"{'':12} {'bare echo':>10} {'ours':>10} {'ratio':>7}")
        for name, command in (("GetRandom", GET_RANDOM), ("PCR_Read", PCR_READ_16), ("PCR_Extend", PCR_EXTEND_16)):
            times = [(round_trip_us(echo, command), round_trip_us(ours, command)) for _ in range(ROUNDS)]
            bare, whole = (statistics.median(column) for column in zip(*times))
            print(f"{name:12} {bare:10.1f} {whole:10.1f} {whole / bare:7.2f}")
        ours.close()
        echo.close()
    finally:
        instance.close()
        os.kill(echo_pid, 9)


if __name__ == "__main__":
    main()
