"""The mssim protocol. `recorded`: bytes that tpm2-tss 3.2.1 (libtss2-tcti-mssim) sends."""

from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from swtpm_svc.wire import mssim
from swtpm_svc.wire.mssim import COMMAND_PORT, PLATFORM_PORT, Decoder, Message, Ordinal
from swtpm_svc.wire.protocol_error import ProtocolError

h = bytes.fromhex
GET_CAPABILITY = h("8001000000160000017a00000006000001000000007f")


def decode(ordinals, data):
    """All messages; the last item is the error if there was one."""
    decoder = Decoder(ordinals)
    decoder.feed(data)
    return take(decoder)


def take(decoder):
    messages = []
    try:
        while (message := decoder.next()) is not None:
            messages.append(message)
    except ProtocolError as error:
        messages.append(str(error))
    return messages


def test_what_tpm2_tss_sends():
    """recorded: power on and NV on at the platform port, a command at the other, and the end of both sessions."""
    assert decode(PLATFORM_PORT, h("00000001 0000000b")) == [
        Message(Ordinal.SIGNAL_POWER_ON),
        Message(Ordinal.SIGNAL_NV_ON),
    ]
    sent = h("00000008 00 00000016") + GET_CAPABILITY
    assert decode(COMMAND_PORT, sent) == [Message(Ordinal.SEND_COMMAND, 0, GET_CAPABILITY)]
    assert decode(COMMAND_PORT, h("00000014")) == decode(PLATFORM_PORT, h("00000014")) == [Message(Ordinal.SESSION_END)]


def test_messages_with_a_body():
    sent = h("00000005 00000006 00000003 616263 00000007 0000000f 00000001 00000010 00000002 beef 00000015")
    assert decode(COMMAND_PORT, sent) == [
        Message(Ordinal.HASH_START),
        Message(Ordinal.HASH_DATA, 0, b"abc"),
        Message(Ordinal.HASH_END),
        Message(Ordinal.REMOTE_HANDSHAKE),
        Message(Ordinal.SET_ALTERNATIVE_RESULT, 0, h("beef")),
        Message(Ordinal.STOP),
    ]


def test_each_ordinal_belongs_to_one_port_or_ends_the_session():
    assert set(Ordinal) == COMMAND_PORT | PLATFORM_PORT
    assert {Ordinal.SESSION_END, Ordinal.STOP} == COMMAND_PORT & PLATFORM_PORT
    assert decode(PLATFORM_PORT, h("00000008")) == ["this port has no ordinal 0x8"]
    assert decode(COMMAND_PORT, h("00000001")) == ["this port has no ordinal 0x1"]


def test_a_message_that_is_too_long_is_refused_when_it_is_announced():
    limit = mssim.DATA_LIMIT
    assert decode(COMMAND_PORT, h("00000008 00") + limit.to_bytes(4, "big")) == []
    (reason,) = decode(COMMAND_PORT, h("00000008 00") + (limit + 1).to_bytes(4, "big"))
    assert reason == "SEND_COMMAND announces 4097 bytes, 4096 are the limit"


def test_answers():
    assert mssim.encode_result(0) == bytes(4)
    assert mssim.encode_response(h("80010000000a00000101")) == h("0000000a 80010000000a00000101 00000000")
    assert mssim.encode_handshake() == h("00000001 00000005 00000000")


numbers = st.sampled_from(list(Ordinal)).map(lambda ordinal: ordinal.to_bytes(4, "big"))
lengths = st.integers(0, 12).map(lambda length: length.to_bytes(4, "big") + bytes(length))
streams = st.lists(st.one_of(numbers, lengths, st.binary(max_size=16)), max_size=12).map(b"".join)


@given(st.sampled_from([COMMAND_PORT, PLATFORM_PORT]), streams, st.lists(st.integers(1, 40), max_size=8))
def test_the_outcome_depends_on_the_bytes_and_not_on_their_arrival(ordinals, stream, cuts):
    expected = decode(ordinals, stream)
    for pieces in ([1] * len(stream), cuts):
        decoder, received, rest = Decoder(ordinals), [], stream
        for size in [*pieces, len(stream)]:
            decoder.feed(rest[:size])
            rest = rest[size:]
            received += take(decoder)
            if received and isinstance(received[-1], str):
                break
        assert received == expected


@given(st.sampled_from([COMMAND_PORT, PLATFORM_PORT]), st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused(ordinals, data):
    decoder = Decoder(ordinals)
    decoder.feed(data)
    with suppress(ProtocolError):
        while decoder.next() is not None:
            pass
