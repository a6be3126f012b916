"""The kernel's side of /dev/cuse, played by a test: requests out, replies in, over a SOCK_SEQPACKET pair.

A socket pair has /dev/cuse's message boundaries. What only the real kernel can show is tested in tests/lab.
"""

import os
import socket
import struct

from swtpm_svc.wire import fuse, ptm_ioctl

HEADER = struct.Struct("=IIQQIIIHH")
OUT = struct.Struct("=IiQ")


class Kernel:
    """Sends requests to a front end and keeps its replies by the request's id."""

    def __init__(self, serve_one, sock, settle=lambda: None):
        """`settle` waits until what was put off is answered."""
        self.serve_one = serve_one
        self.settle = settle
        self.sock = sock
        self.unique = 2
        self.replies = {}
        self.notices = []
        self.uid = self.gid = 0

    def send(self, opcode, body=b"", uid=None, pid=4711):
        self.unique += 2
        uid = self.uid if uid is None else uid
        self.sock.send(HEADER.pack(40 + len(body), opcode, self.unique, 0, uid, self.gid, pid, 0, 0) + body)
        self.serve_one()
        self.collect()
        return self.unique

    def collect(self):
        while True:
            try:
                frame = self.sock.recv(1 << 17, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            length, error, unique = OUT.unpack_from(frame)
            assert length == len(frame)
            if unique == 0:
                self.notices.append((error, frame[16:]))
            else:
                assert unique not in self.replies, "answered twice"
                self.replies[unique] = (-error, frame[16:])

    def call(self, opcode, body=b"", **kw):
        """The reply's (errno, body); fails when it is put off."""
        return self.replies[self.send(opcode, body, **kw)]

    def call_and_wait(self, opcode, body=b"", **kw):
        """The reply's (errno, body), which may be put off."""
        unique = self.send(opcode, body, **kw)
        if unique not in self.replies:
            self.settle()
        return self.replies[unique]

    def open(self, **kw):
        error, body = self.call(fuse.Opcode.OPEN, struct.pack("=II", os.O_RDWR, 0), **kw)
        assert error == 0
        return struct.unpack_from("=Q", body)[0]

    @staticmethod
    def write_body(handle, data, flags=0):
        return struct.pack("=QQIIQII", handle, 0, len(data), 0, 0, flags, 0) + data

    def write(self, handle, data, flags=0, **kw):
        return self.call(fuse.Opcode.WRITE, self.write_body(handle, data, flags), **kw)

    @staticmethod
    def read_body(handle, size=4096, flags=0):
        return struct.pack("=QQIIQII", handle, 0, size, 0, 0, flags, 0)

    def read(self, handle, size=4096, flags=0, **kw):
        return self.call(fuse.Opcode.READ, self.read_body(handle, size, flags), **kw)

    @staticmethod
    def ioctl_body(handle, number, data=b"", out_size=0):
        return struct.pack("=QIIQII", handle, 0, number, 0, len(data), out_size) + data

    def control(self, handle, request, **kw):
        """A PTM request by ioctl: (errno, reply value or None)."""
        number, data = ptm_ioctl.pack(request)
        body = self.ioctl_body(handle, number, bytes(data) if number >> 30 & 1 else b"", len(data))
        error, answer = self.call_and_wait(fuse.Opcode.IOCTL, body, **kw)
        return error, None if error else ptm_ioctl.unpack(request, answer[16:])

    def poll(self, handle, poll_handle=0, schedule=False):
        flags = fuse.POLL_SCHEDULE_NOTIFY if schedule else 0
        error, body = self.call(fuse.Opcode.POLL, struct.pack("=QQII", handle, poll_handle, flags, 0x1F))
        assert error == 0
        return struct.unpack_from("=I", body)[0]

    def release(self, handle):
        return self.call(fuse.Opcode.RELEASE, struct.pack("=QIIQ", handle, 0, 0, 0))
