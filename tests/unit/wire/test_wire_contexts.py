"""What a resource manager reads in commands and responses; bytes recorded from libtpms 0.9.2."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swtpm_svc.wire.protocol_error import ProtocolError
from swtpm_svc.wire.tpm2_contexts import (
    Authorization,
    CommandAttributes,
    Named,
    Question,
    decode_commands,
    decode_named,
    decode_question,
    encode_get_commands,
    encode_handles,
    is_constant,
    is_session,
    put_handle,
    saved_handle,
    sequence_of,
)

h = bytes.fromhex

HEADER = h("8002 00000000 00000148")
PASSWORD = h("40000009 0000 01 0000")
SESSION = h("03000002 0010 00112233445566778899aabbccddeeff 00 0002 abcd")


def test_attributes_of_commands():
    """TPM2_Clear, Certify, CreatePrimary, SequenceComplete and a vendor's."""
    found, more = decode_commands(h("00 00000002 00000005 02c00126 04000148 12000131 0300013e 20000001"))
    assert found == {
        0x126: CommandAttributes(1, returns_handle=False, flushes=False, flushes_many=True),
        0x148: CommandAttributes(2, returns_handle=False, flushes=False, flushes_many=False),
        0x131: CommandAttributes(1, returns_handle=True, flushes=False, flushes_many=False),
        0x13E: CommandAttributes(1, returns_handle=False, flushes=True, flushes_many=False),
        0x20000001: CommandAttributes(0, returns_handle=False, flushes=False, flushes_many=False),
    }
    assert not more
    assert decode_commands(h("01 00000002 00000000")) == ({}, True)
    assert encode_get_commands(0x11F, 254) == h("00000002 0000011f 000000fe")


@pytest.mark.parametrize("parameters", ["", "00", "00 00000001 00000000", "00 00000002 00000002 02c00126"])
def test_what_is_not_a_list_of_commands(parameters):
    with pytest.raises(ProtocolError):
        decode_commands(h(parameters))


def test_what_a_command_names():
    area = PASSWORD + SESSION
    body = h("80000000 80000001") + len(area).to_bytes(4, "big") + area + b"rest"
    assert decode_named(HEADER + body, 0x8002, 2) == Named(
        (0x80000000, 0x80000001),
        (Authorization(0x40000009, is_continued=True), Authorization(0x03000002, is_continued=False)),
        b"rest",
    )
    assert decode_named(HEADER + body, 0x8001, 2) == Named((0x80000000, 0x80000001), (), body[8:])
    assert decode_named(HEADER, 0x8001, 0) == Named((), (), b"")


def test_what_is_cut_names_what_it_has_whole():
    area = PASSWORD + SESSION
    body = h("80000000 80000001") + len(area).to_bytes(4, "big") + area
    assert decode_named(HEADER + body[:7], 0x8002, 2) == Named((0x80000000,), (), b"")
    assert decode_named(HEADER + body[:-1], 0x8002, 2) == Named((0x80000000, 0x80000001), (), b"")
    short = body[:8] + (len(area) - 1).to_bytes(4, "big") + area
    assert decode_named(HEADER + short, 0x8002, 2) == Named(
        (0x80000000, 0x80000001), (Authorization(0x40000009, is_continued=True),), b""
    )


@given(st.binary(max_size=80), st.sampled_from([0x8001, 0x8002, 0, 0xFFFF]), st.integers(0, 7))
def test_any_command_can_be_read(body, tag, handles):
    named = decode_named(HEADER + body, tag, handles)
    assert len(named.handles) <= handles
    assert body.endswith(named.parameters)


def test_handles():
    message = bytearray(HEADER + bytes(12))
    put_handle(message, 1, 0x80FFFFFE)
    assert message == HEADER + h("00000000 80fffffe 00000000")
    assert [is_session(handle << 24) for handle in (0x01, 0x02, 0x03, 0x04, 0x80)] == [False, True, True, False, False]
    assert encode_handles([0x80FFFFFF], more=True) == h("01 00000001 00000001 80ffffff")


def test_contexts():
    """Of a session, an ordinary object and a sequence object."""
    session = h("0000000000000004 03000001 40000007 0182")
    assert (sequence_of(session), saved_handle(session), is_constant(session)) == (4, 0x03000001, False)
    assert is_constant(h("0000000000000064 80000000 40000007 01b8"))
    assert not is_constant(h("0000000000000001 80000001 40000007 0000"))
    assert not is_constant(b"")
    assert saved_handle(b"\x80") == 0


def test_questions():
    assert decode_question(h("00000001 80000000 00000010")) == Question(1, 0x80000000, 16)
    assert decode_question(h("00000001 80000000 000000")) is None
    assert decode_question(h("00000001 80000000 00000010 00")) is None
