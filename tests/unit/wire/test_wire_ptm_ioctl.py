"""The control protocol's ioctl form: numbers and structs."""

import os
import struct
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_values import REPLIES, REQUESTS, replies_to

from swtpm_svc.wire import ptm, ptm_ioctl, ptm_shapes
from swtpm_svc.wire.protocol_error import ProtocolError
from swtpm_svc.wire.ptm import Command

# Where the public header is, if not in /usr/include: package swtpm-dev, unpacked anywhere.
INCLUDE = Path(os.environ.get("SWTPM_INCLUDE_DIR", "/usr/include"))

# Computed with a C compiler from swtpm/tpm_ioctl.h of swtpm 0.7.1 on x86_64; LOCK_STORAGE as _IOWR('P', 18, uint32_t).
X86_64 = {
    Command.GET_CAPABILITY: 0x80085000,
    Command.INIT: 0xC0045001,
    Command.SHUTDOWN: 0x80045002,
    Command.GET_TPMESTABLISHED: 0x80085003,
    Command.SET_LOCALITY: 0xC0045004,
    Command.HASH_START: 0x80045005,
    Command.HASH_DATA: 0xD0045006,
    Command.HASH_END: 0x80045007,
    Command.CANCEL_TPM_CMD: 0x80045008,
    Command.STORE_VOLATILE: 0x80045009,
    Command.RESET_TPMESTABLISHED: 0xC004500A,
    Command.GET_STATEBLOB: 0xCC10500B,
    Command.SET_STATEBLOB: 0xCC0C500C,
    Command.STOP: 0x8004500D,
    Command.GET_CONFIG: 0x8008500E,
    Command.SET_DATAFD: 0x8004500F,
    Command.SET_BUFFERSIZE: 0xC0105010,
    Command.GET_INFO: 0xCC105011,
    Command.LOCK_STORAGE: 0xC0045012,
}

# Members as they lie in each struct, and the values that the C program below puts there.
C_STRUCTS = {
    "ptm_init": (ptm.Init(0x01020304), ["u.req.init_flags = 0x01020304"]),
    "ptm_loc": (ptm.SetLocality(4), ["u.req.loc = 4"]),
    "ptm_reset_est": (ptm.ResetTpmEstablished(3), ["u.req.loc = 3"]),
    "ptm_hdata": (ptm.HashData(b"abc"), ["u.req.length = 3", 'memcpy(s.u.req.data, "abc", 3)']),
    "ptm_getstate": (ptm.GetStateBlob(1, 2, 3072), ["u.req.state_flags = 1", "u.req.type = 2", "u.req.offset = 3072"]),
    "ptm_setstate": (
        ptm.SetStateBlob(2, 3, b"blob"),
        ["u.req.state_flags = 2", "u.req.type = 3", "u.req.length = 4", 'memcpy(s.u.req.data, "blob", 4)'],
    ),
    "ptm_setbuffersize": (ptm.SetBufferSize(2808), ["u.req.buffersize = 2808"]),
    "ptm_getinfo": (ptm.GetInfo(0x0102030405, 7), ["u.req.flags = 0x0102030405ULL", "u.req.offset = 7"]),
}
C_REPLIES = {
    "ptm_est": (ptm.GetTpmEstablished(), ptm.EstablishedReply(0, 1), ["u.resp.bit = 1"]),
    "ptm_loc": (ptm.SetLocality(4), ptm.Result(0x3D), ["u.resp.tpm_result = 0x3d"]),
    "ptm_hdata": (ptm.HashData(b""), ptm.Result(9), ["u.resp.tpm_result = 9"]),
    "ptm_getstate": (
        ptm.GetStateBlob(0, 1, 0),
        ptm.StateBlobReply(0, 2, 9000, b"state"),
        ["u.resp.state_flags = 2", "u.resp.totlength = 9000", "u.resp.length = 5", 'memcpy(s.u.resp.data, "state", 5)'],
    ),
    "ptm_getconfig": (ptm.GetConfig(), ptm.ConfigReply(0, 3), ["u.resp.flags = 3"]),
    "ptm_setbuffersize": (
        ptm.SetBufferSize(0),
        ptm.BufferSizeReply(0, 4096, 2808, 4097),
        ["u.resp.buffersize = 4096", "u.resp.minsize = 2808", "u.resp.maxsize = 4097"],
    ),
    "ptm_getinfo": (
        ptm.GetInfo(1, 0),
        ptm.InfoReply(0, 6, b'{"a"}\0'),
        ["u.resp.totlength = 6", "u.resp.length = 6", 'memcpy(s.u.resp.buffer, "{\\"a\\"}", 6)'],
    ),
}


