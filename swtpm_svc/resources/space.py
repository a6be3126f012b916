"""What one open file of the managed node has: its objects under handles of its own, and its sessions.

Virtual handles are those of the kernel's /dev/tpmrm0: 80ffffff for the first object, and the next free one below. A
session keeps the TPM's handle, which is its Name in the calculation of an HMAC (Part 1, "Names"), and which stays the
same however often it is saved and loaded (Part 1, "Session Handles").
"""

from itertools import count
from typing import Optional, Union

from swtpm_svc.wire.caller import Caller
from swtpm_svc.wire.tpm2_contexts import is_constant, sequence_of

_FIRST_VIRTUAL = 0x80FFFFFF


class Object:
    """A transient object of a space."""

    __slots__ = ("context", "physical", "space", "virtual")

    def __init__(self, space: "Space", virtual: int, physical: int, context: bytes = b"") -> None:
        self.space = space
        self.virtual = virtual
        #: The TPM's handle while it is loaded, else 0.
        self.physical = physical
        #: What it can be loaded from; also while it is loaded, if it is still like that. Empty: it has to be saved.
        self.context = context

    def was_loaded(self, physical: int) -> None:
        self.physical = physical
        if not is_constant(self.context):
            self.context = b""


class Session:
    """A session that is active, loaded or saved. `space` is None for one that a client has saved by itself, which
    belongs to who has the context; and for one of the raw node."""

    __slots__ = ("blob", "context", "handle", "saver", "space", "uid")

    def __init__(self, handle: int, space: "Optional[Space]", context: bytes = b"") -> None:
        self.handle = handle
        self.space = space
        #: What it can be loaded from; empty while it is loaded.
        self.context = context
        #: The context that a client has of it, which is older than `context` if that had to be made anew.
        self.blob = b""
        #: The space whose client has saved it, as long as that is open.
        self.saver: Optional[Space] = None
        #: The user whose share it is in.
        self.uid = 0 if space is None else space.caller.uid

    @property
    def sequence(self) -> int:
        """The number of its context, which says how old that is."""
        return sequence_of(self.context)

    def was_loaded(self, _handle: int) -> None:
        self.context = b""


class Space:
    """`caller` opened it."""

    __slots__ = ("caller", "objects", "sessions")

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        #: By virtual handle.
        self.objects: dict[int, Object] = {}
        self.sessions: dict[int, Session] = {}

    def add_object(self, physical: int, context: bytes = b"") -> Object:
        """Give an object that the TPM has loaded a handle of this space."""
        virtual = next(handle for handle in count(_FIRST_VIRTUAL, -1) if handle not in self.objects)
        added = self.objects[virtual] = Object(self, virtual, physical, context)
        return added

    def get(self, handle: int) -> "Union[Object, Session, None]":
        return self.objects.get(handle) or self.sessions.get(handle)
