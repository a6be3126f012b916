"""CUSE requests and replies: bytes <-> values.

The layout is the kernel's include/uapi/linux/fuse.h (see `fuse`). A request is one read() from /dev/cuse; a reply or a
notification is one write(). Nothing here performs either.

This is the hot path of every TPM command, so values are made with `tuple.__new__` (half the cost of calling the
NamedTuple) and a reply's header and body are packed at once.
"""

from struct import Struct
from struct import error as StructError

from swtpm_svc.wire import fuse
from swtpm_svc.wire.caller import Caller
from swtpm_svc.wire.hints import Callable, Union
from swtpm_svc.wire.protocol_error import ProtocolError
from swtpm_svc.wire.values import NamedTuple

Bytes = Union[bytes, bytearray, memoryview]

#: What CUSE_INIT agrees on, in bytes: a longer write() arrives in pieces, of which the first is refused.
MAX_WRITE = 64 * 1024
MAX_READ = 64 * 1024
#: What the kernel wants a read() of /dev/cuse to have room for: fuse_in_header, fuse_write_in, max_write; whole pages.
MAX_REQUEST = MAX_WRITE + 4096


class Init(NamedTuple):
    """CUSE_INIT: the first request on a new /dev/cuse; the kernel speaks FUSE protocol `major`.`minor`."""

    unique: int
    caller: Caller
    major: int
    minor: int
    flags: int


class Open(NamedTuple):
    """A client opens the device; `flags` are those of open(2)."""

    unique: int
    caller: Caller
    flags: int


class Read(NamedTuple):
    """A client reads at most `size` bytes; `flags` are the open file's present ones (O_NONBLOCK)."""

    unique: int
    caller: Caller
    handle: int
    size: int
    flags: int


class Write(NamedTuple):
    """A client wrote `data`, a slice of the frame; `flags` are the open file's present ones (O_NONBLOCK)."""

    unique: int
    caller: Caller
    handle: int
    data: memoryview
    flags: int


class Ioctl(NamedTuple):
    """A client's ioctl(`command`, `argument`), where `argument` is its pointer and of no use to us.

    `data` (a slice of the frame) is what the pointer leads to, if the command's direction bits say that it is written
    to the device; `out_size` bytes go back if they say that it is read. `flags`: fuse.IOCTL_*.
    """

    unique: int
    caller: Caller
    handle: int
    flags: int
    command: int
    argument: int
    data: memoryview
    out_size: int


class Poll(NamedTuple):
    """What is the file ready for? With fuse.POLL_SCHEDULE_NOTIFY in `flags`, also `notify_poll(poll_handle)` on a
    change."""

    unique: int
    caller: Caller
    handle: int
    poll_handle: int
    flags: int
    events: int


class Release(NamedTuple):
    """The last reference to an open file is gone."""

    unique: int
    caller: Caller
    handle: int
    flags: int


class Flush(NamedTuple):
    """close(2) of one descriptor. Today's CUSE does not send it."""

    unique: int
    caller: Caller
    handle: int


class Fsync(NamedTuple):
    """fsync(2). Today's CUSE does not send it."""

    unique: int
    caller: Caller
    handle: int


class Interrupt(NamedTuple):
    """A signal arrived for the client that waits for request `target`: answer that one soon, with EINTR or as done.

    Not answered itself, but for `reply_error(unique, EAGAIN)` when `target` was never seen: the kernel then asks again.
    """

    unique: int
    caller: Caller
    target: int


class Unknown(NamedTuple):
    """A request of another kind: answer ENOSYS, unless `opcode` is in fuse.NO_REPLY (FORGET, BATCH_FORGET)."""

    unique: int
    caller: Caller
    opcode: int


Request = Union[Init, Open, Read, Write, Ioctl, Poll, Release, Flush, Fsync, Interrupt, Unknown]

_HEADER_SIZE = fuse.IN_HEADER.size
_WRITE_START = _HEADER_SIZE + fuse.WRITE_IN.size
_IOCTL_START = _HEADER_SIZE + fuse.IOCTL_IN.size

_new = tuple.__new__
_header = fuse.IN_HEADER.unpack_from
_init = fuse.INIT_IN.unpack_from
_open = fuse.OPEN_IN.unpack_from
_read = fuse.READ_IN.unpack_from
_write = fuse.WRITE_IN.unpack_from
_ioctl = fuse.IOCTL_IN.unpack_from
_poll = fuse.POLL_IN.unpack_from
_release = fuse.RELEASE_IN.unpack_from
_flush = fuse.FLUSH_IN.unpack_from
_fsync = fuse.FSYNC_IN.unpack_from
_interrupt = fuse.INTERRUPT_IN.unpack_from


def _decode_init(frame: memoryview, unique: int, caller: Caller) -> Init:
    major, minor, flags = _init(frame, _HEADER_SIZE)
    return Init(unique, caller, major, minor, flags)


