"""What the TPM has loaded of the spaces, and room for more: what was used least recently is put away, and only when the
TPM says that it lacks room.

A session is saved, which takes it out of the TPM. An object is saved and flushed; one that was loaded from a context,
and that no command changes, is flushed only.
"""

from collections.abc import Collection
from typing import Callable, Optional, Union

from swtpm_svc.resources.bystanders import Bystanders
from swtpm_svc.resources.saved_sessions import SavedSessions, is_lost
from swtpm_svc.resources.space import Object, Session, Space
from swtpm_svc.resources.tpm_calls import TpmCalls, encode_load, handle_in, result_of
from swtpm_svc.wire.results import TpmRc
from swtpm_svc.wire.tpm_header import Bytes

Resource = Union[Object, Session]
Needed = Collection[Resource]

#: A TPM that lacks room when so many things were put away lacks it for another reason.
_MAX_TRIES = 200


class Loaded:
    def __init__(self, calls: TpmCalls, saved: SavedSessions, bystanders: Bystanders) -> None:
        self._calls = calls
        self._saved = saved
        self._bystanders = bystanders
        #: By the TPM's handles, what was used least recently first.
        self._objects: dict[int, Object] = {}
        self._sessions: dict[int, Session] = {}
        #: What helps against a shortage, and says whether it has done anything.
        self._remedies: dict[int, Callable[[Needed], bool]] = {
            TpmRc.OBJECT_MEMORY: self._put_away_object,
            TpmRc.SESSION_MEMORY: self._put_away_session,
            TpmRc.MEMORY: lambda needed: self._put_away_object(needed) or self._put_away_session(needed),
            TpmRc.SESSION_HANDLES: lambda _needed: self.flush_left_alone(),
            TpmRc.CONTEXT_GAP: lambda _needed: self._saved.narrow_gap(),
        }

    def __len__(self) -> int:
        return len(self._objects) + len(self._sessions)

    def run(self, command: Bytes, needed: Needed = ()) -> bytes:
        """Execute a command; where the TPM lacks room for it, make some, at no cost of what is `needed`, and again."""
        response = self._calls.execute(command)
        for _ in range(_MAX_TRIES):
            remedy = self._remedies.get(result_of(response))
            if remedy is None or not remedy(needed):
                break
            response = self._calls.execute(command)
        return response

    # --- in and out ----------------------------------------------------------------------------------------------

    def add(self, resource: Resource) -> None:
        """The TPM has loaded it."""
        self._look_for_bystanders()
        if isinstance(resource, Session):
            self._sessions[resource.handle] = resource
            return
        before = self._objects.pop(resource.physical, None)
        if before is not None:  # the TPM had flushed it, and has given its handle to another one
            self._forget_object(before)
        self._objects[resource.physical] = resource

    def bring(self, resource: Resource, needed: Needed) -> int:
        """Have the resource loaded; else the return code that says why it is not. One that `is_lost` is gone then."""
        if isinstance(resource, Session):
            if not resource.context:
                self._sessions[resource.handle] = self._sessions.pop(resource.handle)  # used most recently
                return 0
        elif resource.physical:
            self._objects[resource.physical] = self._objects.pop(resource.physical)
            return 0
        response = self.run(encode_load(resource.context), needed)
        rc = result_of(response)
        if not rc:
            if isinstance(resource, Session):
                self._saved.forget(resource)
            resource.was_loaded(handle_in(response))
            self.add(resource)
        elif is_lost(rc):
            self.lose(resource)
        return rc

    def lose(self, resource: Resource) -> None:
        """The TPM does not have it any more."""
        if isinstance(resource, Session):
            self._sessions.pop(resource.handle, None)
            self._saved.lose(resource)
        else:
            self._objects.pop(resource.physical, None)
            self._forget_object(resource)

    def get_session(self, handle: int) -> Optional[Session]:
        return self._sessions.get(handle)

    def give(self, session: Session, space: Space) -> None:
        """A session that the TPM has loaded is the space's from here on."""
        session.space, session.uid = space, space.caller.uid
        space.sessions[session.handle] = session
        self.add(session)

    def was_saved_by_client(self, session: Session, context: bytes) -> None:
        del self._sessions[session.handle]
        assert session.space is not None
        del session.space.sessions[session.handle]
        self._saved.add(session, context)
        self._saved.give_to_client(session)

    def flush(self, resource: Resource) -> int:
        """Have the TPM forget it, loaded or not; the return code."""
        rc = 0
        if isinstance(resource, Session):
            rc = self._calls.flush(resource.handle)
        elif resource.physical:
            rc = self._calls.flush(resource.physical)
        if not rc or is_lost(rc):
            self.lose(resource)
        return rc

    def put_away_all(self) -> None:
        """Leave nothing of the spaces loaded, and bring back what stood in their way."""
        self.put_away_objects()
        for session in list(self._sessions.values()):
            self.save(session)
        self._bystanders.bring_back()

    def put_away_objects(self) -> None:
        for loaded in list(self._objects.values()):
            self._put_away(loaded)

    def save(self, session: Session) -> int:
        """Put a session away that is loaded; the return code. One that `is_lost` is gone then."""
        rc = self._saved.save(session)
        if not rc:
            self._sessions.pop(session.handle, None)
        elif is_lost(rc):
            self.lose(session)
        return rc

    def forget_all(self) -> None:
        self._objects, self._sessions = {}, {}

    @staticmethod
    def _forget_object(lost: Object) -> None:
        if lost.space.objects.get(lost.virtual) is lost:
            del lost.space.objects[lost.virtual]
        lost.physical, lost.context = 0, b""

    # --- room ----------------------------------------------------------------------------------------------------

    def _put_away_object(self, needed: Needed) -> bool:
        self._look_for_bystanders()
        if self._bystanders.put_away_object(set(self._objects)):
            return True
        candidate = next((object for object in self._objects.values() if object not in needed), None)
        return candidate is not None and self._put_away(candidate)

    def _look_for_bystanders(self) -> None:
        if not self:  # only then can others have had the TPM
            self._bystanders.look_again()

    def _put_away(self, candidate: Object) -> bool:
        if not candidate.context:
            rc, context = self._calls.save(candidate.physical)
            if is_lost(rc):
                self.lose(candidate)
                return True
            if rc:
                return False
            candidate.context = context
        physical = candidate.physical
        rc = self._calls.flush(physical)
        if rc and not is_lost(rc):
            return False
        del self._objects[physical]
        candidate.physical = 0
        return True

    def _put_away_session(self, needed: Needed) -> bool:
        self._look_for_bystanders()
        if self._bystanders.put_away_session(set(self._sessions)):
            return True
        candidate = next((session for session in self._sessions.values() if session not in needed), None)
        if candidate is None:
            return False
        rc = self.save(candidate)
        return not rc or is_lost(rc)

    def flush_left_alone(self, uid: Optional[int] = None) -> bool:
        """Flush the session, of the user or of anybody, that a client has saved and left alone for longest."""
        for session in self._saved.left_alone(uid):
            # only a context that can be loaded says for sure that the handle is not somebody else's by now
            if not self.bring(session, ()):
                return not self.flush(session)
        return False
