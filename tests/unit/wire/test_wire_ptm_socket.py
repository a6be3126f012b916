"""The control protocol's socket form. `recorded`: bytes between swtpm_ioctl and swtpm, both of version 0.7.1."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_values import REQUESTS, replies_to

from swtpm_svc.wire import ptm, ptm_socket
from swtpm_svc.wire.protocol_error import ProtocolError
from swtpm_svc.wire.ptm import Command
from swtpm_svc.wire.ptm_socket import Decoder, Refused


def h(text):
    return bytes.fromhex(text)


# recorded: the request of swtpm_ioctl, the reply of swtpm
CONVERSATIONS = [
    ("00000001", ptm.GetCapability(), "00000000 0000ffff", ptm.CapabilityReply(ptm.Capability(0xFFFF))),
    ("00000002 00000001", ptm.Init(ptm.INIT_FLAG_DELETE_VOLATILE), "00000000", ptm.Result(0)),
    ("00000003", ptm.Shutdown(), "00000000", ptm.Result(0)),
    ("00000004", ptm.GetTpmEstablished(), "00000000 00000000", ptm.EstablishedReply(0, 0)),
    ("00000005 02", ptm.SetLocality(2), "00000000", ptm.Result(0)),
    ("00000005 09", ptm.SetLocality(9), "0000003d", ptm.Result(0x3D)),
    ("00000006", ptm.HashStart(), "00000000", ptm.Result(0)),
    ("00000007 00000004 61626364", ptm.HashData(b"abcd"), "00000000", ptm.Result(0)),
    ("00000008", ptm.HashEnd(), "00000000", ptm.Result(0)),
    ("00000009", ptm.CancelTpmCommand(), "00000000", ptm.Result(0)),
    ("0000000a", ptm.StoreVolatile(), "00000000", ptm.Result(0)),
    ("0000000b 03", ptm.ResetTpmEstablished(3), "00000000", ptm.Result(0)),
    (
        "0000000c 00000000 00000002 00ffffff",
        ptm.GetStateBlob(0, 2, 0xFFFFFF),
        "00" * 16,
        ptm.StateBlobReply(0, 0, 0, b""),
    ),
    (
        "0000000c 00000001 00000003 00000000",
        ptm.GetStateBlob(1, 3, 0),
        "00000800 000000000000000000000000",
        ptm.Result(0x800),
    ),
    ("0000000d 00000000 00000002 00000003 010203", ptm.SetStateBlob(0, 2, b"\1\2\3"), "00000003", ptm.Result(3)),
    ("0000000e", ptm.Stop(), "00000000", ptm.Result(0)),
    ("0000000f", ptm.GetConfig(), "00000000 00000000", ptm.ConfigReply(0, 0)),
    ("00000010", ptm.SetDataFd(), "0000001f", ptm.Result(0x1F)),  # without a descriptor
    (
        "00000011 00000000",
        ptm.SetBufferSize(0),
        "00000000 00001000 00000af8 00001000",
        ptm.BufferSizeReply(0, 4096, 2808, 4096),
    ),
    (
        "00000012 0000000000000001 00000003 00000000",
        ptm.GetInfo(1, 3),
        "00000000 0000003f 0000003c" + b'PMSpecification":{"family":"2.0","level":0,"revision":164}}\0'.hex(),
        ptm.InfoReply(0, 63, b'PMSpecification":{"family":"2.0","level":0,"revision":164}}\0'),
    ),
    ("00000012 0000000000000001 00000fff 00000000", ptm.GetInfo(1, 0xFFF), "00000003", ptm.Result(3)),
]


@pytest.mark.parametrize(
    ("sent", "request_", "answer", "reply"), CONVERSATIONS, ids=[repr(c[1]) for c in CONVERSATIONS]
)
def test_recorded_conversations(sent, request_, answer, reply):
    assert Decoder().receive(h(sent)) == [request_]
    assert ptm_socket.pack(request_) == h(sent)
    assert ptm_socket.unpack(request_, h(answer)) == reply
    if not (isinstance(reply, ptm.Result) and len(h(answer)) > 4):
        assert ptm_socket.encode(reply) == h(answer)


def test_a_failed_get_stateblob_can_have_all_its_fields():
    assert ptm_socket.encode(ptm.StateBlobReply(0x800, 0, 0, b"")) == h("00000800 00000000 00000000 00000000")


def test_our_capabilities_on_the_wire():
    assert ptm_socket.encode(ptm.CapabilityReply(ptm.Capability.ALL)) == h("00000000 00017fff")


def test_a_state_blob_goes_whole_and_says_how_much_follows():
    """recorded: swtpm, asked from offset 0x2000 of a blob of 0x2260 bytes."""
    reply = ptm.StateBlobReply(0, 0, 0x2260, bytes(0x260))
    assert ptm_socket.encode(reply) == h("00000000 00000000 00000260 00000260") + bytes(0x260)
    large = bytes(300_000)
    request = ptm.GetStateBlob(0, 1)
    assert ptm_socket.unpack(request, ptm_socket.encode(ptm.StateBlobReply(0, 0, len(large), large))).data == large


def test_requests_that_arrive_together_come_out_in_order():
    sent = h("00000006 00000007 00000003 616263 00000007 00000000 00000008")
    assert Decoder().receive(sent) == [ptm.HashStart(), ptm.HashData(b"abc"), ptm.HashData(b""), ptm.HashEnd()]


def test_a_request_waits_for_its_last_byte():
    decoder = Decoder()
    assert decoder.receive(h("0000000d 00000000 00000002 00000003 0102")) == []
    assert decoder.receive(h("03")) == [ptm.SetStateBlob(0, 2, b"\1\2\3")]


@pytest.mark.parametrize(("number", "kind"), [("00000005", ptm.SetLocality), ("0000000b", ptm.ResetTpmEstablished)])
@pytest.mark.parametrize("padding", ["", "000000", "7ffc00", "0000aa", "00aa00", "ffffff", "000001"])
class TestLocality:
    """One byte from tpm2-tss, with three bytes of never-set padding from QEMU."""

    def test_the_locality_is_there_at_once(self, number, kind, padding):
        decoder = Decoder()
        assert decoder.receive(h(number + "03" + padding)) == [kind(3)]

    @pytest.mark.parametrize("following", ["00000001", "00000005 00", "00000012 0000000000000001 00000000 00000000"])
    def test_the_next_request_is_found(self, number, kind, padding, following):
        decoder = Decoder()
        expected = Decoder().receive(h(following))
        assert decoder.receive(h(number + "04" + padding)) == [kind(4)]
        assert decoder.receive(h(following)) == expected
        whole = Decoder()
        assert whole.receive(h(number + "04" + padding + following)) == [kind(4), *expected]

    def test_padding_that_arrives_late(self, number, kind, padding):
        decoder = Decoder()
        received = [
            request for byte in h(number + "02" + padding + "00000001") for request in decoder.receive(bytes([byte]))
        ]
        assert received == [kind(2), ptm.GetCapability()]


@pytest.mark.parametrize("number", ["00000000", "00000014", "00000100", "80010000", "ffffffff"])
def test_an_unknown_command_ends_the_conversation(number):
    decoder = Decoder()
    good, refused = decoder.receive(h("00000001") + h(number) + h("00000001"))
    assert good == ptm.GetCapability()
    assert refused == Refused(
        0x0A, f"no control command has the number 0x{number}"
    )  # swtpm answers TPM_BAD_ORDINAL, too
    assert decoder.receive(h("00000001")) == []


@pytest.mark.parametrize("start", ["00000007", "0000000d 00000000 00000001"])
def test_no_more_is_kept_than_the_limit(start):
    limit = ptm_socket.DATA_LIMIT
    assert Decoder().receive(h(start) + limit.to_bytes(4, "big")) == []
    (refused,) = Decoder().receive(h(start) + (limit + 1).to_bytes(4, "big"))
    assert refused.tpm_result == 3
    assert f"announces {limit + 1} bytes" in refused.reason


streams = st.lists(
    st.one_of(
        st.sampled_from(REQUESTS).map(ptm_socket.pack),
        st.sampled_from([h("00000005 01 000000"), h("0000000b 03 aabbcc"), h("00000013 00000001")]),
        st.binary(max_size=24),
    ),
    max_size=6,
).map(b"".join)


@given(streams, st.lists(st.integers(1, 4200), max_size=8))
def test_the_outcome_depends_on_the_bytes_and_not_on_their_arrival(stream, cuts):
    at_once = Decoder()
    expected = at_once.receive(stream)
    bytewise, pieces = Decoder(), Decoder()
    assert [r for byte in stream[:6000] for r in bytewise.receive(bytes([byte]))] == Decoder().receive(stream[:6000])
    received, rest = [], stream
    for cut in cuts:
        received += pieces.receive(rest[:cut])
        rest = rest[cut:]
    received += pieces.receive(rest)
    assert received == expected
    assert sum(isinstance(request, Refused) for request in expected[:-1]) == 0


@given(st.lists(st.sampled_from(REQUESTS), max_size=8))
def test_any_sequence_of_requests_comes_out_as_it_went_in(requests):
    assert Decoder().receive(b"".join(map(ptm_socket.pack, requests))) == requests


@pytest.mark.parametrize("request_", REQUESTS, ids=repr)
def test_replies_come_back_as_they_were_and_not_before_they_are_whole(request_):
    for reply in replies_to(request_):
        data = ptm_socket.encode(reply)
        assert ptm_socket.unpack(request_, data) == reply
        assert [ptm_socket.unpack(request_, data[:end]) for end in range(len(data))] == [None] * len(data)
        if not isinstance(reply, ptm.Result) or reply.tpm_result == 0:
            with pytest.raises(ProtocolError, match=f"not {len(data) + 1}"):
                ptm_socket.unpack(request_, data + b"\0")


@given(
    st.sampled_from(REQUESTS),
    st.one_of(st.binary(max_size=64), st.binary(max_size=60).map(lambda tail: bytes(4) + tail)),
)
def test_any_bytes_are_a_reply_or_half_of_one_or_are_refused(request_, data):
    with suppress(ProtocolError):
        reply = ptm_socket.unpack(request_, data)
        assert reply is None or type(reply) in (ptm.Result, ptm.REPLY_OF[ptm.command_of(request_)])


def test_a_reply_that_announces_too_much_is_refused():
    with pytest.raises(ProtocolError, match="announces 4294967295 bytes"):
        ptm_socket.unpack(ptm.GetStateBlob(0, 1), h("00000000 00000000 00000000 ffffffff"))
    with pytest.raises(ProtocolError, match="SetLocality cannot hold"):
        ptm_socket.pack(ptm.SetLocality(256))
    with pytest.raises(ProtocolError, match="Result cannot hold"):
        ptm_socket.encode(ptm.Result(-1))


def test_the_last_command_is_the_one_that_newer_versions_have():
    assert Decoder().receive(h("00000013 0000012c")) == [ptm.LockStorage(300)]
    assert max(Command) == Command.LOCK_STORAGE == 18
