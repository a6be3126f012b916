"""The control protocol on a control socket: big-endian messages on a byte stream.

Source: the public header swtpm/tpm_ioctl.h, swtpm_ioctl(8), and what the distribution's swtpm and swtpm_ioctl send. A
command is its number + 1 in four bytes, then its fields; a reply is only its fields. Nothing frames a message: where it
ends follows from what it is. The client waits for each reply before it sends again.

Two clients disagree on the body of SET_LOCALITY and RESET_TPMESTABLISHED: QEMU sends the C struct, the locality and
three bytes of padding that it never set; tpm2-tss and swtpm_ioctl send the locality alone. The decoder takes the
locality at once and then looks at the fourth byte behind it: the lowest one of the next command's number, which is not
zero, unless three bytes of padding come before; then it is the highest one of that number, which is zero. So the
outcome depends on the bytes alone, never on how they arrive.
"""

from struct import Struct
from struct import error as StructError

from swtpm_svc.wire import ptm
from swtpm_svc.wire.hints import Optional, Union
from swtpm_svc.wire.protocol_error import ProtocolError
from swtpm_svc.wire.ptm import Command
from swtpm_svc.wire.ptm_shapes import SHAPES
from swtpm_svc.wire.values import NamedTuple

#: Bytes of data that one message may carry, in either direction. The protocol's own limit is 2**32 - 1, but what a peer
#: announces is kept in memory until it is whole. A TPM's state has less than 300 KB; swtpm_ioctl hashes 4096 bytes a
#: message.
DATA_LIMIT = 1 << 20

_RESULT_BAD_PARAMETER = 0x03
_RESULT_BAD_ORDINAL = 0x0A

_UINT32 = Struct(">I")
_PADDING = 3  # bytes after a locality
_BEFORE_PADDING = (Command.SET_LOCALITY, Command.RESET_TPMESTABLISHED)

_REQUESTS: dict[Command, Struct] = {command: Struct(SHAPES[command.name].socket_request) for command in Command}
_REPLIES: dict[Command, Struct] = {command: Struct(SHAPES[command.name].socket_reply) for command in Command}
_REPLY_SHAPES: dict[type[ptm.Reply], Struct] = {ptm.REPLY_OF[command]: shape for command, shape in _REPLIES.items()}
_COMMANDS: dict[int, Command] = {int(command) + 1: command for command in Command}


class Refused(NamedTuple):
    """What cannot be decoded: answer `Result(tpm_result)` and close, for where the next message starts is unknown."""

    tpm_result: int
    reason: str


Received = Union[ptm.Request, Refused]


class Decoder:
    """The requests in one connection's stream of bytes."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._after_locality = False
        self._refused = False

    def receive(self, data: Union[bytes, bytearray, memoryview]) -> list[Received]:
        """Take what has arrived; the requests that are whole now, in order. After a Refused nothing more comes."""
        if self._refused:
            return []
        self._buffer += data
        received: list[Received] = []
        while (request := self._next()) is not None:
            received.append(request)
            if isinstance(request, Refused):
                self._refused = True
                self._buffer.clear()
                break
        return received

    def _next(self) -> Optional[Received]:
        if self._after_locality and not self._skip_padding():
            return None
        buffer = self._buffer
        if len(buffer) < _UINT32.size:
            return None
        (number,) = _UINT32.unpack_from(buffer)
        command = _COMMANDS.get(number)
        if command is None:
            return Refused(_RESULT_BAD_ORDINAL, f"no control command has the number 0x{number:08x}")
        shape = _REQUESTS[command]
        start = _UINT32.size + shape.size
        if len(buffer) < start:
            return None
        numbers = shape.unpack_from(buffer, _UINT32.size)
        length = numbers[-1] if ptm.has_data(ptm.REQUEST_OF[command]) else 0
        if length > DATA_LIMIT:
            return Refused(
                _RESULT_BAD_PARAMETER, f"{command.name} announces {length} bytes, {DATA_LIMIT} are the limit"
            )
        if len(buffer) < start + length:
            return None
        payload = bytes(buffer[start : start + length])
        del buffer[: start + length]
        self._after_locality = command in _BEFORE_PADDING
        return ptm.join_request(command, numbers, payload)

    def _skip_padding(self) -> bool:
        """Drop what follows a locality if it is padding; False: too early to tell."""
        if len(self._buffer) <= _PADDING:
            return False
        if not self._buffer[_PADDING]:
            del self._buffer[:_PADDING]
        self._after_locality = False
        return True


def encode(reply: ptm.Reply) -> bytes:
    """The reply's bytes.

    Answer a failure with a `Result`, whatever the request: swtpm does so, and clients look at no more than its four
    bytes. Only GET_STATEBLOB's has all its fields there, zero, as QEMU reads them before it looks at the result: give
    it a StateBlobReply without data.

    Raises:
        ProtocolError: a number does not fit its field.
    """
    if isinstance(reply, ptm.StateBlobReply):
        reply = reply._replace(total_length=len(reply.data))
    return _encode(_REPLY_SHAPES[type(reply)], reply)


def pack(request: ptm.Request) -> bytes:
    """The client's side: the bytes to send.

    Raises:
        ProtocolError: a number does not fit its field.
    """
    command = ptm.command_of(request)
    return _UINT32.pack(command + 1) + _encode(_REQUESTS[command], request)


def _encode(shape: Struct, message: Union[ptm.Request, ptm.Reply]) -> bytes:
    numbers, payload = ptm.split(message)
    try:
        return shape.pack(*numbers) + payload
    except StructError as error:
        raise ProtocolError(f"{type(message).__name__} cannot hold {numbers}: {error}") from None


def unpack(request: ptm.Request, data: bytes) -> Optional[ptm.Reply]:
    """The client's side: the reply to `request` in all bytes received since it was sent; None: not all of it is there
    yet.

    A failed request gives a `Result`, whatever its kind; what else may follow a failure is to be thrown away.

    Raises:
        ProtocolError: more bytes than the reply has, or it announces more data than DATA_LIMIT.
    """
    command = ptm.command_of(request)
    if len(data) < _UINT32.size:
        return None
    (tpm_result,) = _UINT32.unpack_from(data)
    if tpm_result:
        return ptm.Result(tpm_result)
    shape = _REPLIES[command]
    if len(data) < shape.size:
        return None
    numbers = shape.unpack_from(data)
    length = numbers[-1] if ptm.has_data(ptm.REPLY_OF[command]) else 0
    if length > DATA_LIMIT:
        raise ProtocolError(f"the reply to {command.name} announces {length} bytes, {DATA_LIMIT} are the limit")
    if len(data) > shape.size + length:
        raise ProtocolError(f"a reply to {command.name} has {shape.size + length} bytes, not {len(data)}")
    return ptm.join_reply(command, numbers, data[shape.size :]) if len(data) == shape.size + length else None


def shaped(request: ptm.Request, reply: ptm.Reply) -> ptm.Reply:
    """A state blob from the offset that was asked for; "there is none" comes with all fields, too (measured with swtpm
    0.7.1).

    So does a refusal: QEMU waits for all of them, and its guest with it. Only "the TPM is off" is a short answer, as
    swtpm's.
    """
    if isinstance(request, ptm.GetStateBlob):
        if isinstance(reply, ptm.StateBlobReply):
            return reply._replace(data=reply.data[request.offset :])
        if isinstance(reply, ptm.Result) and reply.tpm_result != _RESULT_BAD_ORDINAL:
            return ptm.StateBlobReply(reply.tpm_result, 0, 0, b"")
    return reply
