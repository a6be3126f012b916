"""What the CUSE front end costs beyond libtpms and the system calls: processor time for one command, without the
kernel.

A SOCK_SEQPACKET pair stands for /dev/cuse (it has the same message boundaries). Frames are queued in it, and only the
front end's own work on them is timed: WRITE and READ together are one command. Subtracted, each measured in the same
run: the same read(), write() and epoll_wait() calls alone, and libtpms alone on the same command.
"""

import os
import select
import socket
import statistics
import sys
import time

sys.path[:0] = [os.path.join(os.path.dirname(__file__), "..", "tests", place) for place in ("", "integration")]

from cuse_kernel import HEADER, Kernel
from cuse_service import CuseService
from tpm_commands import GET_RANDOM, PCR_EXTEND_16, PCR_READ_16

from swtpm_svc.tpm import libtpms
from swtpm_svc.tpm._libtpms import ffi, lib
from swtpm_svc.wire import fuse

BATCH = 16  # commands queued at a time: what a socket's buffer takes, and fewer than begin a wait in read()
ROUNDS = 300


class Nobody:
    """The service's side of the front end; nothing is expected to happen there."""

    def __getattr__(self, name):
        return lambda *arguments: sys.exit(f"unexpected: {name} {arguments}")


def frame(opcode, unique, body):
    return HEADER.pack(40 + len(body), opcode, unique, 0, 1000, 1000, 1, 0, 0) + body


def drain(sock):
    try:
        while True:
            sock.recv(1 << 17, socket.MSG_DONTWAIT)
    except BlockingIOError:
        pass


def timed(work, count):
    """Processor time of this thread for each of `count` calls, in microseconds."""
    begin = time.thread_time_ns()
    for _ in range(count):
        work()
    return (time.thread_time_ns() - begin) / count / 1000


def measure(frontend, epoll, ours, theirs, slot, handle, command):
    write = frame(fuse.Opcode.WRITE, 100, Kernel.write_body(handle, command))
    read = frame(fuse.Opcode.READ, 102, Kernel.read_body(handle))
    write_reply = bytes(16 + 8)
    data = ffi.from_buffer("unsigned char[]", bytearray(command))
    response_size = len(libtpms.process(memoryview(bytearray(command))))
    read_reply = bytes(16 + response_size)
    slots = [slot]

    def bare():
        for reply in (write_reply, read_reply):
            os.readv(ours.fileno(), slots)
            os.write(ours.fileno(), reply)
            epoll.poll(0, 2)

    results = {"whole": [], "system calls": [], "libtpms": []}
    for _ in range(ROUNDS):
        # the front end serves all that is queued, and waits for more until its time is over
        for name, work, times in (("whole", frontend.serve_one, 1), ("system calls", bare, BATCH)):
            for _ in range(BATCH):
                theirs.send(write)
                theirs.send(read)
            results[name].append(timed(work, times) * times / BATCH)
            drain(theirs)
        results["libtpms"].append(timed(lambda: lib.vtpm_process(data, len(command)), BATCH))
    return {name: statistics.median(values) for name, values in results.items()}


def main():
    service = CuseService(events=Nobody()).start()
    ours, theirs = service.sockets
    for sock in (ours, theirs):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    epoll = select.epoll()
    epoll.register(ours, select.EPOLLIN)
    frontend = service.make_frontend(lend=lambda: (epoll.fileno(), time.monotonic() + 0.0002))
    service.kernel.serve_one = frontend.serve_one
    handle = service.kernel.open()
    print("processor time for one command through the CUSE front end, us (medians)")
    print(f"{'':12} {'whole':>8} {'system calls':>13} {'libtpms':>8} {'ours':>8}")
    for name, command in (("GetRandom", GET_RANDOM), ("PCR_Read", PCR_READ_16), ("PCR_Extend", PCR_EXTEND_16)):
        took = measure(frontend, epoll, ours, theirs, service.park.slot, handle, command)
        own = took["whole"] - took["system calls"] - took["libtpms"]
        print(f"{name:12} {took['whole']:8.2f} {took['system calls']:13.2f} {took['libtpms']:8.2f} {own:8.2f}")
    epoll.close()
    service.close()


if __name__ == "__main__":
    main()
