"""The resource manager: executes the commands of spaces, each as if it had the TPM for itself.

What is not as with a TPM of one's own:

- TPM2_Shutdown is answered, and not executed: others go on, and the service itself shuts the TPM down in order. With a
  session it is refused. TPM2_Startup is executed; a TPM that was started refuses it.
- A command that the TPM does not have is refused in the resource manager's layer, as the kernel does.
- TPM2_GetCapability of transient objects and sessions is refused with an audit session: the TPM's HMAC would be that of
  its own list.
- A session that a client has saved belongs to who loads it, from whichever space. One that was left alone is flushed
  when sessions are wanted.
- TPM2_Clear and its like, for who has the authorization, take the objects of all spaces.
"""

from typing import Optional

from swtpm_svc.resources import limits
from swtpm_svc.resources.bystanders import Bystanders
from swtpm_svc.resources.loaded import Loaded, Resource
from swtpm_svc.resources.saved_sessions import SavedSessions, is_lost
from swtpm_svc.resources.space import Session, Space
from swtpm_svc.resources.tpm_calls import (
    HANDLE,
    Buffer,
    Execute,
    Refusal,
    TpmCalls,
    TpmFacts,
    handle_in,
    refuse,
    result_of,
)
from swtpm_svc.wire.caller import Caller
from swtpm_svc.wire.command_codes import CommandCode
from swtpm_svc.wire.results import TpmRc
from swtpm_svc.wire.tpm2_contexts import (
    CommandAttributes,
    Named,
    decode_named,
    decode_question,
    encode_handles,
    is_constant,
    is_session,
    number_of,
    put_handle,
    type_of,
)
from swtpm_svc.wire.tpm2_numbers import Cap, Ht
from swtpm_svc.wire.tpm_header import (
    HEADER,
    HEADER_SIZE,
    RESULT,
    ST_NO_SESSIONS,
    ST_SESSIONS,
    SUCCESS,
    Bytes,
    encode_response,
)

#: In the layer of TSS2_RESMGR_TPM_RC, as the kernel answers.
UNKNOWN_COMMAND = refuse(11 << 16 | TpmRc.COMMAND_CODE)

_LISTED = (Ht.TRANSIENT, Ht.HMAC_SESSION, Ht.POLICY_SESSION)
_LAST_REFERENCE = 6  # TPM_RC_REFERENCE_H6 and _S6 are the last ones
_PARAMETER_1 = 0x140  # in a return code of format 1: it is about the first parameter
_MAX_LISTED = 254
_PLAIN = CommandAttributes(0, returns_handle=False, flushes=False, flushes_many=False)
_DONE = refuse(TpmRc.SUCCESS)
_SHUTDOWNS = (bytes(2), b"\0\1")  # TPM_SU_CLEAR, TPM_SU_STATE
#: They have a handle among their parameters, or are answered here.
_EXCEPTIONS = frozenset(
    (CommandCode.FLUSH_CONTEXT, CommandCode.CONTEXT_LOAD, CommandCode.GET_CAPABILITY, CommandCode.SHUTDOWN)
)