def _decode_open(frame: memoryview, unique: int, caller: Caller) -> Open:
    (flags,) = _open(frame, _HEADER_SIZE)
    return _new(Open, (unique, caller, flags))


def _decode_read(frame: memoryview, unique: int, caller: Caller) -> Read:
    handle, size, flags = _read(frame, _HEADER_SIZE)
    return _new(Read, (unique, caller, handle, size, flags))


def _decode_write(frame: memoryview, unique: int, caller: Caller) -> Write:
    handle, size, flags = _write(frame, _HEADER_SIZE)
    data = frame[_WRITE_START:]
    if len(data) != size:
        raise ProtocolError(f"WRITE says {size} bytes, carries {len(data)}")
    return _new(Write, (unique, caller, handle, data, flags))


def _decode_ioctl(frame: memoryview, unique: int, caller: Caller) -> Ioctl:
    handle, flags, command, argument, in_size, out_size = _ioctl(frame, _HEADER_SIZE)
    data = frame[_IOCTL_START:]
    if len(data) != in_size:
        raise ProtocolError(f"IOCTL says {in_size} bytes, carries {len(data)}")
    return _new(Ioctl, (unique, caller, handle, flags, command, argument, data, out_size))


def _decode_poll(frame: memoryview, unique: int, caller: Caller) -> Poll:
    handle, poll_handle, flags, events = _poll(frame, _HEADER_SIZE)
    return _new(Poll, (unique, caller, handle, poll_handle, flags, events))


def _decode_release(frame: memoryview, unique: int, caller: Caller) -> Release:
    handle, flags = _release(frame, _HEADER_SIZE)
    return Release(unique, caller, handle, flags)


def _decode_flush(frame: memoryview, unique: int, caller: Caller) -> Flush:
    (handle,) = _flush(frame, _HEADER_SIZE)
    return Flush(unique, caller, handle)


def _decode_fsync(frame: memoryview, unique: int, caller: Caller) -> Fsync:
    (handle,) = _fsync(frame, _HEADER_SIZE)
    return Fsync(unique, caller, handle)


def _decode_interrupt(frame: memoryview, unique: int, caller: Caller) -> Interrupt:
    (target,) = _interrupt(frame, _HEADER_SIZE)
    return Interrupt(unique, caller, target)


_Decoder = Callable[[memoryview, int, Caller], Request]

#: Which decoder, and the size of the whole frame when the body has a fixed one. 0: the decoder checks it (WRITE,
#: IOCTL), or it may be longer than what we know (CUSE_INIT comes before the versions are settled).
_DECODERS: dict[int, tuple[_Decoder, int]] = {
    int(opcode): (decoder, body and _HEADER_SIZE + body)
    for opcode, decoder, body in (
        (fuse.Opcode.CUSE_INIT, _decode_init, 0),
        (fuse.Opcode.OPEN, _decode_open, fuse.OPEN_IN.size),
        (fuse.Opcode.READ, _decode_read, fuse.READ_IN.size),
        (fuse.Opcode.WRITE, _decode_write, 0),
        (fuse.Opcode.IOCTL, _decode_ioctl, 0),
        (fuse.Opcode.POLL, _decode_poll, fuse.POLL_IN.size),
        (fuse.Opcode.RELEASE, _decode_release, fuse.RELEASE_IN.size),
        (fuse.Opcode.FLUSH, _decode_flush, fuse.FLUSH_IN.size),
        (fuse.Opcode.FSYNC, _decode_fsync, fuse.FSYNC_IN.size),
        (fuse.Opcode.INTERRUPT, _decode_interrupt, fuse.INTERRUPT_IN.size),
    )
}
_decoder_of = _DECODERS.get


def decode(frame: memoryview) -> Request:
    """Decode one request: all that one read() gave, no more.

    `data` of a WRITE or an IOCTL is a slice of `frame`: it lives and changes with the buffer below it.

    Raises:
        ProtocolError: the frame is shorter or longer than its header says, or than what its opcode carries.
    """
    try:
        length, opcode, unique, uid, gid, pid, extensions = _header(frame)
        if length != len(frame):
            raise ProtocolError(f"the header says {length} bytes, the frame has {len(frame)}")
        if extensions:
            frame = _without_extensions(frame, extensions)
        caller = _new(Caller, (uid, gid, pid, ()))
        found = _decoder_of(opcode)
        if found is None:
            return Unknown(unique, caller, opcode)
        decoder, size = found
        if size and len(frame) != size:
            raise ProtocolError(f"opcode {opcode} takes {size} bytes, the frame has {len(frame)}")
        return decoder(frame, unique, caller)
    except StructError as error:
        raise ProtocolError(f"a request of {len(frame)} bytes is too short: {error}") from None


def _without_extensions(frame: memoryview, extensions: int) -> memoryview:
    """Extensions follow the body, in 8-byte units (protocol 7.38); none of them is meant for a character device."""
    end = len(frame) - 8 * extensions
    if end < _HEADER_SIZE:
        raise ProtocolError(f"a request of {len(frame)} bytes cannot hold {8 * extensions} bytes of extensions")
    return frame[:end]


