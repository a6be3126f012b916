"""The control protocol of the classic software TPM ("PTM"): requests and replies as values, without an encoding.

Source: the public header swtpm/tpm_ioctl.h (package swtpm-dev) and swtpm_ioctl(8). The same values travel as ioctls of
the device (`ptm_ioctl`) and as big-endian messages on a control socket (`ptm_socket`).

`tpm_result` in a reply is a TPM 1.2 return code whatever the version of the TPM: 0 is success (`return_codes`).
"""

from swtpm_svc.wire.enumerations import IntEnum, IntFlag, unique
from swtpm_svc.wire.hints import Union
from swtpm_svc.wire.ptm_shapes import HASH_DATA_MAX as HASH_DATA_MAX
from swtpm_svc.wire.ptm_shapes import STATE_BLOB_CHUNK as STATE_BLOB_CHUNK
from swtpm_svc.wire.values import NamedTuple


@unique
class Command(IntEnum):
    """The number of an ioctl of type 'P'; on the socket it is one more."""

    GET_CAPABILITY = 0
    INIT = 1
    SHUTDOWN = 2
    GET_TPMESTABLISHED = 3
    SET_LOCALITY = 4
    HASH_START = 5
    HASH_DATA = 6
    HASH_END = 7
    CANCEL_TPM_CMD = 8
    STORE_VOLATILE = 9
    RESET_TPMESTABLISHED = 10
    GET_STATEBLOB = 11
    SET_STATEBLOB = 12
    STOP = 13
    GET_CONFIG = 14
    SET_DATAFD = 15
    SET_BUFFERSIZE = 16
    GET_INFO = 17
    LOCK_STORAGE = 18


class Capability(IntFlag):
    """PTM_CAP_*: what GET_CAPABILITY reports. ALL is what the classic tool prints when it can do every command."""

    INIT = 1 << 0
    SHUTDOWN = 1 << 1
    GET_TPMESTABLISHED = 1 << 2
    SET_LOCALITY = 1 << 3
    HASHING = 1 << 4
    CANCEL_TPM_CMD = 1 << 5
    STORE_VOLATILE = 1 << 6
    RESET_TPMESTABLISHED = 1 << 7
    GET_STATEBLOB = 1 << 8
    SET_STATEBLOB = 1 << 9
    STOP = 1 << 10
    GET_CONFIG = 1 << 11
    SET_DATAFD = 1 << 12
    SET_BUFFERSIZE = 1 << 13
    GET_INFO = 1 << 14
    SEND_COMMAND_HEADER = 1 << 15  # an 8-byte header before TPM commands and responses on a socket
    LOCK_STORAGE = 1 << 16
    ALL = 0x17FFF  # without SEND_COMMAND_HEADER
    DEVICE = ALL & ~SET_DATAFD  # a device is the data channel itself (swtpm_ioctls(3))


@unique
class BlobType(IntEnum):
    """PTM_BLOB_TYPE_*: which state GET_STATEBLOB and SET_STATEBLOB are about."""

    PERMANENT = 1
    VOLATILE = 2
    SAVESTATE = 3


#: A type for GET_STATEBLOB that is ours ("vt"): all there are, as of one moment (state_bundle.py).
ALL_BLOBS = 0x76740001


@unique
class InfoFlag(IntFlag):
    """What TPMLIB_GetInfo(3) is asked for (tpm_library.h). libtpms leaves out what its version does not know."""

    SPECIFICATION = 0x01
    ATTRIBUTES = 0x02
    FEATURES = 0x04
    ALGORITHMS = 0x08
    COMMANDS = 0x10
    ACTIVE_PROFILE = 0x20
    PROFILES = 0x40
    RUNTIME_ATTRIBUTES = 0x80


