"""A TPM 2.0 that is played: the commands that a resource manager is about, with the TPM's own rules for slots, handles,
contexts and the context gap, as small as a test wants them.

What is loaded has a number, which a command that uses it answers: so a test sees that it got the right one.
"""

from swtpm_svc.wire.tpm_header import ST_NO_SESSIONS, ST_SESSIONS, encode_command

CREATE_PRIMARY, LOAD, READ_PUBLIC, CERTIFY = 0x131, 0x157, 0x173, 0x148
HASH_SEQUENCE_START, SEQUENCE_UPDATE, SEQUENCE_COMPLETE = 0x186, 0x15C, 0x13E
START_AUTH_SESSION, POLICY_GET_DIGEST = 0x176, 0x189
CONTEXT_LOAD, CONTEXT_SAVE, FLUSH_CONTEXT, EVICT_CONTROL = 0x161, 0x162, 0x165, 0x120
CLEAR, GET_CAPABILITY, GET_RANDOM, STARTUP, SHUTDOWN = 0x126, 0x17A, 0x17B, 0x144, 0x145
VENDOR = 0x20000001

FLUSHED, EXTENSIVE = 1 << 24, 1 << 23
#: TPMA_CC: handles, whether a handle is returned, other bits.
COMMANDS = {
    EVICT_CONTROL: (2, 0, 0), CLEAR: (1, 0, EXTENSIVE), CREATE_PRIMARY: (1, 1, 0), SEQUENCE_COMPLETE: (1, 0, FLUSHED),
    STARTUP: (0, 0, 0), SHUTDOWN: (0, 0, 0), CERTIFY: (2, 0, 0), LOAD: (1, 1, 0), SEQUENCE_UPDATE: (1, 0, 0),
    CONTEXT_LOAD: (0, 1, 0), CONTEXT_SAVE: (1, 0, 0), FLUSH_CONTEXT: (0, 0, 0), READ_PUBLIC: (1, 0, 0),
    START_AUTH_SESSION: (2, 1, 0), GET_CAPABILITY: (0, 0, 0), GET_RANDOM: (0, 0, 0), HASH_SEQUENCE_START: (0, 1, 0),
    POLICY_GET_DIGEST: (1, 0, 0), VENDOR: (2, 1, 0),
}  # fmt: skip

OWNER, NULL, PASSWORD = 0x40000001, 0x40000007, 0x40000009
HMAC, POLICY, TRANSIENT = 0x02000000, 0x03000000, 0x80000000


class Refused(Exception):
    pass


def uint32(*numbers):
    return b"".join(number.to_bytes(4, "big") for number in numbers)


def command(code, *handles, sessions=(), parameters=b"", tag=None):
    """`sessions`: handles, negative ones without continueSession."""
    body = uint32(*handles)
    if sessions:
        area = b"".join(uint32(abs(s)) + b"\0\0" + bytes([s > 0]) + b"\0\0" for s in sessions)
        body += uint32(len(area)) + area
    return encode_command(tag or (ST_SESSIONS if sessions else ST_NO_SESSIONS), code, body + parameters)


def list_handles(first, count=254):
    return command(GET_CAPABILITY, parameters=uint32(1, first, count))


def result(response):
    return int.from_bytes(response[6:10], "big")


def number_in(response, place=0):
    """The number at a place behind the header, of a response that succeeded."""
    assert result(response) == 0, hex(result(response))
    return int.from_bytes(response[10 + 4 * place : 14 + 4 * place], "big")


def handles_in(response):
    """Those in the response to `list_handles`, and whether there are more."""
    assert result(response) == 0
    count = int.from_bytes(response[15:19], "big")
    assert len(response) == 19 + 4 * count
    return [int.from_bytes(response[19 + 4 * n : 23 + 4 * n], "big") for n in range(count)], bool(response[10])


