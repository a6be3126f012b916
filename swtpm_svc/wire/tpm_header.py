"""TPM commands and responses: the ten-byte header that both versions share, big-endian.

Source: TPM Main Part 3 (1.2), and TPM 2.0 Library Part 1, "Command/Response Structure". What follows the header is the
TPM's affair, not ours.
"""

from struct import Struct
from struct import error as StructError

from swtpm_svc.wire.hints import Union
from swtpm_svc.wire.protocol_error import ProtocolError
from swtpm_svc.wire.values import NamedTuple

Bytes = Union[bytes, bytearray, memoryview]

# TPM 1.2: commands with no, one and two authorization sessions, and their responses.
TAG_RQU_COMMAND = 0x00C1
TAG_RQU_AUTH1_COMMAND = 0x00C2
TAG_RQU_AUTH2_COMMAND = 0x00C3
TAG_RSP_COMMAND = 0x00C4
TAG_RSP_AUTH1_COMMAND = 0x00C5
TAG_RSP_AUTH2_COMMAND = 0x00C6

# TPM 2.0: commands and responses alike. An error has no sessions; a wrong tag is answered in 1.2's way.
ST_NO_SESSIONS = 0x8001
ST_SESSIONS = 0x8002

#: The tag of a response that reports an error, by version of the TPM.
ERROR_TAG = {"1.2": TAG_RSP_COMMAND, "2.0": ST_NO_SESSIONS}

HEADER = Struct(">HII")  # tag, size in bytes, code: see Header
HEADER_SIZE = HEADER.size

#: Where a response has its return code, for code that only compares it: see `results`.
RESULT = slice(6, 10)
#: `response[RESULT]` of a command that succeeded.
SUCCESS = bytes(4)

_unpack = HEADER.unpack_from
_pack = HEADER.pack
_new = tuple.__new__


class Header(NamedTuple):
    """`size`: bytes in all, by the sender's word. `code`: ordinal, command code or return code."""

    tag: int
    size: int
    code: int


def decode_header(buffer: Bytes) -> Header:
    """The header at the start of a command or a response.

    Raises:
        ProtocolError: `buffer` is shorter than a header.
    """
    try:
        return _new(Header, _unpack(buffer))
    except StructError:
        raise ProtocolError(f"{len(buffer)} bytes are too few for a TPM header, which has {HEADER_SIZE}") from None


def results(*codes: int) -> "frozenset[bytes]":
    """What `response[RESULT]` is for these return codes."""
    return frozenset(code.to_bytes(4, "big") for code in codes)


def encode_response(tag: int, rc: int, body: Bytes = b"") -> bytes:
    """A response with return code `rc`; an error has no body."""
    return _pack(tag, HEADER_SIZE + len(body), rc) + body


def encode_command(tag: int, code: int, body: Bytes = b"") -> bytes:
    """A command; `body` is all that follows the header: handles, sessions, parameters."""
    return _pack(tag, HEADER_SIZE + len(body), code) + body


def decode_response(response: Bytes) -> "tuple[int, int, bytes]":
    """A whole response: its tag, return code and body.

    Raises:
        ProtocolError: it is shorter or longer than its header says.
    """
    tag, size, rc = decode_header(response)
    if size != len(response):
        raise ProtocolError(f"a response of {len(response)} bytes says that it has {size}")
    return tag, rc, bytes(response[HEADER_SIZE:])