INIT_FLAG_DELETE_VOLATILE = 1 << 0  # delete the volatile state file after reading it
#: Ours: whoever asks sends the Startup command himself. The classic tools know the other bit only.
INIT_FLAG_NO_STARTUP = 1 << 31
STATE_FLAG_DECRYPTED = 1  # on a request: in clear, please
STATE_FLAG_ENCRYPTED = 2  # on a reply, and on SetStateBlob: the data is encrypted
CONFIG_FLAG_FILE_KEY = 0x1
CONFIG_FLAG_MIGRATION_KEY = 0x2


class GetCapability(NamedTuple):
    """What can you do? -> CapabilityReply"""


class Init(NamedTuple):
    """Power the TPM on, or reset it. `flags`: INIT_FLAG_DELETE_VOLATILE, INIT_FLAG_NO_STARTUP -> Result"""

    flags: int = 0


class Shutdown(NamedTuple):
    """Power the TPM off and end the process that emulates it -> Result"""


class GetTpmEstablished(NamedTuple):
    """Read the tpmEstablished bit -> EstablishedReply"""


class SetLocality(NamedTuple):
    """Use `locality` (0 to 4) for the commands that follow -> Result"""

    locality: int


class HashStart(NamedTuple):
    """_TPM_Hash_Start / TPM_HASH_START -> Result"""


class HashData(NamedTuple):
    """_TPM_Hash_Data / TPM_HASH_DATA -> Result"""

    data: bytes


class HashEnd(NamedTuple):
    """_TPM_Hash_End / TPM_HASH_END -> Result"""


class CancelTpmCommand(NamedTuple):
    """Cancel the command that runs -> Result"""


class StoreVolatile(NamedTuple):
    """Write the volatile state to its file -> Result"""


class ResetTpmEstablished(NamedTuple):
    """Clear the tpmEstablished bit, as `locality` (3 or 4) -> Result"""

    locality: int


class GetStateBlob(NamedTuple):
    """Read state of `type` (BlobType, not checked here) from byte `offset` on -> StateBlobReply"""

    state_flags: int
    type: int
    offset: int = 0


class SetStateBlob(NamedTuple):
    """State of `type` (BlobType, not checked here): a chunk of it by ioctl, all of it on a socket -> Result"""

    state_flags: int
    type: int
    data: bytes


class Stop(NamedTuple):
    """Power the TPM off; the process stays -> Result"""


class GetConfig(NamedTuple):
    """Which keys are set? -> ConfigReply"""


class SetDataFd(NamedTuple):
    """Use the descriptor that came along (SCM_RIGHTS) for TPM commands: sockets only -> Result"""


class SetBufferSize(NamedTuple):
    """Set the TPM's command and response buffer to `size` bytes, 0: only ask -> BufferSizeReply"""

    size: int


class GetInfo(NamedTuple):
    """Information about the TPM as JSON text, from byte `offset` on; `flags`: `InfoFlag`, and those that newer
    versions of libtpms have -> InfoReply"""

    flags: int
    offset: int = 0


class LockStorage(NamedTuple):
    """Take the lock on the state, trying `retries` times, 10 ms apart -> Result"""

    retries: int


class Result(NamedTuple):
    """The reply to most requests, and the failure of any but GetCapability."""

    tpm_result: int


class CapabilityReply(NamedTuple):
    capabilities: Capability


class EstablishedReply(NamedTuple):
    """`bit`: 1 once a hash sequence has run."""

    tpm_result: int
    bit: int


class StateBlobReply(NamedTuple):
    """`data`: the state from the request's offset to its end, of which an ioctl takes only the first STATE_BLOB_CHUNK
    bytes.

    `total_length`: bytes of the whole blob, whatever the offset. swtpm_ioctl counts on that when it reads by ioctl; on
    a socket the classic tool says how many bytes follow, and `ptm_socket` does the same.
    """

    tpm_result: int
    state_flags: int
    total_length: int
    data: bytes


class ConfigReply(NamedTuple):
    """`flags`: CONFIG_FLAG_*."""

    tpm_result: int
    flags: int


class BufferSizeReply(NamedTuple):
    """All in bytes."""

    tpm_result: int
    size: int
    minimum: int
    maximum: int


