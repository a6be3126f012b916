"""The fuzz targets: each is called with an input, and raises when something is wrong.

`SEEDS` are inputs to begin with.
"""

import os
import struct

import fuzzed_spaces
from conversations import TPM2, TPM12
from harness import FuzzedService
from tpm_commands import GET_RANDOM, NV_DEFINE_COUNTER, NV_INCREMENT, NV_READ_COUNTER, PCR_EXTEND_16, PCR_READ_16

from swtpm_svc.frontends.cuse.cuse_frontend import CuseFrontend
from swtpm_svc.frontends.sockets.control_channel import ControlChannel
from swtpm_svc.frontends.sockets.data_channel import DataChannel
from swtpm_svc.frontends.sockets.mssim_channel import MssimChannel
from swtpm_svc.frontends.sockets.socket_frontend import SocketFrontend
from swtpm_svc.wire import fuse, ptm, ptm_ioctl
from swtpm_svc.wire.mssim import COMMAND_PORT, PLATFORM_PORT

h = bytes.fromhex


class Channels:
    """Targets that are a connection: bytes in."""

    def __init__(self, version="2.0"):
        self.service = FuzzedService(version)
        self.frontend = SocketFrontend(self.service.turns, self.service.dispatcher)

    def control(self, data):
        service = self.service
        chance = service.reset(data)

        def make(sock, caller):
            def on_data_socket(passed, _caller):
                DataChannel(passed, caller, service.turns, _ignore, service.dispatcher)
                return True

            return ControlChannel(sock, caller, service.turns, _ignore, service.dispatcher, on_data_socket)

        service.feed(make, data, chance, descriptors=True)
        service.check()

    def data(self, data):
        service = self.service
        chance = service.reset(data)
        service.feed(
            lambda sock, caller: DataChannel(sock, caller, service.turns, _ignore, service.dispatcher), data, chance
        )
        service.check()

    def mssim(self, data):
        """The first byte chooses the port."""
        service = self.service
        chance = service.reset(data)
        ordinals = PLATFORM_PORT if data[:1] == b"\0" else COMMAND_PORT

        def make(sock, caller):
            return MssimChannel(sock, caller, service.turns, _ignore, service.dispatcher, ordinals)

        service.feed(make, data[1:], chance)
        service.check()


def _ignore(_channel):
    pass


class _Waiters(set):
    def add(self, unique):
        super().add(unique)
        return len(self) <= 64


#: Requests in an input of the target `cuse`: opcode, handle, size of the rest of the body; then that rest.
REQUEST = struct.Struct("=BBH")
OPCODES = [int(opcode) for opcode in fuse.Opcode] + [0, 77]
#: How much of a body is not its data, where data follows.
_FIXED = {fuse.Opcode.WRITE: fuse.WRITE_IN.size, fuse.Opcode.IOCTL: fuse.IOCTL_IN.size}


class Cuse:
    """Frames of the kernel: most with the header that it would give them, all opcodes, bodies of any content and
    length."""

    def __init__(self, version="2.0"):
        self.service = FuzzedService(version)

    def cuse(self, data):
        service = self.service
        chance = service.reset(data)
        null = os.open("/dev/null", os.O_RDWR)
        slot = memoryview(bytearray(8192))
        frontend = CuseFrontend(null, slot, _Waiters(), _Waiters(), service.dispatcher, lambda: (-1, 0.0))
        try:
            for number, frame in enumerate(self.frames(data, chance), 1):
                reply = frontend.answer(memoryview(bytearray(frame)))
                assert reply is None or len(reply) == struct.unpack_from("=I", reply)[0], (number, reply)
                if chance.random() < 0.7:
                    service.turns.settle()
            service.turns.settle()
        finally:
            os.close(null)
        service.check()

    @staticmethod
    def frames(data, chance):
        unique, handles = 2, [0]
        while len(data) >= REQUEST.size:
            opcode, handle, size = REQUEST.unpack_from(data)
            opcode = OPCODES[opcode % len(OPCODES)]
            rest, data = data[REQUEST.size : REQUEST.size + size], data[REQUEST.size + size :]
            unique += 2
            handle = handles[handle % len(handles)]
            if opcode == fuse.Opcode.OPEN:
                body = struct.pack("=II", 2, 0)
                handles.append(unique)
            elif opcode == fuse.Opcode.WRITE:
                body = struct.pack("=QQIIQII", handle, 0, len(rest), 0, 0, chance.choice((0, os.O_NONBLOCK)), 0) + rest
            elif opcode == fuse.Opcode.READ:
                body = struct.pack("=QQIIQII", handle, 0, chance.choice((0, 10, 4096)), 0, 0, 0, 0)
            elif opcode == fuse.Opcode.IOCTL and len(rest) >= 4:
                (command,) = struct.unpack_from("=I", rest)
                command = chance.choice(IOCTLS) if chance.random() < 0.5 else command
                body = struct.pack("=QIIQII", handle, 0, command, 0, len(rest) - 4, command >> 16 & 0x3FFF) + rest[4:]
            elif opcode == fuse.Opcode.POLL:
                body = struct.pack("=QQII", handle, unique, fuse.POLL_SCHEDULE_NOTIFY, 0x1F)
            elif opcode == fuse.Opcode.RELEASE:
                body = struct.pack("=QIIQ", handle, 0, 0, 0)
            elif opcode == fuse.Opcode.INTERRUPT:
                body = struct.pack("=Q", max(unique - 2 * (1 + len(rest) % 4), 0))
            else:
                body = rest
            if chance.random() < 0.05:
                body = rest
            yield struct.pack("=IIQQIIIHH", 40 + len(body), opcode, unique, 0, 1000, 1000, 1, 0, 0) + body


