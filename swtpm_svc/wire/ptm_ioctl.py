"""The control protocol as ioctls of the device: numbers, and structs in the machine's byte order and alignment.

Source: the public header swtpm/tpm_ioctl.h. Each struct there is a union of a request and a reply, so both have one
size, that of the whole union. In restricted mode the kernel's CUSE takes that size from the ioctl's number: a request
arrives whole or, when it has no fields, empty; a reply goes back whole.
"""

import os
from struct import Struct
from struct import error as StructError
from typing import NamedTuple, Optional, Union

from swtpm_svc.wire import ptm
from swtpm_svc.wire.protocol_error import ProtocolError
from swtpm_svc.wire.ptm import Command

Bytes = Union[bytes, bytearray, memoryview]

_NOTHING = Struct("")
_UINT32 = Struct("@I")


class _Shape(NamedTuple):
    """One struct: the numbers of a request and of a reply, and how many bytes of data fit behind the last number."""

    request: Struct
    reply: Struct
    data_max: int = 0


_RESULT_ONLY = _Shape(_NOTHING, _UINT32)
_ONE_NUMBER = _Shape(_UINT32, _UINT32)
_ONE_BYTE = _Shape(Struct("@B"), _UINT32)

_SHAPES: dict[Command, _Shape] = {
    **dict.fromkeys(Command, _RESULT_ONLY),  # ptm_res, without a request
    Command.GET_CAPABILITY: _Shape(_NOTHING, Struct("@Q")),  # ptm_cap
    Command.INIT: _ONE_NUMBER,  # ptm_init
    Command.GET_TPMESTABLISHED: _Shape(_NOTHING, Struct("@IB3x")),  # ptm_est
    Command.SET_LOCALITY: _ONE_BYTE,  # ptm_loc
    Command.HASH_DATA: _Shape(_UINT32, _UINT32, ptm.HASH_DATA_MAX),  # ptm_hdata
    Command.RESET_TPMESTABLISHED: _ONE_BYTE,  # ptm_reset_est
    Command.GET_STATEBLOB: _Shape(Struct("@III"), Struct("@IIII"), ptm.STATE_BLOB_CHUNK),  # ptm_getstate
    Command.SET_STATEBLOB: _Shape(Struct("@III"), _UINT32, ptm.STATE_BLOB_CHUNK),  # ptm_setstate
    Command.GET_CONFIG: _Shape(_NOTHING, Struct("@II")),  # ptm_getconfig
    Command.SET_BUFFERSIZE: _Shape(_UINT32, Struct("@IIII")),  # ptm_setbuffersize
    Command.GET_INFO: _Shape(Struct("@QI4x"), Struct("@III"), ptm.INFO_CHUNK),  # ptm_getinfo
    Command.LOCK_STORAGE: _ONE_NUMBER,  # ptm_lockstorage
}


def _size(command: Command) -> int:
    """Bytes of the union: the larger member, rounded up to the alignment of the most demanding field."""
    request, reply, data_max = _SHAPES[command]
    request_max = data_max if ptm.has_data(ptm.REQUEST_OF[command]) else 0
    reply_max = data_max if ptm.has_data(ptm.REPLY_OF[command]) else 0
    largest = max(request.size + request_max, reply.size + reply_max)
    widest = "Q" if "Q" in request.format + reply.format else "I"  # 8 bytes need an alignment of 8, or of 4 on i386
    return Struct(f"@{largest}s0{widest}").size


#: Bytes of each command's struct.
SIZES: dict[Command, int] = {command: _size(command) for command in Command}


def ioctl_number(machine: str, *, writes: bool, size: int, ordinal: int) -> int:
    """_IOR or (with `writes`) _IOWR of ('P', `ordinal`, a struct of `size` bytes), as `machine` (uname -m) counts.

    Source: include/uapi/asm-generic/ioctl.h, and the powerpc, mips, sparc and alpha headers that differ: there the size
    has 13 bits instead of 14 and the direction 3 instead of 2.
    """
    if machine.startswith(("ppc", "mips", "sparc", "alpha")):
        direction = (0b110 if writes else 0b010) << 29
    else:
        direction = (0b11 if writes else 0b10) << 30
    return direction | size << 16 | ord("P") << 8 | ordinal


def _number(command: Command, machine: str) -> int:
    writes = _SHAPES[command].request is not _NOTHING
    return ioctl_number(machine, writes=writes, size=SIZES[command], ordinal=int(command))


#: The second argument of ioctl(2), for each command, on this machine.
NUMBERS: dict[Command, int] = {command: _number(command, os.uname().machine) for command in Command}
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
    expected = SIZES[command] if shape is not _NOTHING else 0
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
