"""The CUSE codec: frames from a real kernel, frames that no kernel would send, and the replies."""

import errno
import select
import struct
import sys
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from swtpm_svc.wire import cuse, fuse
from swtpm_svc.wire.caller import Caller
from swtpm_svc.wire.fuse import Opcode
from swtpm_svc.wire.protocol_error import ProtocolError

needs_little_endian = pytest.mark.skipif(
    sys.byteorder != "little", reason="the recorded frames are from a little-endian machine"
)


def h(text):
    return memoryview(bytes.fromhex(text))


def frame(opcode, body=b"", *, unique=6, caller=(1000, 1001, 77), length=None, extensions=0):
    size = 40 + len(body) if length is None else length
    return memoryview(struct.pack("=IIQQIIIHH", size, opcode, unique, 1, *caller, extensions, 0) + body)


CALLER = Caller(1000, 1001, 77)

# Read from /dev/cuse of Linux 6.1.176 (User-Mode Linux, x86_64), while a client used the device as each line says.
RECORDED = {
    "a new /dev/cuse": (
        "38000000 00100000 0200000000000000 0000000000000000 00000000 00000000 bc020000 00000000"
        "07000000 26000000 00000000 01000000",
        cuse.Init(2, Caller(0, 0, 700), 7, 38, 1),
    ),
    "open(O_RDWR)": (
        "30000000 0e000000 0400000000000000 0000000000000000 00000000 00000000 c4020000 00000000 02800000 00000000",
        cuse.Open(4, Caller(0, 0, 708), 0o100002),
    ),
    "write of TPM2_GetRandom(8)": (
        "5c000000 10000000 0600000000000000 0000000000000000 00000000 00000000 c4020000 00000000"
        "0b00000000000000 0000000000000000 0c000000 02000000 83ba946090a06bd6 02800000 00000000 "
        "80010000000c0000017b0008",
        cuse.Write(6, Caller(0, 0, 708), 11, h("80010000000c0000017b0008"), 0o100002),
    ),
    "write with O_NONBLOCK": (
        "51000000 10000000 1200000000000000 0000000000000000 00000000 00000000 c4020000 00000000"
        "0b00000000000000 0000000000000000 01000000 02000000 83ba946090a06bd6 02880000 00000000 78",
        cuse.Write(18, Caller(0, 0, 708), 11, h("78"), 0o104002),
    ),
    "read of 4096 bytes": (
        "50000000 0f000000 0800000000000000 0000000000000000 00000000 00000000 c4020000 00000000"
        "0b00000000000000 0000000000000000 00100000 02000000 83ba946090a06bd6 02800000 00000000",
        cuse.Read(8, Caller(0, 0, 708), 11, 4096, 0o100002),
    ),
    "ioctl PTM_SET_LOCALITY(3)": (
        "4c000000 27000000 0a00000000000000 0000000000000000 00000000 00000000 c4020000 00000000"
        "0b00000000000000 00000000 045004c0 af80e6bf7f000000 04000000 04000000 03000000",
        cuse.Ioctl(10, Caller(0, 0, 708), 11, 0, 0xC0045004, 0x7FBFE680AF, h("03000000"), 4),
    ),
    "ioctl TCGETS": (
        "48000000 27000000 0c00000000000000 0000000000000000 00000000 00000000 c4020000 00000000"
        "0b00000000000000 00000000 01540000 af80e6bf7f000000 00000000 00000000",
        cuse.Ioctl(12, Caller(0, 0, 708), 11, 0, 0x5401, 0x7FBFE680AF, h(""), 0),
    ),
    "poll(POLLIN)": (
        "40000000 28000000 0e00000000000000 0000000000000000 00000000 00000000 c4020000 00000000"
        "0b00000000000000 0000000000000000 01000000 19000000",
        cuse.Poll(14, Caller(0, 0, 708), 11, 0, fuse.POLL_SCHEDULE_NOTIFY, 0x19),
    ),
    "a signal for a reader": (
        "30000000 24000000 1900000000000000 0000000000000000 00000000 00000000 00000000 00000000 1800000000000000",
        cuse.Interrupt(25, Caller(0, 0, 0), 24),
    ),
    "the last close": (
        "40000000 12000000 1400000000000000 0000000000000000 00000000 00000000 00000000 00000000"
        "0b00000000000000 02880000 00000000 0000000000000000",
        cuse.Release(20, Caller(0, 0, 0), 11, 0o104002),
    ),
}


