"""Sessions that are saved: put away by the resource manager, or saved by clients.

A TPM refuses to save one more session once the oldest saved one is too many savings behind (TPM_RC_CONTEXT_GAP; Part 1,
"Context Gap"). So one that is half as far behind is loaded and saved anew in time; where a client has its context, the
context that it has stands for the new one from then on.
"""

from typing import Optional

from swtpm_svc.resources.space import Session, Space
from swtpm_svc.resources.tpm_calls import TpmCalls
from swtpm_svc.wire.results import TpmRc
from swtpm_svc.wire.tpm2_contexts import number_of
from swtpm_svc.wire.tpm2_numbers import Ht

_HALF = 2
_FORMAT_1 = 0x080  # a return code that is about a handle or a parameter (Part 2, section 6.6.2)


def is_lost(rc: int) -> bool:
    """Does the answer to ContextSave or ContextLoad say that there is no such object or session any more? Others are of
    a TPM that cannot do it now."""
    return rc == TpmRc.REFERENCE_H0 or bool(rc & _FORMAT_1)


class SavedSessions:
    def __init__(self, calls: TpmCalls) -> None:
        self._calls = calls
        #: TPM_PT_CONTEXT_GAP_MAX; 0: it is not known.
        self.context_gap = 0
        self._by_handle: dict[int, Session] = {}
        #: Those that clients have saved, by the contexts that they have; the first is saved for longest.
        self.of_clients: dict[bytes, Session] = {}

    def __len__(self) -> int:
        return len(self._by_handle)

    def get(self, handle: int) -> Optional[Session]:
        return self._by_handle.get(handle)

    def of_user(self, uid: int) -> int:
        """How many sessions the user's clients have saved."""
        return sum(session.uid == uid for session in self.of_clients.values())

    def forget_all(self) -> None:
        self._by_handle, self.of_clients = {}, {}

    def save(self, session: Session) -> int:
        """Save a session that is loaded; the return code. One that `is_lost` stays the caller's to forget."""
        rc, context = self._calls.save(session.handle)
        if rc == TpmRc.CONTEXT_GAP and self.narrow_gap():
            rc, context = self._save(session.handle)
        if not rc:
            self.add(session, context)
        return rc

    def add(self, session: Session, context: bytes) -> None:
        """The session was saved."""
        session.context = context
        self._by_handle[session.handle] = session
        self._refresh_in_time(session.sequence)

    def _save(self, handle: int) -> "tuple[int, bytes]":
        rc, context = self._calls.save(handle)
        while rc == TpmRc.CONTEXT_GAP and self._flush_stranger():
            rc, context = self._calls.save(handle)
        return rc, context

    def forget(self, session: Session) -> None:
        """It is loaded, or gone."""
        if self._by_handle.get(session.handle) is session:
            del self._by_handle[session.handle]
        if self.of_clients.get(session.blob) is session:
            del self.of_clients[session.blob]
        session.blob, session.saver = b"", None

    def give_to_client(self, session: Session) -> None:
        """A client has saved the session, and has its context now."""
        session.space, session.saver, session.blob = None, session.space, session.context
        self.of_clients[session.blob] = session

    def of_saver(self, space: Space) -> "list[Session]":
        """Those that clients of the space have saved."""
        return [session for session in self.of_clients.values() if session.saver is space]

    def left_alone(self, uid: Optional[int] = None) -> "list[Session]":
        """Those, of the user or of all, that clients have saved whose spaces are closed; the oldest first."""
        return [session for session in self.of_clients.values() if session.saver is None and uid in (None, session.uid)]

    def _refresh_in_time(self, newest: int) -> None:
        if self.context_gap:
            oldest = self._oldest()
            if oldest is not None and (newest - oldest.sequence) * _HALF > self.context_gap:
                self._refresh(oldest)

    def _oldest(self) -> Optional[Session]:
        return min(self._by_handle.values(), key=lambda session: session.sequence, default=None)

    def narrow_gap(self) -> bool:
        """After a TPM_RC_CONTEXT_GAP; False: there is nothing left to try."""
        return self._refresh(self._oldest()) or self._flush_stranger()

    def _refresh(self, session: Optional[Session]) -> bool:
        """Load a session and save it anew; False: that has not made it any younger."""
        if session is None:
            return False
        before = session.sequence
        rc, _handle = self._calls.load(session.context)
        if not rc:
            rc, context = self._save(session.handle)
            if not rc:
                session.context = context
                return session.sequence > before
            self._calls.flush(session.handle)  # nobody could use it as it is now
            self.lose(session)
        elif is_lost(rc):
            self.lose(session)
        else:
            return False
        return True

    def _flush_stranger(self) -> bool:
        """The oldest is none of ours: somebody on the raw node has saved it, tens of thousands of savings ago. Which
        one it is the TPM does not say."""
        known = {number_of(handle) for handle in self._by_handle}
        for handle in self._calls.handles_of(Ht.POLICY_SESSION):
            number = number_of(handle)
            if number not in known:
                # in this list all sessions look like those for HMAC (libtpms)
                return any(not self._calls.flush(kind << 24 | number) for kind in (Ht.HMAC_SESSION, Ht.POLICY_SESSION))
        return False

    def lose(self, session: Session) -> None:
        """The TPM does not have it any more."""
        self.forget(session)
        if session.space is not None:
            session.space.sessions.pop(session.handle, None)
            session.space = None