class ResourceManager:
    """One for a TPM. All methods belong to the thread that has the TPM.

    A client's command is the last one that `execute` has the TPM execute, but for a flush of what nobody has room for.
    """

    def __init__(self, execute: Execute) -> None:
        self._execute = execute
        self._calls = TpmCalls(execute)
        self._saved = SavedSessions(self._calls)
        self._bystanders = Bystanders(self._calls, self._saved)
        self._loaded = Loaded(self._calls, self._saved, self._bystanders)
        self.spaces: list[Space] = []
        self._facts: Optional[TpmFacts] = None
        #: Codes of commands that have no handles, nor any other reason to be looked at.
        self.plain: frozenset[int] = frozenset()
        #: Sessions that the last command has ended, with their spaces.
        self._ended: list[tuple[Session, Space]] = []

    # --- spaces --------------------------------------------------------------------------------------------------

    def open(self, caller: Caller) -> Space:
        space = Space(caller)
        self.spaces.append(space)
        return space

    def close(self, space: Space) -> None:
        """Flush all that the space has. A session that its client has saved stays, for who has the context."""
        self.spaces.remove(space)
        held: list[Resource] = [*space.objects.values(), *space.sessions.values()]
        for resource in held:
            self._loaded.flush(resource)
        for session in self._saved.of_saver(space):
            session.saver = None
        while len(self._saved.left_alone(space.caller.uid)) > limits.LEFT_ALONE_OF_USER:
            if not self._loaded.flush_left_alone(space.caller.uid):
                break

    @property
    def is_idle(self) -> bool:
        """Has the TPM nothing of any space, and was nothing put away? Then `give_way` would have nothing to do."""
        return not (self._loaded or self._saved or self._bystanders)

    def give_way(self, command: Bytes) -> None:
        """A command of the raw node comes next: let it find the TPM as if there were no spaces, where it would see a
        difference. Sessions that are active are there; it may have them by their handles."""
        if self._facts is None or self.is_idle or len(command) < HEADER_SIZE:
            return
        tag, _size, code = HEADER.unpack_from(command)
        attributes = self._facts.commands.get(code)
        if attributes is None or (code in self.plain and tag == ST_NO_SESSIONS):
            return
        named = decode_named(command, tag, attributes.handles)
        if code == CommandCode.FLUSH_CONTEXT:
            self._lose_session(int.from_bytes(named.parameters, "big"))
        elif code == CommandCode.CONTEXT_LOAD and (session := self._saved.of_clients.get(named.parameters)) is not None:
            self._saved.forget(session)
        if _needs_room(code, attributes, named):
            self.put_away()

    def put_away(self) -> None:
        """Leave the TPM to those who do not come by a space: nothing of the spaces is loaded then."""
        self._loaded.put_away_all()

    def reset(self) -> None:
        """The TPM has lost its power: all objects and sessions are gone."""
        for space in self.spaces:
            space.objects, space.sessions = {}, {}
        self._loaded.forget_all()
        self._saved.forget_all()
        self._bystanders.forget_all()
        self._facts, self.plain, self._ended = None, frozenset(), []

    def take_back(self) -> None:
        """The last command of a space has not happened after all: the TPM is as it was before it."""
        for session, space in self._ended:
            session.space = space
            space.sessions[session.handle] = session
            self._loaded.add(session)
        self._ended = []

    # --- commands ------------------------------------------------------------------------------------------------

    def execute(self, space: Space, command: Buffer) -> bytes:
        """Execute a command, which may be written to, in a space."""
        if len(command) < HEADER_SIZE:
            return self._calls.execute(command)
        tag, size, code = HEADER.unpack_from(command)
        if code in self.plain and tag == ST_NO_SESSIONS:
            return self._execute(command)
        if self._facts is None:
            refusal = self._learn()
            if refusal is not None:
                is_told = result_of(refusal) in (TpmRc.INITIALIZE, TpmRc.FAILURE)
                return self._calls.execute(command) if is_told or code == CommandCode.STARTUP else refusal
        assert self._facts is not None
        self._ended = []
        attributes = self._facts.commands.get(code)
        if attributes is None:
            return UNKNOWN_COMMAND
        if size != len(command):
            return self._calls.execute(command)  # which the TPM refuses
        named = decode_named(command, tag, attributes.handles)
        if code in _EXCEPTIONS:
            response = self._execute_exception(space, code, tag, named)
            if response is not None:
                return response
        return self._execute_named(space, command, code, attributes, named)

    def _learn(self) -> Optional[bytes]:
        """Ask the TPM what it is; what it answers if it does not say."""
        try:
            facts = self._calls.describe()
        except Refusal as refusal:
            return refusal.response
        self._facts, self._saved.context_gap = facts, facts.context_gap
        self.plain = frozenset(
            code for code, attributes in facts.commands.items() if attributes == _PLAIN and code not in _EXCEPTIONS
        )
        return None

    def _execute_named(
        self, space: Space, command: Buffer, code: int, attributes: CommandAttributes, named: Named
    ) -> bytes:
        """Execute a command of which each handle of an object or session is to be the space's."""
        asked = [(TpmRc.REFERENCE_H0, place, handle) for place, handle in enumerate(named.handles)]
        asked += [
            (TpmRc.REFERENCE_S0, place, authorization.session)
            for place, authorization in enumerate(named.authorizations)
            if is_session(authorization.session)
        ]
        found: list[tuple[Resource, bytes]] = []
        for reference, place, handle in asked:
            if type_of(handle) in _LISTED:
                missing = refuse(reference + min(place, _LAST_REFERENCE))
                resource = space.get(handle)
                if resource is None:
                    return missing
                found.append((resource, missing))
        if attributes.flushes_many:  # what is put away has not to be asked for, and comes back if it is undone
            self._loaded.put_away_objects()
        needed = [resource for resource, _missing in found]
        for resource, missing in found:
            rc = self._loaded.bring(resource, needed)
            if rc:
                return missing if is_lost(rc) else refuse(rc)
        message = bytearray(command)
        for place, handle in enumerate(named.handles):
            if handle in space.objects:
                put_handle(message, place, space.objects[handle].physical)
        response = self._loaded.run(message, needed)
        if response[RESULT] == SUCCESS:
            return self._after_success(space, code, attributes, named, response)
        return response

    def _after_success(
        self, space: Space, code: int, attributes: CommandAttributes, named: Named, response: bytes
    ) -> bytes:
        if attributes.flushes:
            for handle in named.handles:
                if handle in space.objects:
                    self._loaded.lose(space.objects[handle])
        for session, is_continued in named.authorizations:
            if session in space.sessions and not is_continued:
                self._ended.append((space.sessions[session], space))
                self._loaded.lose(space.sessions[session])
        if code == CommandCode.CONTEXT_SAVE and named.handles[0] in space.sessions:
            self._loaded.was_saved_by_client(space.sessions[named.handles[0]], response[HEADER_SIZE:])
        elif attributes.returns_handle:
            return self._adopt(space, response, named.parameters if code == CommandCode.CONTEXT_LOAD else b"")
        return response

    def _adopt(self, space: Space, response: bytes, context: bytes) -> bytes:
        """The TPM has given a handle, perhaps from a `context`: the response as the client sees it."""
        handle = handle_in(response)
        if type_of(handle) == Ht.TRANSIENT:
            if not limits.has_room_for_object(space, self.spaces):
                self._calls.flush(handle)
                return refuse(TpmRc.OBJECT_MEMORY)
            added = space.add_object(handle, context if is_constant(context) else b"")
            self._loaded.add(added)
            return response[: HANDLE.start] + added.virtual.to_bytes(4, "big") + response[HANDLE.stop :]
        if is_session(handle):
            self._lose_session(handle)  # one that has gone unseen, or this command would not have been given its handle
            if not context and not self._has_share_of_sessions(space):
                self._calls.flush(handle)
                return refuse(TpmRc.SESSION_HANDLES)
            self._loaded.give(Session(handle, space), space)
        return response

    def _has_share_of_sessions(self, space: Space) -> bool:
        assert self._facts is not None
        if len(space.sessions) >= limits.SESSIONS_OF_SPACE:
            return False
        while limits.is_share_of_sessions_used(space, self.spaces, self._saved, self._facts.active_sessions):
            if not self._loaded.flush_left_alone(space.caller.uid):
                return False
        return True

    def _lose_session(self, handle: int) -> None:
        session = self._saved.get(handle) or self._loaded.get_session(handle)
        if session is not None:
            self._loaded.lose(session)

    # --- exceptions ----------------------------------------------------------------------------------------------

    def _execute_exception(self, space: Space, code: int, tag: int, named: Named) -> Optional[bytes]:
        """What a command with an exception is answered; None: it is to be executed like others."""
        if code == CommandCode.GET_CAPABILITY:
            return self._list_handles(space, tag, named.parameters)
        if tag == ST_SESSIONS:
            return refuse(TpmRc.AUTH_CONTEXT)
        if tag != ST_NO_SESSIONS:
            return None
        if code == CommandCode.FLUSH_CONTEXT:
            return self._flush(space, named.parameters)
        if code == CommandCode.CONTEXT_LOAD:
            return self._load_saved_by_client(space, named.parameters)
        return _DONE if named.parameters in _SHUTDOWNS else None

    def _flush(self, space: Space, parameters: bytes) -> Optional[bytes]:
        handle = int.from_bytes(parameters, "big")
        if len(parameters) != 4 or type_of(handle) not in _LISTED:
            return None
        resource = space.get(handle)
        if resource is None:
            by_client = self._saved.get(handle)
            if by_client is None or by_client.saver is not space:
                return refuse(TpmRc.HANDLE | _PARAMETER_1)
            resource = by_client
        return refuse(self._loaded.flush(resource))

    def _load_saved_by_client(self, space: Space, context: bytes) -> Optional[bytes]:
        """A session that is known to be saved: where its context had to be made anew, by the new one."""
        session = self._saved.of_clients.get(context)
        if session is None:
            return None
        rc = self._loaded.bring(session, ())
        if rc:
            return refuse(rc)
        self._loaded.give(session, space)
        return encode_response(ST_NO_SESSIONS, TpmRc.SUCCESS, session.handle.to_bytes(4, "big"))

    def _list_handles(self, space: Space, tag: int, parameters: bytes) -> Optional[bytes]:
        question = decode_question(parameters)
        if question is None or question.capability != Cap.HANDLES or type_of(question.first) not in _LISTED:
            return None
        if tag == ST_SESSIONS:
            return refuse(TpmRc.AUTH_CONTEXT)
        if type_of(question.first) == Ht.TRANSIENT:
            all_of_them = sorted(space.objects)
        elif type_of(question.first) == Ht.HMAC_SESSION:
            all_of_them = sorted(space.sessions, key=number_of)
        else:  # libtpms lists all that are saved as if they were for HMAC
            saved = self._saved.of_saver(space)
            all_of_them = sorted(Ht.HMAC_SESSION << 24 | number_of(session.handle) for session in saved)
        rest = [handle for handle in all_of_them if number_of(handle) >= number_of(question.first)]
        count = min(question.limit, _MAX_LISTED)
        return encode_response(ST_NO_SESSIONS, TpmRc.SUCCESS, encode_handles(rest[:count], more=len(rest) > count))


def _needs_room(code: int, attributes: CommandAttributes, named: Named) -> bool:
    """Would the command see, or lack, what the TPM has loaded of spaces?"""
    if attributes.returns_handle or code == CommandCode.FLUSH_CONTEXT:
        return True
    if code == CommandCode.GET_CAPABILITY:
        question = decode_question(named.parameters)
        return question is None or question.capability == Cap.HANDLES
    if any(is_session(authorization.session) for authorization in named.authorizations):
        return True
    # a persistent object is loaded, too, while it is used
    return any(type_of(handle) in (*_LISTED, Ht.PERSISTENT) for handle in named.handles)