class InfoReply(NamedTuple):
    """`data`: JSON text from the request's offset on (an ioctl takes `ptm_shapes.INFO_CHUNK` bytes); `total_length`
    bytes without offset.

    The text ends in a NUL byte, which counts: clients print it as a C string.
    """

    tpm_result: int
    total_length: int
    data: bytes


Request = Union[
    GetCapability, Init, Shutdown, GetTpmEstablished, SetLocality, HashStart, HashData, HashEnd, CancelTpmCommand,
    StoreVolatile,
    ResetTpmEstablished, GetStateBlob, SetStateBlob, Stop, GetConfig, SetDataFd, SetBufferSize, GetInfo, LockStorage,
]  # fmt: skip
Reply = Union[Result, CapabilityReply, EstablishedReply, StateBlobReply, ConfigReply, BufferSizeReply, InfoReply]

REQUEST_OF: dict[Command, type[Request]] = {
    Command.GET_CAPABILITY: GetCapability,
    Command.INIT: Init,
    Command.SHUTDOWN: Shutdown,
    Command.GET_TPMESTABLISHED: GetTpmEstablished,
    Command.SET_LOCALITY: SetLocality,
    Command.HASH_START: HashStart,
    Command.HASH_DATA: HashData,
    Command.HASH_END: HashEnd,
    Command.CANCEL_TPM_CMD: CancelTpmCommand,
    Command.STORE_VOLATILE: StoreVolatile,
    Command.RESET_TPMESTABLISHED: ResetTpmEstablished,
    Command.GET_STATEBLOB: GetStateBlob,
    Command.SET_STATEBLOB: SetStateBlob,
    Command.STOP: Stop,
    Command.GET_CONFIG: GetConfig,
    Command.SET_DATAFD: SetDataFd,
    Command.SET_BUFFERSIZE: SetBufferSize,
    Command.GET_INFO: GetInfo,
    Command.LOCK_STORAGE: LockStorage,
}
COMMAND_OF: dict[type[Request], Command] = {kind: command for command, kind in REQUEST_OF.items()}

#: What each request is answered with when it succeeds.
REPLY_OF: dict[Command, type[Reply]] = {
    **dict.fromkeys(Command, Result),
    Command.GET_CAPABILITY: CapabilityReply,
    Command.GET_TPMESTABLISHED: EstablishedReply,
    Command.GET_STATEBLOB: StateBlobReply,
    Command.GET_CONFIG: ConfigReply,
    Command.SET_BUFFERSIZE: BufferSizeReply,
    Command.GET_INFO: InfoReply,
}

#: What ends in `data`. On the wire its length goes before it, as one more number: that is all both encodings have in
#: common.
_WITH_DATA = (HashData, SetStateBlob, StateBlobReply, InfoReply)


def command_of(request: Request) -> Command:
    return COMMAND_OF[type(request)]


def has_data(kind: Union[type[Request], type[Reply]]) -> bool:
    """Do values of this type end in `data`?"""
    return kind in _WITH_DATA


def split(message: Union[Request, Reply]) -> tuple[tuple[int, ...], bytes]:
    """A value as the numbers that go on the wire, in order, and the data behind them, whose length is the last
    number."""
    if isinstance(message, _WITH_DATA):
        *numbers, data = message
        return (*numbers, len(data)), data
    return tuple(message), b""


def join_request(command: Command, numbers: tuple[int, ...], data: bytes) -> Request:
    """The opposite of `split`."""
    kind = REQUEST_OF[command]
    return kind._make((*numbers[:-1], data) if kind in _WITH_DATA else numbers)


def join_reply(command: Command, numbers: tuple[int, ...], data: bytes) -> Reply:
    """The opposite of `split`, for the reply to `command` when it succeeds."""
    kind = REPLY_OF[command]
    if kind is CapabilityReply:
        return CapabilityReply(Capability(numbers[0]))
    return kind._make((*numbers[:-1], data) if kind in _WITH_DATA else numbers)
