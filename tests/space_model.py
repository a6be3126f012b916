"""What up to five spaces and the raw node see, whatever the order of what their clients do: a model to compare with.

`Model` needs clients that are made by `open(uid)`, with `create()` and `start()`, which give a handle and what is to be
found there later; `read(handle)` and `digest(session)`, which find it; `save`, `load_context`, `flush`, `listed` and
`close`. They raise Refused, whose argument is the return code.
"""

SPACES = 5
#: Each as often as it is here.
ACTIONS = (
    "create", "create", "read", "read", "flush", "start", "digest", "digest", "save", "load", "load", "steal", "list",
    "sequence", "sequence", "close",
)  # fmt: skip
TRANSIENT, LOADED = 0x80000000, 0x02000000
#: A space does not get more, nor the raw node more than the TPM has.
MOST_OBJECTS, MOST_SESSIONS = 12, 6
MOST_OF_RAW = 3


class Refused(Exception):
    """A return code."""


def expect(rc, function, *arguments):
    found = 0
    try:
        function(*arguments)
    except Refused as refused:
        found = refused.args[0]
    assert found == rc, f"{found:#x} in place of {rc:#x}"


class Seen:
    """What one client has."""

    def __init__(self, client):
        self.client = client
        self.objects, self.sessions, self.sequences = {}, {}, {}


class Model:
    """`raw` is the client of the raw node, at place SPACES."""

    def __init__(self, open_client, raw):
        self._open = open_client
        self._seen = {}
        self._raw = Seen(raw)
        #: Contexts that clients have, of objects and of sessions that are nowhere else.
        self._objects, self._saved = [], []
        self._actions = {
            "create": self._create, "read": self._read, "flush": self._flush, "start": self._start,
            "digest": self._digest, "save": self._save, "load": self._load, "steal": self._steal, "list": self._list,
            "sequence": self._sequence, "close": self._close,
        }  # fmt: skip

    def do(self, place, action, choice):
        """One step; `choice` says with what."""
        if place == SPACES:
            seen = self._raw
        else:
            if place not in self._seen:
                self._seen[place] = Seen(self._open(place))
            seen = self._seen[place]
        self._actions[action](place, seen, choice)

    def finish(self):
        """Close all, and flush what only contexts are left of."""
        for place in list(self._seen):
            self._close(place, self._seen[place], 0)
        raw = self._raw
        for handle in (*raw.objects, *raw.sequences, *raw.sessions):
            raw.client.flush(handle)
        for context, handle, _found in self._saved:
            assert raw.client.load_context(context) == handle
            raw.client.flush(handle)

    def _is_raw(self, seen):
        return seen is self._raw

    def _next(self, seen):
        taken = {*seen.objects, *seen.sequences}
        if self._is_raw(seen):
            return next(handle for handle in range(TRANSIENT, TRANSIENT + 99) if handle not in taken)
        return next(handle for handle in range(0x80FFFFFF, TRANSIENT, -1) if handle not in taken)

    def _has_room(self, seen):
        most = MOST_OF_RAW if self._is_raw(seen) else MOST_OBJECTS
        return len(seen.objects) + len(seen.sequences) < most

    def _has_room_for_session(self, seen):
        return len(seen.sessions) < (MOST_OF_RAW if self._is_raw(seen) else MOST_SESSIONS)

    # --- actions -------------------------------------------------------------------------------------------------

    def _create(self, _place, seen, _choice):
        if not self._has_room(seen):
            return
        expected = self._next(seen)
        handle, found = seen.client.create()
        assert handle == expected
        seen.objects[handle] = found

    def _read(self, _place, seen, choice):
        handle = _one_of(seen.objects, choice)
        if handle is not None:
            assert seen.client.read(handle) == seen.objects[handle]

    def _sequence(self, _place, seen, choice):
        """A sequence object: start, update or complete one."""
        handle = _one_of(seen.sequences, choice // 3)
        if handle is None or choice % 3 == 0:
            if self._has_room(seen):
                expected = self._next(seen)
                assert seen.client.start_sequence() == expected
                seen.sequences[expected] = b""
        elif choice % 3 == 1:
            seen.client.update_sequence(handle, bytes([choice % 251]))
            seen.sequences[handle] += bytes([choice % 251])
        else:
            assert seen.client.complete_sequence(handle) == seen.client.digest_of(seen.sequences.pop(handle))

    def _flush(self, _place, seen, choice):
        handle = _one_of({**seen.objects, **seen.sequences, **seen.sessions}, choice)
        if handle is not None:
            seen.client.flush(handle)
            for kind in (seen.objects, seen.sequences, seen.sessions):
                kind.pop(handle, None)

    def _start(self, _place, seen, choice):
        if self._has_room_for_session(seen) and len(self._saved) < 4:
            handle, found = seen.client.start(choice)
            assert all(handle not in other.sessions for other in (*self._seen.values(), self._raw))
            seen.sessions[handle] = found

    def _digest(self, _place, seen, choice):
        handle = _one_of(seen.sessions, choice)
        if handle is not None:
            assert seen.client.digest(handle) == seen.sessions[handle]

    def _save(self, _place, seen, choice):
        handle = _one_of({**seen.objects, **seen.sessions}, choice)
        if handle in seen.objects:
            self._objects.append((seen.client.save(handle), seen.objects[handle]))
        elif handle is not None:
            self._saved.append((seen.client.save(handle), handle, seen.sessions.pop(handle)))

    def _load(self, _place, seen, choice):
        """What this client or another one has saved."""
        if choice % 2 and self._objects and self._has_room(seen):
            context, found = self._objects[choice % len(self._objects)]
            expected = self._next(seen)
            assert seen.client.load_context(context) == expected
            seen.objects[expected] = found
        elif self._saved and self._has_room_for_session(seen):
            context, handle, found = self._saved.pop(choice % len(self._saved))
            assert seen.client.load_context(context) == handle
            seen.sessions[handle] = found

    def _steal(self, place, seen, choice):
        """Name what others have. The raw node may, and so does not."""
        if self._is_raw(seen):
            return
        theirs = {}
        for other in (*self._seen.values(), self._raw):
            theirs.update(other.objects)
            theirs.update(other.sessions)
        mine = {**seen.objects, **seen.sequences, **seen.sessions}
        handle = _one_of({handle: 0 for handle in theirs if handle not in mine}, choice)
        if handle is not None:
            expect(0x1CB, seen.client.flush, handle)
            expect(0x910, seen.client.save, handle)
            expect(0x910, seen.client.read if handle >> 24 == 0x80 else seen.client.digest, handle)

    def _list(self, _place, seen, _choice):
        assert seen.client.listed(TRANSIENT) == sorted([*seen.objects, *seen.sequences])
        if self._is_raw(seen):
            assert set(seen.sessions) == set(seen.client.listed(LOADED))
        else:
            assert seen.client.listed(LOADED) == sorted(seen.sessions, key=lambda handle: handle & 0xFFFFFF)

    def _close(self, place, seen, _choice):
        """The client ends, or is killed."""
        if not self._is_raw(seen):
            seen.client.close()
            del self._seen[place]


def _one_of(things, choice):
    return sorted(things)[choice % len(things)] if things else None
