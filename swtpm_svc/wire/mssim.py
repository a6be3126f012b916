"""The protocol of Microsoft's TPM simulator ("mssim"): big-endian messages on two TCP connections.

Source: TPM 2.0 Library Part 4, "Simulator" (TcpServer), tss2-tcti-mssim(7), and what tpm2-tss sends. TPM commands go to
one port, what a platform does with a TPM to the next one. A message is an ordinal in four bytes, then what belongs to
it; nothing frames it. The answer to most is four bytes, zero when it was done. The client waits for each before it
sends again.
"""

from struct import Struct

from swtpm_svc.wire.enumerations import IntEnum, unique
from swtpm_svc.wire.hints import Optional, Union
from swtpm_svc.wire.protocol_error import ProtocolError
from swtpm_svc.wire.values import NamedTuple

#: Bytes that one message may carry: no TPM has longer commands.
DATA_LIMIT = 4096


@unique
class Ordinal(IntEnum):
    SIGNAL_POWER_ON = 1
    SIGNAL_POWER_OFF = 2
    SIGNAL_PHYS_PRES_ON = 3
    SIGNAL_PHYS_PRES_OFF = 4
    HASH_START = 5
    HASH_DATA = 6
    HASH_END = 7
    SEND_COMMAND = 8
    SIGNAL_CANCEL_ON = 9
    SIGNAL_CANCEL_OFF = 10
    SIGNAL_NV_ON = 11
    SIGNAL_NV_OFF = 12
    SIGNAL_KEY_CACHE_ON = 13
    SIGNAL_KEY_CACHE_OFF = 14
    REMOTE_HANDSHAKE = 15
    SET_ALTERNATIVE_RESULT = 16
    SIGNAL_RESET = 17
    SESSION_END = 20
    STOP = 21
    TEST_FAILURE_MODE = 30


_ON_BOTH = {Ordinal.SESSION_END, Ordinal.STOP}
#: What each port takes.
COMMAND_PORT = frozenset(
    {
        Ordinal.HASH_START,
        Ordinal.HASH_DATA,
        Ordinal.HASH_END,
        Ordinal.SEND_COMMAND,
        Ordinal.REMOTE_HANDSHAKE,
        Ordinal.SET_ALTERNATIVE_RESULT,
        *_ON_BOTH,
    }
)
PLATFORM_PORT = frozenset(Ordinal) - COMMAND_PORT | _ON_BOTH

_UINT32 = Struct(">I")
_NOTHING = Struct(">")
#: The numbers behind an ordinal; of all but the handshake's the last one is the length of the data that follows.
_NUMBERS = {
    Ordinal.SEND_COMMAND: Struct(">BI"),  # locality, length
    Ordinal.HASH_DATA: _UINT32,
    Ordinal.SET_ALTERNATIVE_RESULT: _UINT32,
    Ordinal.REMOTE_HANDSHAKE: _UINT32,  # the client's version of the protocol
}
_HANDSHAKE = Struct(">III")
_VERSION = 1
#: Of the handshake: there are platform signals, and commands go to the TPM as they are; no physical presence.
_PLATFORM_AVAILABLE = 0x01
_RAW_MODE = 0x04


class Message(NamedTuple):
    """`locality` is SEND_COMMAND's; `data` the command, or what is to be hashed; 0 and empty with the other
    ordinals."""

    ordinal: Ordinal
    locality: int = 0
    data: bytes = b""


class Decoder:
    """The messages in the stream of bytes that one connection to the port of `ordinals` receives."""

    def __init__(self, ordinals: "frozenset[Ordinal]") -> None:
        self._ordinals = ordinals
        self._buffer = bytearray()

    @property
    def is_empty(self) -> bool:
        return not self._buffer

    def feed(self, data: Union[bytes, bytearray, memoryview]) -> None:
        """Take what has arrived."""
        self._buffer += data

    def next(self) -> Optional[Message]:
        """The next message that is whole; None: more bytes are needed.

        Raises:
            ProtocolError: the port has no such ordinal, or the message is too long; what follows cannot be understood.
        """
        buffer = self._buffer
        if len(buffer) < _UINT32.size:
            return None
        (number,) = _UINT32.unpack_from(buffer)
        if number not in self._ordinals:
            raise ProtocolError(f"this port has no ordinal {number:#x}")
        ordinal = Ordinal(number)
        shape = _NUMBERS.get(ordinal, _NOTHING)
        start = _UINT32.size + shape.size
        if len(buffer) < start:
            return None
        numbers = shape.unpack_from(buffer, _UINT32.size)
        length = numbers[-1] if numbers and ordinal is not Ordinal.REMOTE_HANDSHAKE else 0
        if length > DATA_LIMIT:
            raise ProtocolError(f"{ordinal.name} announces {length} bytes, {DATA_LIMIT} are the limit")
        end = start + length
        if len(buffer) < end:
            return None
        data = bytes(buffer[start:end])
        del buffer[:end]
        return Message(ordinal, numbers[0] if ordinal is Ordinal.SEND_COMMAND else 0, data)


def encode_result(result: int) -> bytes:
    """The answer to most messages; 0: done."""
    return _UINT32.pack(result)


def encode_response(response: bytes) -> bytes:
    """The answer to SEND_COMMAND."""
    return _UINT32.pack(len(response)) + response + _UINT32.pack(0)


def encode_handshake() -> bytes:
    """The answer to REMOTE_HANDSHAKE: our version of the protocol, what there is, done."""
    return _HANDSHAKE.pack(_VERSION, _PLATFORM_AVAILABLE | _RAW_MODE, 0)