def c_source():
    lines = [
        "#include <stdio.h>",
        "#include <string.h>",
        "#include <swtpm/tpm_ioctl.h>",
        "static void dump(const char *kind, const char *name, void *data, unsigned size)",
        '{ unsigned char *p = data; printf("%s%s ", kind, name); while (size--) printf("%02x", *p++); printf("\\n"); }',
        "int main(void) {",
    ]
    for command in Command:
        code = f'printf("{command.name} %u\\n", (unsigned)PTM_{command.name});'
        known = "defined(PTM_CAP_LOCK_STORAGE)" if command is Command.LOCK_STORAGE else "1"
        lines.append(f"#if {known}\n{code}\n#endif")
    for kind, structs in (("request-", C_STRUCTS), ("reply-", C_REPLIES)):
        for name, entry in structs.items():
            sets = " ".join(f"{s if s.startswith('memcpy') else 's.' + s};" for s in entry[-1])
            lines.append(
                f'{{ struct {name} s; memset(&s, 0, sizeof s); {sets} dump("{kind}", "{name}", &s, sizeof s); }}'
            )
    for flag in ptm.Capability:
        if flag.value & (flag.value - 1) == 0:
            name = f"PTM_CAP_{flag.name}"
            lines.append(f'#ifdef {name}\nprintf("{name} %lu\\n", (unsigned long){name});\n#endif')
    for name in FLAGS:
        lines.append(f'printf("PTM_{name} %lu\\n", (unsigned long)PTM_{name});')
    return "\n".join([*lines, "return 0; }"])


#: Bits of requests and replies; the header puts PTM_ before.
FLAGS = (
    "INIT_FLAG_DELETE_VOLATILE",
    "STATE_FLAG_DECRYPTED",
    "STATE_FLAG_ENCRYPTED",
    "CONFIG_FLAG_FILE_KEY",
    "CONFIG_FLAG_MIGRATION_KEY",
)


@pytest.fixture(scope="module")
def header(run_c):
    if not (INCLUDE / "swtpm/tpm_ioctl.h").exists():
        pytest.skip(f"there is no {INCLUDE}/swtpm/tpm_ioctl.h (package swtpm-dev, or set SWTPM_INCLUDE_DIR)")
    return dict(run_c(c_source(), f"-I{INCLUDE}"))


def test_the_numbers_are_those_of_the_public_header(header):
    numbers = {command: int(header[command.name]) for command in Command if command.name in header}
    assert numbers == {command: ptm_ioctl.NUMBERS[command] for command in numbers}
    assert len(numbers) >= 18


def test_the_capabilities_are_those_of_the_public_header(header):
    found = {name: int(value) for name, value in header.items() if name.startswith("PTM_CAP_")}
    assert found == {name: ptm.Capability[name[8:]].value for name in found}
    assert len(found) >= 16


@pytest.mark.parametrize("name", FLAGS)
def test_the_flags_are_those_of_the_public_header(header, name):
    assert getattr(ptm, name) == int(header[f"PTM_{name}"])


@pytest.mark.parametrize("name", C_STRUCTS)
def test_requests_have_the_layout_of_the_public_header(header, name):
    request, _sets = C_STRUCTS[name]
    number, data = ptm_ioctl.pack(request)
    assert data.hex() == header[f"request-{name}"]
    assert ptm_ioctl.decode(number, data) == request


@pytest.mark.parametrize("name", C_REPLIES)
def test_replies_have_the_layout_of_the_public_header(header, name):
    request, reply, _sets = C_REPLIES[name]
    data = ptm_ioctl.encode(request, reply)
    assert data.hex() == header[f"reply-{name}"]
    assert ptm_ioctl.unpack(request, data) == reply