class PlayedTpm:
    """`log` has the codes that it was sent. `listed` commands are all that it tells of at a time."""

    def __init__(self, objects=3, sessions=3, active=64, gap=0xFFFF, listed=1000):
        self.slots = [None] * objects
        self.loaded_max, self.active, self.gap, self.listed = sessions, active, gap, listed
        #: Numbers of sessions by handle, and of those that are saved, the sequence of their latest context.
        self.sessions, self.saved = {}, {}
        self.sequence, self.last, self.epoch = 0, 0, 0
        self.is_started = True
        self.log = []
        #: Answers that come first, by code.
        self.answers = {}
        self.handlers = {
            EVICT_CONTROL: self.evict, CLEAR: self.clear, CREATE_PRIMARY: self.create, LOAD: self.create,
            VENDOR: self.create, SEQUENCE_COMPLETE: self.complete_sequence, STARTUP: self.start_up,
            SHUTDOWN: self.shut_down, CERTIFY: self.read, READ_PUBLIC: self.read, POLICY_GET_DIGEST: self.read,
            SEQUENCE_UPDATE: self.update_sequence, CONTEXT_LOAD: self.load_context, CONTEXT_SAVE: self.save_context,
            FLUSH_CONTEXT: self.flush_context, START_AUTH_SESSION: self.start_session, GET_RANDOM: self.get_random,
            GET_CAPABILITY: self.get_capability, HASH_SEQUENCE_START: self.start_sequence,
        }  # fmt: skip

    def __call__(self, buffer):
        whole = bytes(buffer)
        buffer[6:10] = b"\xff" * 4  # a TPM may write to what it is given
        if len(whole) < 10:
            return self.answer(0x142)
        code = int.from_bytes(whole[6:10], "big")
        self.log.append(code)
        if self.answers.get(code):
            return self.answer(self.answers[code].pop(0))
        try:
            return self.execute(whole, code)
        except Refused as refused:
            return self.answer(refused.args[0])

    @staticmethod
    def answer(rc, body=b""):
        return encode_command(ST_NO_SESSIONS, rc, body)

    def count(self, *codes):
        return sum(self.log.count(code) for code in codes)

    @property
    def swaps(self):
        return self.count(CONTEXT_SAVE, CONTEXT_LOAD, FLUSH_CONTEXT)

    @property
    def numbers(self):
        """What is loaded or active: nothing, after all was closed."""
        return [number for number in self.slots if number] + sorted(self.sessions.values())

    def reset(self):
        self.slots = [None] * len(self.slots)
        self.sessions, self.saved = {}, {}
        self.epoch += 1

    # --- one command ---------------------------------------------------------------------------------------------

    def execute(self, whole, code):
        if not self.is_started and code != STARTUP:
            raise Refused(0x100)
        if code not in COMMANDS:
            raise Refused(0x143)
        if int.from_bytes(whole[2:6], "big") != len(whole):
            raise Refused(0x142)
        count = COMMANDS[code][0]
        rest = whole[10:]
        if len(rest) < 4 * count:
            raise Refused(0x19A + len(rest) // 4 * 0x100)
        handles = [int.from_bytes(rest[4 * n : 4 * n + 4], "big") for n in range(count)]
        for place, handle in enumerate(handles):
            self.check_loaded(handle, 0x910 + place)
        rest = rest[4 * count :]
        ended = []
        if whole[:2] == b"\x80\x02":
            if code in (CONTEXT_LOAD, CONTEXT_SAVE, FLUSH_CONTEXT):
                raise Refused(0x145)
            rest, ended = self.authorize(rest)
        body = self.handlers[code](handles, rest)
        for handle in ended:
            del self.sessions[handle]
        return self.answer(0, body)

    def authorize(self, rest):
        size = int.from_bytes(rest[:4], "big")
        area, ended = rest[4 : 4 + size], []
        if size < 9 or len(area) < size:
            raise Refused(0x095)
        place = 0
        while area:
            if len(area) < 9:
                raise Refused(0x99A)
            session = int.from_bytes(area[:4], "big")
            if session != PASSWORD:
                if session >> 24 not in (2, 3):
                    raise Refused(0x984)
                self.check_loaded(session, 0x918 + place)
            if session != PASSWORD and not area[6]:
                ended.append(session)
            area, place = area[9:], place + 1
        return rest[4 + size :], ended

    def check_loaded(self, handle, refusal):
        kind = handle >> 24
        if kind == 0x80 and (handle - TRANSIENT >= len(self.slots) or not self.slots[handle - TRANSIENT]):
            raise Refused(refusal)
        if kind in (2, 3) and (handle not in self.sessions or handle in self.saved):
            raise Refused(refusal)

    def number(self, handle):
        return self.slots[handle - TRANSIENT] if handle >> 24 == 0x80 else self.sessions.get(handle, 0)

    def new(self):
        self.last += 1
        return self.last

    def load(self, number):
        if None not in self.slots:
            raise Refused(0x902)
        slot = self.slots.index(None)
        self.slots[slot] = number
        return uint32(TRANSIENT + slot, self.numbered(number))

    @staticmethod
    def numbered(thing):
        return thing[0] if isinstance(thing, list) else thing

    # --- commands ------------------------------------------------------------------------------------------------

    def create(self, _handles, _rest):
        return self.load(self.new())

    def read(self, handles, _rest):
        return uint32(*(self.numbered(self.number(handle)) for handle in handles))

    def evict(self, handles, _rest):
        return uint32(self.numbered(self.number(handles[1])))

    def start_sequence(self, _handles, _rest):
        return self.load([self.new(), 0])

    def update_sequence(self, handles, _rest):
        """A sequence object counts its updates."""
        sequence = self.number(handles[0])
        self.slots[handles[0] - TRANSIENT] = [sequence[0], sequence[1] + 1]
        return b""

    def complete_sequence(self, handles, _rest):
        sequence = self.number(handles[0])
        self.slots[handles[0] - TRANSIENT] = None
        return uint32(*sequence)

    def start_session(self, _handles, rest):
        if len(self.sessions) - len(self.saved) >= self.loaded_max:
            raise Refused(0x903)
        if len(self.sessions) >= self.active:
            raise Refused(0x905)
        if self.saved and self.sequence - min(self.saved.values()) >= self.gap:
            raise Refused(0x901)
        used = {handle & 0xFFFFFF for handle in self.sessions}
        handle = (POLICY if rest[:1] == b"\1" else HMAC) + next(n for n in range(1000) if n not in used)
        self.sessions[handle] = self.new()
        return uint32(handle, self.sessions[handle])

    def save_context(self, handles, rest):
        if rest:
            raise Refused(0x095)
        (handle,) = handles
        if handle >> 24 in (2, 3):
            if self.saved and self.sequence - min(self.saved.values()) >= self.gap:
                raise Refused(0x901)
            self.sequence += 1
            self.saved[handle] = self.sequence
            return self.sequence.to_bytes(8, "big") + uint32(handle, NULL, self.epoch, self.sessions[handle])
        thing = self.number(handle)
        kind = 0x80000001 if isinstance(thing, list) else 0x80000000
        return bytes(8) + uint32(kind, OWNER, self.epoch, *(thing if isinstance(thing, list) else [thing]))

    def load_context(self, _handles, rest):
        if len(rest) < 24:
            raise Refused(0x1DA)
        sequence, kind, epoch = (int.from_bytes(rest[a:b], "big") for a, b in ((0, 8), (8, 12), (16, 20)))
        if epoch != self.epoch:
            raise Refused(0x1DF)
        numbers = [int.from_bytes(rest[n : n + 4], "big") for n in range(20, len(rest), 4)]
        if kind >> 24 == 0x80:
            return self.load(numbers if kind == 0x80000001 else numbers[0])[:4]
        if self.saved.get(kind) != sequence:
            raise Refused(0x1CB)
        if len(self.sessions) - len(self.saved) >= self.loaded_max:
            raise Refused(0x903)
        del self.saved[kind]
        return uint32(kind)

    def flush_context(self, _handles, rest):
        if len(rest) != 4:
            raise Refused(0x095)
        handle = int.from_bytes(rest, "big")
        if handle >> 24 == 0x80 and handle - TRANSIENT < len(self.slots) and self.slots[handle - TRANSIENT]:
            self.slots[handle - TRANSIENT] = None
            return b""
        if handle in self.sessions:
            del self.sessions[handle]
            self.saved.pop(handle, None)
            return b""
        raise Refused(0x1CB)

    def clear(self, _handles, _rest):
        self.slots = [None] * len(self.slots)
        self.epoch += 1
        return b""

    def start_up(self, _handles, _rest):
        if self.is_started:
            raise Refused(0x100)
        self.is_started = True
        return b""

    def shut_down(self, _handles, rest):
        if rest not in (b"\0\0", b"\0\1"):
            raise Refused(0x1C4)
        return b""

    def get_random(self, _handles, _rest):
        return b"\0\1r"

    def get_capability(self, _handles, rest):
        if len(rest) != 12:
            raise Refused(0x095)
        capability, first, count = (int.from_bytes(rest[n : n + 4], "big") for n in (0, 4, 8))
        if capability == 6:
            value = {0x111: self.active, 0x114: self.gap}[first]
            return b"\0" + uint32(6, 1, first, value)
        if capability == 2:
            found = [self.attributes(code) for code in sorted(COMMANDS) if code >= first]
        elif first >> 24 == 0x80:
            found = [TRANSIENT + slot for slot, number in enumerate(self.slots) if number]
        else:
            saved = first >> 24 == 3
            found = sorted(handle for handle in self.sessions if (handle in self.saved) == saved)
            found = [HMAC | handle & 0xFFFFFF if saved else handle for handle in found]
        if capability == 1:
            found = [handle for handle in found if handle & 0xFFFFFF >= first & 0xFFFFFF]
        count = min(count, self.listed)
        return bytes([len(found) > count]) + uint32(capability, len(found[:count]), *found[:count])

    @staticmethod
    def attributes(code):
        handles, returns, other = COMMANDS[code]
        return code & 0xFFFF | code & 1 << 29 | handles << 25 | returns << 28 | other
