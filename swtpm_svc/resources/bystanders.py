"""Objects and sessions of the raw node's users, where they stand in a space's way.

What is loaded of a space was used after what is loaded of theirs: so theirs is put away first. It is at its place
again, with the same handles, before the next command of the raw node that could see the difference.
"""

from swtpm_svc.resources.saved_sessions import SavedSessions
from swtpm_svc.resources.space import Session
from swtpm_svc.resources.tpm_calls import TpmCalls
from swtpm_svc.wire.tpm2_numbers import Ht

_TYPES = (Ht.TRANSIENT, Ht.HMAC_SESSION)


class Bystanders:
    def __init__(self, calls: TpmCalls, saved: SavedSessions) -> None:
        self._calls = calls
        self._saved = saved
        #: Contexts of objects, by the handles that their owners know.
        self._objects: dict[int, bytes] = {}
        self._sessions: list[Session] = []
        #: The types of handles of which there may be some that are loaded.
        self._is_there: set[Ht] = set(_TYPES)

    def __len__(self) -> int:
        return len(self._objects) + len(self._sessions)

    def look_again(self) -> None:
        """Others have had the TPM."""
        self._is_there.update(_TYPES)

    def put_away_object(self, ours: "set[int]") -> bool:
        """Put one away that is not ours; False: there is none."""
        for handle in self._find(Ht.TRANSIENT, ours):
            rc, context = self._calls.save(handle)
            if not rc and not self._calls.flush(handle):
                self._objects[handle] = context
                return True
        return False

    def put_away_session(self, ours: "set[int]") -> bool:
        for handle in self._find(Ht.HMAC_SESSION, ours):
            session = Session(handle, None)
            if not self._saved.save(session):
                self._sessions.append(session)
                return True
        return False

    def _find(self, kind: Ht, ours: "set[int]") -> "list[int]":
        """What is loaded and not ours; asked for again only when others have had the TPM, as it costs a client its
        exclusive audit session."""
        if kind not in self._is_there:
            return []
        found = [handle for handle in self._calls.handles_of(kind) if handle not in ours]
        if not found:
            self._is_there.discard(kind)
        return found

    def bring_back(self) -> None:
        """All of them. What the TPM does not take back it has itself forgotten, as after a TPM2_Clear."""
        for session in self._sessions:
            self._saved.forget(session)
            self._calls.load(session.context)
        self._sessions = []
        for handle in sorted(self._objects):
            self._bring_back_object(handle, self._objects.pop(handle))

    def _bring_back_object(self, wanted: int, context: bytes) -> None:
        """The TPM gives the first free handle: if that is below the wanted one, it is filled until the wanted one is
        the first."""
        fillers = []
        while True:
            rc, handle = self._calls.load(context)
            if rc or handle == wanted:
                break
            fillers.append(handle)
            if handle > wanted:  # somebody has it
                break
        for handle in fillers:
            self._calls.flush(handle)

    def forget_all(self) -> None:
        self._objects, self._sessions = {}, []
        self.look_again()