@needs_little_endian
@pytest.mark.parametrize("situation", RECORDED)
def test_what_a_kernel_sends_is_decoded(situation):
    text, expected = RECORDED[situation]
    decoded = cuse.decode(h(text))
    assert decoded == expected
    assert type(decoded) is type(expected)


@needs_little_endian
def test_an_interrupt_request_bears_the_number_of_the_request_with_the_lowest_bit_set():
    interrupt = cuse.decode(h(RECORDED["a signal for a reader"][0]))
    assert interrupt.unique == interrupt.target | fuse.INT_REQ_BIT


def test_requests_that_cuse_does_not_send_today():
    assert cuse.decode(frame(Opcode.FLUSH, struct.pack("=QIIQ", 5, 0, 0, 9))) == cuse.Flush(6, CALLER, 5)
    assert cuse.decode(frame(Opcode.FSYNC, struct.pack("=QII", 5, 1, 0))) == cuse.Fsync(6, CALLER, 5)


def test_a_newer_kernels_longer_init_is_understood():
    request = cuse.decode(frame(Opcode.CUSE_INIT, struct.pack("=IIII", 7, 45, 0, 1) + bytes(48)))
    assert request == cuse.Init(6, CALLER, 7, 45, 1)


@pytest.mark.parametrize("opcode", [Opcode.FORGET, Opcode.BATCH_FORGET, 38, 1, 9999])
def test_other_requests_are_named_by_their_opcode(opcode):
    assert cuse.decode(frame(opcode, b"12345678")) == cuse.Unknown(6, CALLER, opcode)
    assert (opcode in fuse.NO_REPLY) == (opcode in (2, 42))


def test_data_is_a_slice_of_the_frame_and_no_copy():
    buffer = bytearray(frame(Opcode.WRITE, struct.pack("=QQIIQII", 5, 0, 3, 0, 0, 2, 0) + b"abc"))
    request = cuse.decode(memoryview(buffer))
    buffer[-3:] = b"xyz"
    assert request.data == b"xyz"


def test_extensions_after_the_body_are_left_out():
    body = struct.pack("=QQIIQII", 5, 0, 3, 0, 0, 2, 0) + b"abc"
    assert cuse.decode(frame(Opcode.WRITE, body + bytes(16), extensions=2)).data == b"abc"
    with pytest.raises(ProtocolError, match="cannot hold 24 bytes of extensions"):
        cuse.decode(frame(Opcode.OPEN, bytes(8), extensions=3))
    with pytest.raises(ProtocolError):  # would reach back from the end, were it not refused
        cuse.decode(frame(Opcode.WRITE, body, extensions=11))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b"", "too short"),
        (bytes(39), "too short"),
        (bytes(40), "the header says 0 bytes"),
        (frame(Opcode.OPEN, bytes(8), length=47), "says 47 bytes, the frame has 48"),
        (frame(Opcode.OPEN, bytes(8), length=49), "says 49 bytes, the frame has 48"),
        (frame(Opcode.OPEN, bytes(7)), "takes 48 bytes, the frame has 47"),
        (frame(Opcode.READ, bytes(41)), "takes 80 bytes, the frame has 81"),
        (frame(Opcode.READ, bytes(24)), "takes 80 bytes, the frame has 64"),  # protocol 7.8 and older
        (frame(Opcode.POLL), "takes 64 bytes, the frame has 40"),
        (frame(Opcode.RELEASE, bytes(25)), "takes 64 bytes"),
        (frame(Opcode.FLUSH, bytes(23)), "takes 64 bytes"),
        (frame(Opcode.FSYNC, bytes(15)), "takes 56 bytes"),
        (frame(Opcode.INTERRUPT, bytes(9)), "takes 48 bytes"),
        (frame(Opcode.CUSE_INIT, bytes(15)), "too short"),
        (frame(Opcode.WRITE, bytes(39)), "too short"),
        (frame(Opcode.WRITE, bytes(41)), "WRITE says 0 bytes, carries 1"),
        (frame(Opcode.WRITE, struct.pack("=QQIIQII", 5, 0, 4, 0, 0, 2, 0) + b"abc"), "WRITE says 4 bytes, carries 3"),
        (frame(Opcode.IOCTL, bytes(31)), "too short"),
        (frame(Opcode.IOCTL, struct.pack("=QIIQII", 5, 0, 1, 2, 4, 4) + b"abc"), "IOCTL says 4 bytes, carries 3"),
        (frame(Opcode.IOCTL, struct.pack("=QIIQII", 5, 0, 1, 2, 2, 4) + b"abc"), "IOCTL says 2 bytes, carries 3"),
    ],
)
def test_a_frame_of_the_wrong_size_is_refused(bad, message):
    with pytest.raises(ProtocolError, match=message):
        cuse.decode(memoryview(bad))


