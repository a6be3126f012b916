"""What the resource manager itself asks of the TPM, as calls: save, load and flush contexts, list handles, and what
kind of TPM it is.

None of these disturbs an exclusive audit session of a client, but `handles_of` and `describe` (measured with
libtpms 0.9.2).
"""

from typing import Callable, Union

from swtpm_svc.wire.command_codes import CommandCode
from swtpm_svc.wire.protocol_error import ProtocolError
from swtpm_svc.wire.results import TpmRc
from swtpm_svc.wire.tpm2 import decode_handles, decode_property, encode_get_handles, encode_get_property
from swtpm_svc.wire.tpm2_contexts import CommandAttributes, decode_commands, encode_get_commands
from swtpm_svc.wire.tpm2_numbers import Pt
from swtpm_svc.wire.tpm_header import HEADER_SIZE, RESULT, ST_NO_SESSIONS, Bytes, encode_command, encode_response
from swtpm_svc.wire.values import NamedTuple

Buffer = Union[bytearray, memoryview]
#: Execute a command at the TPM, which may write to it, and give the response.
Execute = Callable[[Buffer], bytes]

#: Where a response has its handle.
HANDLE = slice(HEADER_SIZE, HEADER_SIZE + 4)

_FIRST_COMMAND = 0x11F  # TPM_CC_FIRST (Part 2, section 6.5.2)
_AT_A_TIME = 254  # of handles or commands: what fits into a response of 1 KiB


class Refusal(Exception):
    """The TPM did not answer what it was asked. `response` is what it answered."""

    def __init__(self, response: bytes) -> None:
        self.response = response


class TpmFacts(NamedTuple):
    """What a TPM says about itself: the attributes of its commands by code, and its limits."""

    commands: "dict[int, CommandAttributes]"
    #: How many sessions can be active at a time, loaded or saved.
    active_sessions: int
    #: How many times sessions can be saved before the oldest saved one has to be loaded.
    context_gap: int


def result_of(response: bytes) -> int:
    return int.from_bytes(response[RESULT], "big")


def refuse(rc: int) -> bytes:
    """The response to a command that is refused."""
    return encode_response(ST_NO_SESSIONS, rc)


def encode_load(context: bytes) -> bytes:
    """TPM2_ContextLoad (Part 3, section 28.3)."""
    return encode_command(ST_NO_SESSIONS, CommandCode.CONTEXT_LOAD, context)


def handle_in(response: bytes) -> int:
    """The handle that a response begins with; 0: it is cut."""
    return int.from_bytes(response[HANDLE], "big")


#: What stands for an answer that makes no sense.
_SENSELESS = refuse(TpmRc.FAILURE)


class TpmCalls:
    def __init__(self, execute: Execute) -> None:
        self._execute = execute

    def execute(self, command: Bytes) -> bytes:
        """Execute a copy of a command: a TPM decrypts parameters where they stand, and it may be sent again."""
        return self._execute(bytearray(command))

    def save(self, handle: int) -> "tuple[int, bytes]":
        """TPM2_ContextSave (3:28.2): the return code, and the context."""
        response = self._call(CommandCode.CONTEXT_SAVE, handle.to_bytes(4, "big"))
        return result_of(response), response[HEADER_SIZE:]

    def load(self, context: bytes) -> "tuple[int, int]":
        """TPM2_ContextLoad (3:28.3): the return code, and the handle."""
        response = self._execute(bytearray(encode_load(context)))
        return result_of(response), handle_in(response)

    def flush(self, handle: int) -> int:
        """TPM2_FlushContext (3:28.4)."""
        return result_of(self._call(CommandCode.FLUSH_CONTEXT, handle.to_bytes(4, "big")))

    def handles_of(self, handle_type: int) -> "list[int]":
        """Those that a list of handles of the type has; none where the TPM does not say."""
        found: list[int] = []
        first, more = handle_type << 24, True
        while more:
            try:
                handles, more = decode_handles(self._ask(encode_get_handles(first, _AT_A_TIME)))
            except (Refusal, ProtocolError):
                break
            if not handles:
                break
            found += handles
            first = handles[-1] + 1
        return found

    def describe(self) -> TpmFacts:
        """Raises: Refusal: the TPM was not started, or has failed, or its answer makes no sense."""
        commands: dict[int, CommandAttributes] = {}
        first, more = _FIRST_COMMAND, True
        while more:
            parameters = self._ask(encode_get_commands(first, _AT_A_TIME))
            try:
                found, more = decode_commands(parameters)
            except ProtocolError:
                raise Refusal(_SENSELESS) from None
            if not found:
                break
            commands.update(found)
            first = max(found) + 1
        return TpmFacts(commands, self._ask_property(Pt.ACTIVE_SESSIONS_MAX), self._ask_property(Pt.CONTEXT_GAP_MAX))

    def _ask_property(self, number: int) -> int:
        parameters = self._ask(encode_get_property(number))
        try:
            return decode_property(parameters, number)
        except ProtocolError:
            raise Refusal(_SENSELESS) from None

    def _ask(self, parameters: bytes) -> bytes:
        response = self._call(CommandCode.GET_CAPABILITY, parameters)
        if result_of(response):
            raise Refusal(response)
        return response[HEADER_SIZE:]

    def _call(self, code: CommandCode, body: bytes) -> bytes:
        return self._execute(bytearray(encode_command(ST_NO_SESSIONS, code, body)))