_PTM = [
    ptm.GetCapability(), ptm.Init(1), ptm.Shutdown(), ptm.GetTpmEstablished(), ptm.SetLocality(3), ptm.HashStart(),
    ptm.HashData(b"abc"), ptm.HashEnd(), ptm.CancelTpmCommand(), ptm.StoreVolatile(), ptm.ResetTpmEstablished(3),
    ptm.GetStateBlob(0, 2, 0), ptm.Stop(), ptm.SetStateBlob(0, 1, b"deadbeef"), ptm.GetConfig(), ptm.SetBufferSize(0),
    ptm.GetInfo(1, 0), ptm.LockStorage(3),
]  # fmt: skip
IOCTLS = [ptm_ioctl.pack(request)[0] for request in _PTM]


def _request(opcode, handle=0, rest=b""):
    return REQUEST.pack(OPCODES.index(int(opcode)), handle, len(rest)) + rest


def _cuse_seeds():
    opcode = fuse.Opcode
    for command in (GET_RANDOM, PCR_READ_16, PCR_EXTEND_16, NV_DEFINE_COUNTER):
        yield (
            _request(opcode.OPEN)
            + _request(opcode.WRITE, 1, command)
            + _request(opcode.POLL, 1)
            + _request(opcode.READ, 1)
        )
    yield b"".join(_request(code, 0, b"12345678") for code in OPCODES if code != opcode.OPEN)
    yield (
        _request(opcode.OPEN)
        + _request(opcode.OPEN)
        + _request(opcode.WRITE, 2, GET_RANDOM)
        + _request(opcode.RELEASE, 2)
    )
    for request in _PTM:
        number, data = ptm_ioctl.pack(request)
        yield _request(opcode.OPEN) + _request(opcode.IOCTL, 1, struct.pack("=I", number) + bytes(data))


def _table(channel, table):
    return [h(data) if isinstance(data, str) else data for which, data, _what in table if which == channel]


_CONTROL = _table("c", TPM2)
_DATA = {"2.0": [*_table("d", TPM2), NV_DEFINE_COUNTER, NV_INCREMENT, NV_READ_COUNTER], "1.2": _table("d", TPM12)}


def seeds(target, version="2.0"):
    """Inputs to begin with, from the recorded tables."""
    if target == "control":
        return [*_CONTROL, b"".join(_CONTROL[:20]), b"".join(_CONTROL[20:45]), h("00000005 00000000 0000000f")]
    if target == "data":
        return [
            *_DATA[version],
            *(struct.pack(">IBI", 8, 3, len(command)) + command for command in _DATA[version][:12]),
        ]
    if target == "mssim":
        commands = [struct.pack(">IBI", 8, 0, len(command)) + command for command in _DATA[version]]
        signals = [number.to_bytes(4, "big") for number in PLATFORM_PORT]
        hashing = h("00000005 00000006 00000003 616263 00000007 0000000f 00000001 00000010 00000001 00")
        return [
            b"\1" + hashing,
            *(b"\1" + one for one in commands),
            *(b"\0" + one for one in signals),
            b"\0" + b"".join(signals),
        ]
    return fuzzed_spaces.seeds() if target == "spaces" else list(_cuse_seeds())


TARGETS = {"control": Channels, "data": Channels, "mssim": Channels, "cuse": Cuse, "spaces": fuzzed_spaces.Spaces}
