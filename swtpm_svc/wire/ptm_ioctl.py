"""The control protocol as ioctls of the device: numbers, and structs in the machine's byte order and alignment.

Source: the public header swtpm/tpm_ioctl.h. Each struct there is a union of a request and a reply, so both have one
size, that of the whole union. In restricted mode the kernel's CUSE takes that size from the ioctl's number: a request
arrives whole or, when it has no fields, empty; a reply goes back whole.
"""

from struct import Struct
from struct import error as StructError

from swtpm_svc.wire import ptm
from swtpm_svc.wire.hints import Optional, Union
from swtpm_svc.wire.protocol_error import ProtocolError
from swtpm_svc.wire.ptm import Command
from swtpm_svc.wire.ptm_shapes import SHAPES, Shape, number_of, struct_size
from swtpm_svc.wire.values import NamedTuple

Bytes = Union[bytes, bytearray, memoryview]

_UINT32 = Struct("@I")


class _Shape(NamedTuple):
    """One struct: the numbers of a request and of a reply, and how many bytes of data fit behind the last number."""

    request: Struct
    reply: Struct
    data_max: int

    @classmethod
    def of(cls, shape: Shape) -> "_Shape":
        request, reply = Struct(shape.ioctl_request), Struct(shape.ioctl_reply)
        return cls(request, reply, shape.request_data or shape.reply_data)


_SHAPES: dict[Command, _Shape] = {command: _Shape.of(SHAPES[command.name]) for command in Command}

#: Bytes of each command's struct.
SIZES: dict[Command, int] = {command: struct_size(SHAPES[command.name]) for command in Command}

#: The second argument of ioctl(2), for each command, on this machine.
NUMBERS: dict[Command, int] = {command: number_of(SHAPES[command.name]) for command in Command}
_COMMANDS: dict[int, Command] = {number: command for command, number in NUMBERS.items()}


def decode(command_number: int, data: Bytes) -> Optional[ptm.Request]:
    """The request of ioctl `command_number` with the caller's struct `data`; None: it is not an ioctl of this protocol
    (ENOTTY).

    Raises:
        ProtocolError: `data` has another size than the number says, or a length in it exceeds the struct.
    """
    command = _COMMANDS.get(command_number)
    if command is None:
        return None
    shape = _SHAPES[command].request
    expected = SIZES[command] if shape.size else 0
    if len(data) != expected:
        raise ProtocolError(f"{command.name} takes {expected} bytes, not {len(data)}")
    numbers = shape.unpack_from(data)
    payload = _payload(command, shape, numbers, data) if ptm.has_data(ptm.REQUEST_OF[command]) else b""
    return ptm.join_request(command, numbers, payload)


def encode(request: ptm.Request, reply: ptm.Reply) -> bytes:
    """The struct that answers `request`: whole, the rest of it zero.

    `Result` answers any request but GetCapability: the struct's first field is the TPM's result in all the others.
    Of a StateBlobReply's or an InfoReply's data as much goes as fits: the client asks again with an offset.

    Raises:
        ProtocolError: a number does not fit its field.
        TypeError: the reply is not one of this request's.
    """
    command = ptm.command_of(request)
    if type(reply) is ptm.REPLY_OF[command]:
        if isinstance(reply, (ptm.StateBlobReply, ptm.InfoReply)):
            reply = reply._replace(data=reply.data[: _SHAPES[command].data_max])
        return _whole(command, _SHAPES[command].reply, reply)
    if type(reply) is ptm.Result and command is not Command.GET_CAPABILITY:
        return _whole(command, _UINT32, reply)
    raise TypeError(f"{type(reply).__name__} is not a reply to {command.name}")


def pack(request: ptm.Request) -> tuple[int, bytearray]:
    """The client's side: the ioctl's number, and its struct as a buffer that the reply overwrites.

    Raises:
        ProtocolError: the request's data does not fit the struct, or a number does not fit its field.
    """
    command = ptm.command_of(request)
    return NUMBERS[command], bytearray(_whole(command, _SHAPES[command].request, request))


def unpack(request: ptm.Request, data: Bytes) -> ptm.Reply:
    """The client's side: the reply in the struct that came back. A failed request gives a `Result`, whatever its kind.

    Raises:
        ProtocolError: `data` has the wrong size, or a length in it exceeds the struct.
    """
    command = ptm.command_of(request)
    if len(data) != SIZES[command]:
        raise ProtocolError(f"a reply to {command.name} has {SIZES[command]} bytes, not {len(data)}")
    shape = _SHAPES[command].reply
    numbers = shape.unpack_from(data)
    if command is not Command.GET_CAPABILITY and numbers[0]:
        return ptm.Result(numbers[0])
    payload = _payload(command, shape, numbers, data) if ptm.has_data(ptm.REPLY_OF[command]) else b""
    return ptm.join_reply(command, numbers, payload)


def _payload(command: Command, shape: Struct, numbers: tuple[int, ...], data: Bytes) -> bytes:
    """The data behind `numbers`, the last of which says how long it is."""
    length, limit = numbers[-1], _SHAPES[command].data_max
    if length > limit:
        raise ProtocolError(f"{command.name} says {length} bytes, its struct holds {limit}")
    return bytes(data[shape.size : shape.size + length])


def _whole(command: Command, shape: Struct, message: Union[ptm.Request, ptm.Reply]) -> bytes:
    numbers, payload = ptm.split(message)
    if len(payload) > _SHAPES[command].data_max:
        raise ProtocolError(
            f"{len(payload)} bytes of data do not fit {command.name}, which holds {_SHAPES[command].data_max}"
        )
    try:
        return (shape.pack(*numbers) + payload).ljust(SIZES[command], b"\0")
    except StructError as error:
        raise ProtocolError(f"{command.name} cannot hold {numbers}: {error}") from None