@given(st.binary(max_size=200))
@example(b"")
def test_any_bytes_decode_or_are_refused(data):
    with suppress(ProtocolError):
        cuse.decode(memoryview(data))


@given(
    opcode=st.one_of(st.sampled_from(list(Opcode)), st.integers(0, 2**32 - 1)),
    unique=st.integers(0, 2**64 - 1),
    caller=st.tuples(*[st.integers(0, 2**32 - 1)] * 3),
    extensions=st.one_of(st.just(0), st.integers(0, 65535)),
    body=st.binary(max_size=120),
)
def test_any_body_under_a_good_header_decodes_or_is_refused(opcode, unique, caller, extensions, body):
    whole = frame(opcode, body, unique=unique, caller=caller, extensions=extensions)
    assert cuse.unique_of(whole) == unique
    assert cuse.opcode_of(whole) == opcode
    with suppress(ProtocolError):
        request = cuse.decode(whole)
        assert request.unique == unique
        assert request.caller == Caller(*caller)


@given(handle=st.integers(0, 2**64 - 1), flags=st.integers(0, 2**32 - 1), data=st.binary(max_size=5000))
def test_a_write_comes_out_as_it_went_in(handle, flags, data):
    body = struct.pack("=QQIIQII", handle, 7, len(data), 1, 3, flags, 4) + data
    assert cuse.decode(frame(Opcode.WRITE, body)) == cuse.Write(6, CALLER, handle, memoryview(data), flags)


def test_peeking_needs_no_more_than_a_header():
    torn = frame(Opcode.WRITE, b"torn", unique=2**63 + 8)
    assert (cuse.opcode_of(torn), cuse.unique_of(torn)) == (16, 2**63 + 8)
    for peek in (cuse.opcode_of, cuse.unique_of):
        with pytest.raises(ProtocolError, match="too short for its header"):
            peek(torn[:39])


def answered(reply):
    """A reply as the kernel takes it apart: error, unique, body. Its length must be what it says."""
    length, error, unique = struct.unpack_from("=IiQ", reply)
    assert type(reply) is bytes
    assert length == len(reply)
    return error, unique, reply[16:]


def test_replies():
    assert answered(cuse.reply_error(2**64 - 1, errno.EBUSY)) == (-errno.EBUSY, 2**64 - 1, b"")
    assert answered(cuse.reply_empty(8)) == (0, 8, b"")
    assert answered(cuse.reply_open(8, 2**40, 5)) == (0, 8, struct.pack("=QII", 2**40, 5, 0))
    assert answered(cuse.reply_write(8, 12)) == (0, 8, struct.pack("=II", 12, 0))
    assert answered(cuse.reply_poll(8, select.POLLIN | select.POLLOUT)) == (0, 8, struct.pack("=II", 5, 0))
    assert answered(cuse.notify_poll(2**60)) == (1, 0, struct.pack("=Q", 2**60))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_replies_take_data_of_any_kind(kind):
    assert answered(cuse.reply_data(8, kind(b"response"))) == (0, 8, b"response")
    assert answered(cuse.reply_ioctl(8, 1, kind(b"struct"))) == (0, 8, struct.pack("=iIII", 1, 0, 0, 0) + b"struct")


def test_empty_data_is_an_answer_too():
    assert answered(cuse.reply_data(8, b"")) == (0, 8, b"")
    assert answered(cuse.reply_ioctl(8, 0, b"")) == (0, 8, bytes(16))


def test_the_init_reply_names_the_device():
    error, unique, body = answered(cuse.reply_init(2, 31, 4096, 8192, 1, 240, 7, "vtpm0"))
    assert (error, unique) == (0, 2)
    assert struct.unpack_from("=8I", body) == (7, 31, 0, 1, 4096, 8192, 240, 7)
    assert body[32:72] == bytes(40)
    assert body[72:] == b"DEVNAME=vtpm0\0"


@pytest.mark.parametrize("name", ["", "a\0b", "vtpm\n", "vtpmü", "x" * 4096])
def test_a_name_that_the_kernel_would_misread_is_not_sent(name):
    with pytest.raises(ValueError, match="device name"):
        cuse.reply_init(2, 31, 4096, 4096, 0, 0, 0, name)