@pytest.mark.skipif(
    struct.calcsize("@I0Q") != 8, reason="a machine that aligns uint64_t to 4 bytes has its own GET_INFO"
)
def test_the_numbers_on_x86_64():
    for command, number in X86_64.items():
        size, is_write = number >> 16 & 0x3FFF, bool(number & 0x40000000)
        assert size == ptm_ioctl.SIZES[command]
        assert ptm_shapes.ioctl_number("x86_64", writes=is_write, size=size, ordinal=int(command)) == number
    if os.uname().machine in ("x86_64", "aarch64", "riscv64", "s390x"):
        assert ptm_ioctl.NUMBERS == X86_64


def test_machines_that_divide_the_number_differently():
    """_IOWR('P', 6, 4100 bytes) and _IOR('P', 0, 8 bytes): asm/ioctl.h of powerpc, mips, sparc and alpha."""
    for machine in ("ppc64le", "mips64", "sparc64", "alpha"):
        assert ptm_shapes.ioctl_number(machine, writes=True, size=4100, ordinal=6) == 0xD0045006
        assert ptm_shapes.ioctl_number(machine, writes=False, size=8, ordinal=0) == 0x40085000
    assert ptm_shapes.ioctl_number("parisc64", writes=False, size=8, ordinal=0) == 0x80085000


def test_a_number_of_another_protocol_is_none_of_ours():
    for number in (0, 0x5401, 0xC0045005, 0x80045013, 0x80045000, 0x4004500C):
        assert ptm_ioctl.decode(number, b"") is None


@pytest.mark.skipif(sys.byteorder != "little", reason="recorded on a little-endian machine")
@pytest.mark.parametrize(
    ("number", "data", "request_"),
    [  # what swtpm_ioctl --tpm-device of swtpm 0.7.1 sends, as the kernel's CUSE passes it on
        (0x80085000, "", ptm.GetCapability()),
        (0xC0045001, "01000000", ptm.Init(ptm.INIT_FLAG_DELETE_VOLATILE)),
        (0xC0045004, "02000000", ptm.SetLocality(2)),
        (0xC004500A, "03000000", ptm.ResetTpmEstablished(3)),
        (0xD0045006, "04000000 61626364" + "00" * 4092, ptm.HashData(b"abcd")),
        (0xC0105010, "00000000" * 4, ptm.SetBufferSize(0)),
        (0xCC105011, "0100000000000000 00000000 00000000" + "00" * 3072, ptm.GetInfo(1, 0)),
        # its buffer still holds the first chunk when it asks for the second
        (0xCC10500B, "01000000 01000000 000c0000 000c0000" + "5a" * 3072, ptm.GetStateBlob(1, 1, 3072)),
        (
            0xCC0C500C,
            "00000000 02000000 00000000" + "00" * 3072,
            ptm.SetStateBlob(0, 2, b""),
        ),  # after a full chunk: the end
    ],
)
def test_what_swtpm_ioctl_sends(number, data, request_):
    assert ptm_ioctl.decode(number, memoryview(bytes.fromhex(data))) == request_


@pytest.mark.parametrize("command", Command)
def test_a_struct_of_the_wrong_size_is_refused(command):
    number = ptm_ioctl.NUMBERS[command]
    _, good = ptm_ioctl.pack(next(r for r in REQUESTS if ptm.command_of(r) is command))
    size = len(good) if number & 0x40000000 else 0
    for wrong in {size + 1, max(0, size - 1), 0, 4096} - {size}:
        with pytest.raises(ProtocolError, match=f"{command.name} takes {size} bytes, not {wrong}"):
            ptm_ioctl.decode(number, bytes(wrong))


@pytest.mark.parametrize(
    ("command", "data"),
    [
        (Command.HASH_DATA, struct.pack("@I", 4097) + bytes(4096)),
        (Command.HASH_DATA, b"\xff" * 4100),
        (Command.SET_STATEBLOB, struct.pack("@III", 0, 1, 3073) + bytes(3072)),
    ],
)
def test_a_length_beyond_the_struct_is_refused(command, data):
    with pytest.raises(ProtocolError, match="its struct holds"):
        ptm_ioctl.decode(ptm_ioctl.NUMBERS[command], data)


