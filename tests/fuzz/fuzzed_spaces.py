"""The fuzz target `spaces`: commands of any content, in spaces and on the raw node, beside a witness that must not notice.

An input is a row of commands: a byte that says whose, a size in two bytes, and the rest, whose size field is made right
but for one in sixteen. MARK and a byte stand for a handle: of whoever says it, of another, of the TPM itself.
"""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), os.pardir, "integration", "resources"))

from harness import FuzzedService
from space_client import Managed, SpaceClient, authorized, command, sized, uint32

from swtpm_svc.resources.manager import ResourceManager

MARK = b"\xee\xee\xee"
SPACES = 2


class Spaces:
    def __init__(self, version="2.0"):
        self.service = FuzzedService(version)

    def execute(self, message):
        return self.service.tpm.execute(memoryview(message), int.from_bytes(message[6:10].ljust(4, b"\0"), "big"))

    def spaces(self, data):
        chance = self.service.reset(data)
        manager = ResourceManager(self.execute)
        witness = Managed(manager, 4711)
        handle, session = witness.load_external(99), witness.start()
        witness.only_for(session, 0x147)
        seen = witness.unique(handle), witness.digest(session)
        clients = [Managed(manager, uid) for uid in range(SPACES)]
        raw = SpaceClient(lambda whole: self._raw(manager, whole, session))
        handles = [0x80FFFFFF, 0x80FFFFFE, 0x80000000, 0x80000001, handle, session, 0xFFFFFFFF, 0x40000007, 0x40000001]
        for who, whole in self.commands(data, handles, chance):
            client = raw if who == SPACES else clients[who]
            response = client.execute(whole)
            assert len(response) >= 10
            assert int.from_bytes(response[2:6], "big") == len(response)
            if response[6:10] == bytes(4) and len(response) >= 14 and len(handles) < 200:
                handles.append(int.from_bytes(response[10:14], "big"))
            if self.service.tpm.failure is not None:
                return
        assert (witness.unique(handle), witness.digest(session)) == seen
        assert witness.listed(0x80000000) == [handle]
        assert witness.listed(0x02000000) == [session]
        for client in clients:
            client.close()
        manager.put_away()
        witness.close()
        assert manager.spaces == []
        self.service.check()

    def _raw(self, manager, whole, session):
        """The raw node may flush what is active, or load it, by its handle: all but what the witness has."""
        if uint32(session) in whole:
            return b"\x80\1" + uint32(10, 0x101)
        manager.give_way(whole)
        return self.execute(bytearray(whole))

    @staticmethod
    def commands(data, handles, chance):
        while len(data) > 3:
            who, size = data[0] % (SPACES + 1), int.from_bytes(data[1:3], "big") % 4097
            rest, data = data[3 : 3 + size], data[3 + size :]
            parts = rest.split(MARK)
            whole = parts[0] + b"".join(
                uint32(handles[part[0] % len(handles)]) + part[1:] if part else MARK for part in parts[1:]
            )
            if len(whole) >= 10 and chance.randrange(16):
                whole = whole[:2] + uint32(len(whole)) + whole[6:]
            yield who, whole


def seeds():
    mark = [int.from_bytes(MARK + bytes([n]), "big") for n in range(256)]
    own, other = mark[0], mark[1]
    password = authorized(0x40000009)
    null = 0x40000007
    start = sized(bytes(16)) + sized(b"") + bytes.fromhex("01 0010 000b")
    public = bytes.fromhex("0008 000b 00000040 0000 0010") + sized(bytes(32))
    each = [
        command(0x17B, parameters=b"\0\10"),
        command(0x167, parameters=sized(b"") + sized(public) + uint32(null)),
        command(0x173, own), command(0x162, own), command(0x165, parameters=uint32(own)), command(0x189, own),
        command(0x176, null, null, parameters=start), command(0x176, null, own, parameters=start),
        command(0x186, parameters=sized(b"") + bytes.fromhex("000b")),
        command(0x15C, own, parameters=sized(b"x"), auth=password),
        command(0x13E, own, parameters=sized(b"") + uint32(null), auth=password),
        command(0x148, own, other, parameters=sized(b"") + bytes.fromhex("0010"), auth=password * 2),
        command(0x17A, parameters=uint32(1, 0x80000000, 8)), command(0x17A, parameters=uint32(1, 0x02000000, 8)),
        command(0x17A, parameters=uint32(1, 0x03000000, 8), auth=authorized(own)),
        command(0x182, 16, parameters=bytes.fromhex("00000001 000b") + bytes(32), auth=authorized(own, goes_on=False)),
        command(0x145, parameters=bytes(2)), command(0x144, parameters=bytes(2)),
        command(0x126, 0x4000000A, auth=password), command(0x120, 0x40000001, own, parameters=uint32(0x81000001), auth=password),
        command(0x161, parameters=bytes(8) + uint32(0x80000000, null) + sized(bytes(100))),
    ]  # fmt: skip
    made = [bytes([who]) + len(whole).to_bytes(2, "big") + whole for whole in each for who in range(SPACES + 1)]
    return [*made, b"".join(made), b"".join(reversed(made)), b"".join(made[3:6] * 5 + made[18:21] * 5)]