def opcode_of(frame: memoryview) -> int:
    """The opcode of a request that need not be good otherwise.

    Raises:
        ProtocolError: not even a header.
    """
    return _peek(frame)[1]


def unique_of(frame: memoryview) -> int:
    """The kernel's id of a request that need not be good otherwise: what a reply must carry.

    Raises:
        ProtocolError: not even a header.
    """
    return _peek(frame)[2]


def _peek(frame: memoryview) -> tuple[int, int, int]:
    if len(frame) < _HEADER_SIZE:
        raise ProtocolError(f"a request of {len(frame)} bytes is too short for its header")
    length, opcode, unique = _header(frame)[:3]
    return length, opcode, unique


def _with_header(body: Struct) -> Struct:
    return Struct(fuse.OUT_HEADER.format + body.format[1:])


_OUT_SIZE = fuse.OUT_HEADER.size
_INIT_REPLY = _with_header(fuse.INIT_OUT)
_OPEN_REPLY = _with_header(fuse.OPEN_OUT)
_WRITE_REPLY = _with_header(fuse.WRITE_OUT)
_IOCTL_REPLY = _with_header(fuse.IOCTL_OUT)
_POLL_REPLY = _with_header(fuse.POLL_OUT)
_POLL_NOTICE = _with_header(fuse.NOTIFY_POLL_WAKEUP_OUT)
_OPEN_SIZE = _OPEN_REPLY.size
_WRITE_SIZE = _WRITE_REPLY.size
_IOCTL_SIZE = _IOCTL_REPLY.size
_POLL_SIZE = _POLL_REPLY.size

_pack_header = fuse.OUT_HEADER.pack
_pack_open = _OPEN_REPLY.pack
_pack_write = _WRITE_REPLY.pack
_pack_ioctl = _IOCTL_REPLY.pack
_pack_poll = _POLL_REPLY.pack


def reply_error(unique: int, errno: int) -> bytes:
    """The system call fails with `errno` (positive, as in the errno module)."""
    return _pack_header(_OUT_SIZE, -errno, unique)


def reply_empty(unique: int) -> bytes:
    """It is done, and there is nothing to say (RELEASE, FLUSH, FSYNC)."""
    return _pack_header(_OUT_SIZE, 0, unique)


def reply_init(
    unique: int, minor: int, max_read: int, max_write: int, flags: int, dev_major: int, dev_minor: int, name: str
) -> bytes:
    """Make the device /dev/`name`. `dev_major` 0: the kernel chooses both numbers. `flags`: fuse.CUSE_*.

    The kernel makes the node during the write() of this reply; that it refused shows only in the next read() (ENODEV).

    Raises:
        ValueError: `name` is empty, too long, or not plain text.
    """
    if not name or not name.isascii() or not name.isprintable():
        raise ValueError(f"a device name of printable ASCII characters is needed, not {name!r}")
    info = b"DEVNAME=" + name.encode("ascii") + b"\0"
    if len(info) > fuse.CUSE_INIT_INFO_MAX:
        raise ValueError(f"a device name of {len(name)} characters is too long")
    size = _INIT_REPLY.size + len(info)
    numbers = (flags, max_read, max_write, dev_major, dev_minor)
    return _INIT_REPLY.pack(size, 0, unique, fuse.KERNEL_VERSION, minor, *numbers) + info


def reply_open(unique: int, handle: int, open_flags: int) -> bytes:
    """The device is open; `handle` comes back in each request on this open file. `open_flags`: fuse.FOPEN_*."""
    return _pack_open(_OPEN_SIZE, 0, unique, handle, open_flags)


def reply_data(unique: int, data: Bytes) -> bytes:
    """READ: these bytes, at most as many as were asked for (the kernel refuses more)."""
    return _pack_header(_OUT_SIZE + len(data), 0, unique) + data


def reply_write(unique: int, size: int) -> bytes:
    """WRITE: `size` bytes were taken."""
    return _pack_write(_WRITE_SIZE, 0, unique, size)


def reply_ioctl(unique: int, result: int, data: Bytes) -> bytes:
    """IOCTL: ioctl(2) returns `result` (0 or more), and `data`, at most `out_size` bytes, goes to the caller's
    pointer."""
    return _pack_ioctl(_IOCTL_SIZE + len(data), 0, unique, result) + data


def reply_poll(unique: int, events: int) -> bytes:
    """POLL: ready for `events` (select.POLLIN and so on)."""
    return _pack_poll(_POLL_SIZE, 0, unique, events)


def notify_poll(poll_handle: int) -> bytes:
    """Unasked: what the file is ready for may have changed, so the waiters of `poll_handle` are to poll again."""
    return _POLL_NOTICE.pack(_POLL_NOTICE.size, fuse.NOTIFY_POLL, 0, poll_handle)