def test_a_length_beyond_the_struct_is_refused_in_a_reply_too():
    data = struct.pack("@IIII", 0, 0, 1, 3073) + bytes(3072)
    with pytest.raises(ProtocolError, match="GET_STATEBLOB says 3073 bytes, its struct holds 3072"):
        ptm_ioctl.unpack(ptm.GetStateBlob(0, 1, 0), data)
    with pytest.raises(ProtocolError, match="has 4 bytes, not 3"):
        ptm_ioctl.unpack(ptm.Stop(), bytes(3))


@given(
    command=st.sampled_from(list(Command)),
    data=st.binary(max_size=5000),
    fits=st.booleans(),
    tail=st.binary(max_size=64),
)
def test_any_struct_decodes_or_is_refused(command, data, fits, tail):
    size = ptm_ioctl.SIZES[command]
    whole = (tail + bytes(size))[:size] if fits else data
    with suppress(ProtocolError):
        request = ptm_ioctl.decode(ptm_ioctl.NUMBERS[command], whole)
        assert type(request) is ptm.REQUEST_OF[command]
    with suppress(ProtocolError):
        ptm_ioctl.unpack(next(r for r in REQUESTS if ptm.command_of(r) is command), whole)


@pytest.mark.parametrize("request_", REQUESTS, ids=repr)
def test_requests_and_replies_come_back_as_they_were(request_):
    number, data = ptm_ioctl.pack(request_)
    carried = bytes(data) if number & 0x40000000 else b""
    assert ptm_ioctl.decode(number, carried) == request_
    for reply in replies_to(request_):
        struct_ = ptm_ioctl.encode(request_, reply)
        assert len(struct_) == len(data) == number >> 16 & 0x1FFF
        assert ptm_ioctl.unpack(request_, struct_) == reply


def test_a_long_blob_goes_chunk_by_chunk():
    blob = bytes(range(256)) * 27 + b"end"
    received, total = b"", 1
    while len(received) < total:
        request = ptm.GetStateBlob(0, 1, len(received))
        reply = ptm_ioctl.unpack(
            request, ptm_ioctl.encode(request, ptm.StateBlobReply(0, 0, len(blob), blob[request.offset :]))
        )
        assert len(reply.data) <= ptm.STATE_BLOB_CHUNK
        received, total = received + reply.data, reply.total_length
    assert received == blob


def test_what_does_not_fit_is_refused():
    with pytest.raises(ProtocolError, match="4097 bytes of data do not fit HASH_DATA, which holds 4096"):
        ptm_ioctl.pack(ptm.HashData(bytes(4097)))
    with pytest.raises(ProtocolError, match="3073 bytes of data do not fit SET_STATEBLOB"):
        ptm_ioctl.pack(ptm.SetStateBlob(0, 1, bytes(3073)))
    with pytest.raises(ProtocolError, match="SET_LOCALITY cannot hold"):
        ptm_ioctl.pack(ptm.SetLocality(256))
    with pytest.raises(ProtocolError, match="GET_TPMESTABLISHED cannot hold"):
        ptm_ioctl.encode(ptm.GetTpmEstablished(), ptm.EstablishedReply(0, 256))


def test_a_failure_answers_any_request_but_get_capability():
    data = ptm_ioctl.encode(ptm.GetStateBlob(0, 1, 0), ptm.Result(0x800))
    assert data == struct.pack("@I", 0x800) + bytes(3084)
    with pytest.raises(TypeError, match="Result is not a reply to GET_CAPABILITY"):
        ptm_ioctl.encode(ptm.GetCapability(), ptm.Result(9))
    with pytest.raises(TypeError, match="ConfigReply is not a reply to STOP"):
        ptm_ioctl.encode(ptm.Stop(), ptm.ConfigReply(0, 0))


def test_each_command_has_a_request_and_there_are_values_of_each_here():
    assert {ptm.command_of(request) for request in REQUESTS} == set(Command) == set(ptm.REQUEST_OF)
    assert {type(reply) for reply in REPLIES} == {*ptm.REPLY_OF.values()}


def test_each_command_is_in_the_table_of_shapes_by_its_name_and_number():
    assert {name: shape.ordinal for name, shape in ptm_shapes.SHAPES.items()} == {
        command.name: int(command) for command in Command
    }
