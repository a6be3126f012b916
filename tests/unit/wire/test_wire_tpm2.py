"""TPM 2.0 structures: bytes laid out by hand from TPM 2.0 Library Part 2 and 3, round trips, and what malformed ones
do."""

from contextlib import suppress

import pytest
from answers import refuse_other_lengths
from hypothesis import given
from hypothesis import strategies as st

from swtpm_svc.wire import pcr_banks, tpm2, tpm2_public
from swtpm_svc.wire.algorithms import Alg
from swtpm_svc.wire.command_codes import CommandCode
from swtpm_svc.wire.protocol_error import ProtocolError
from swtpm_svc.wire.public_key import EccPublicKey, RsaPublicKey
from swtpm_svc.wire.tpm2 import NvPublic
from swtpm_svc.wire.tpm2_public import EccParameters, Public, RsaParameters
from swtpm_svc.wire.tpm_header import ST_NO_SESSIONS, ST_SESSIONS, decode_response


def h(text):
    return bytes.fromhex(text)


RSA = Public(0x000B, 0x000300B2, b"\xaa" * 32, RsaParameters(128, 2048), (b"\x55" * 256,))
RSA_BYTES = h("0001 000b 000300b2 0020") + b"\xaa" * 32 + h("0006 0080 0043 0010 0800 00000000 0100") + b"\x55" * 256
ECC = Public(0x000C, 0x000300F2, b"", EccParameters(256, 4), (b"\1" * 48, b"\2" * 48))
ECC_BYTES = h("0023 000c 000300f2 0000 0006 0100 0043 0010 0004 0010 0030") + b"\1" * 48 + h("0030") + b"\2" * 48
NV_BYTES = h("0014 01c00002 000b 42072001 0006 706f6c696379 05dc")  # TPM2B_NV_PUBLIC

#: What a TPM answers, how each is decoded, and whether all of it is looked at.
ANSWERS = [
    (tpm2_public.decode_public, RSA_BYTES, RSA),
    (tpm2_public.decode_public, ECC_BYTES, ECC),
    (
        tpm2.decode_nv_read_public,
        NV_BYTES + h("0003 010203"),
        NvPublic(0x01C00002, 0x42072001, 1500, 0x000B, b"policy"),
    ),
    (tpm2.decode_nv_read, h("0003 616263"), b"abc"),
    (pcr_banks.decode_pcr_allocate, h("01 00000018 00000780 00000f60"), pcr_banks.Allocation(True, 24, 1920, 3936)),
    (lambda body: tpm2.decode_property(body, 0x200), h("00 00000006 00000001 00000200 00000007"), 7),
    (
        lambda body: tpm2.split_response(ST_SESSIONS, body, handles=1),
        h("80000000 00000003 616263 0000 01 0000"),
        ((0x80000000,), b"abc"),
    ),
]


@pytest.mark.parametrize(("decode", "body", "expected"), ANSWERS)
def test_answers(decode, body, expected):
    assert decode(body) == expected
    refuse_other_lengths(decode, body)


@given(st.sampled_from([decode for decode, _body, _expected in ANSWERS]), st.binary(max_size=400))
def test_any_bytes_are_decoded_or_refused(decode, body):
    with suppress(ProtocolError):
        decode(body)


_sized = st.binary(max_size=64)
_uint16 = st.integers(0, 0xFFFF)


@given(
    st.builds(
        Public,
        _uint16,
        st.integers(0, 0xFFFFFFFF),
        _sized,
        st.builds(RsaParameters, st.integers(1, 0xFFFF), _uint16, st.integers(0, 0xFFFFFFFF), st.just(Alg.NULL))
        | st.builds(RsaParameters, st.just(0), _uint16, st.integers(0, 0xFFFFFFFF), _uint16),
        st.tuples(_sized),
    )
    | st.builds(
        Public,
        _uint16,
        st.integers(0, 0xFFFFFFFF),
        _sized,
        st.builds(EccParameters, st.integers(1, 0xFFFF), _uint16, st.just(Alg.NULL))
        | st.builds(EccParameters, st.just(0), _uint16, _uint16),
        st.tuples(_sized, _sized),
    )
)
def test_a_public_area_that_is_encoded_is_decoded_again(public):
    assert tpm2_public.decode_public(tpm2_public.encode_public(public)) == public


def test_public_areas_as_bytes():
    assert tpm2_public.encode_public(RSA) == RSA_BYTES
    assert tpm2_public.encode_public(ECC) == ECC_BYTES
    assert RSA.key == RsaPublicKey(b"\x55" * 256, 65537)
    assert ECC.key == EccPublicKey(4, b"\1" * 48, b"\2" * 48)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (h("0008") + RSA_BYTES[2:], "not an asymmetric key"),
        (RSA_BYTES.replace(h("0006 0080 0043"), h("0006 0080 0044")), "not a storage key"),
        (RSA_BYTES.replace(h("0043 0010 0800"), h("0043 0016 0800")), "not a storage key"),
        (ECC_BYTES.replace(h("0004 0010"), h("0004 0020")), "key derivation"),
    ],
)
def test_keys_of_another_kind(body, reason):
    with pytest.raises(ProtocolError, match=reason):
        tpm2_public.decode_public(body)


@pytest.mark.parametrize(
    ("public", "key"),
    [
        (RSA_BYTES, RSA.key),
        (ECC_BYTES, ECC.key),
        # TPMT_PUBLIC by hand: without a symmetric algorithm; RSASSA with SHA-256, RSAES, ECDSA with SHA-384, ECDAA, a
        # KDF
        (h("0001 000b 00050072 0000 0010 0014 000b 0800 00000003 0001 55"), RsaPublicKey(b"\x55", 3)),
        (h("0001 000b 00020072 0000 0010 0015 0800 00000000 0001 55"), RsaPublicKey(b"\x55", 65537)),
        (h("0023 000c 00050072 0000 0010 0018 000c 0004 0010 0001 11 0001 22"), EccPublicKey(4, b"\x11", b"\x22")),
        (
            h("0023 000b 00050072 0001 99 0010 001a 000b 0001 0010 0010 0001 11 0001 22"),
            EccPublicKey(16, b"\x11", b"\x22"),
        ),
        (h("0023 000b 00020072 0000 0010 0019 000b 0003 0020 000b 0001 11 0001 22"), EccPublicKey(3, b"\x11", b"\x22")),
    ],
)
def test_a_key_is_found_whatever_it_is_for(public, key):
    name = h("0002 abcd")  # what else ReadPublic gives
    assert tpm2_public.decode_key(tpm2_public.sized(public) + name) == key
    for broken in (public[:-1], public + b"\0", b"\0\x08" + public[2:]):
        with pytest.raises(ProtocolError):
            tpm2_public.decode_key(tpm2_public.sized(broken))


def test_handles():
    assert tpm2.encode_get_handles(0x81010000, 64) == h("00000001 81010000 00000040")
    assert tpm2.decode_handles(h("01 00000001 00000002 81010001 81010016")) == ([0x81010001, 0x81010016], True)
    assert tpm2.decode_handles(h("00 00000001 00000000")) == ([], False)
    for wrong in (h("00 00000006 00000000"), h("00 00000001 00000002 81010001"), h("00 00000001 00000000 00")):
        with pytest.raises(ProtocolError):
            tpm2.decode_handles(wrong)


#: Recorded from libtpms 0.9.2: the parameters of TPM2_GetTime without a key.
GET_TIME = h(
    "004c 0048 ff544347 8019 0004 40000007 0000 0000000000000000 9d93f9e5 4d13e7aa 01 9ff5ce4f864b1608"
    "0000000000000000 0000000000000000 00000001 00000000 01 2019102300163636 0010"
)[2:]


def test_the_time_without_a_key():
    command = tpm2.encode(
        CommandCode.GET_TIME, (0x4000000B, 0x40000007), tpm2.encode_get_time(), password=b"", authorized=2
    )
    sessions = "00000012" + "40000009 0000 00 0000" * 2
    assert command == h(f"8002 0000002c 0000014c 4000000b 40000007 {sessions} 0000 0010")
    body = h("0000004c") + GET_TIME + h("0000 01 0000") * 2
    assert tpm2.split_response(ST_SESSIONS, body, authorized=2) == ((), GET_TIME)
    assert tpm2.decode_get_time(GET_TIME) == (0x9FF5CE4F864B1608, 0x2019102300163636)
    quote = GET_TIME.replace(h("8019"), h("8018"))
    for wrong in (quote, GET_TIME[:60], h("0049") + GET_TIME[2:74] + h("00")):
        with pytest.raises(ProtocolError):
            tpm2.decode_get_time(wrong)


@pytest.mark.parametrize(
    "body",
    [
        h("00 00000006 00000000"),  # no such property
        h("00 00000006 00000001 00000201 00000007"),  # the next one
        h("00 00000005 00000001 00000200 00000007"),  # another capability
    ],
)
def test_a_property_that_the_tpm_does_not_have(body):
    with pytest.raises(ProtocolError):
        tpm2.decode_property(body, 0x200)


def test_commands():
    get = tpm2.encode(CommandCode.GET_CAPABILITY, (), tpm2.encode_get_property(0x200))
    assert get == h("8001 00000016 0000017a 00000006 00000200 00000001")
    evict = tpm2.encode(CommandCode.EVICT_CONTROL, (0x40000001, 0x80000000), h("81010001"), password=b"pw")
    assert evict == h("8002 00000025 00000120 40000001 80000000 0000000b 40000009 0000 00 0002 7077 81010001")
    change = tpm2.encode(CommandCode.HIERARCHY_CHANGE_AUTH, (0x4000000A,), tpm2_public.sized(b"new"), password=b"")
    assert change == h("8002 00000020 00000129 4000000a 00000009 40000009 0000 00 0000 0003 6e6577")
    assert tpm2.encode_create_primary(ECC)[:6] == h("0004 0000 0000")
    assert tpm2.encode_create_primary(ECC)[6:] == h("007a") + ECC_BYTES + h("0000 00000000")
    assert pcr_banks.encode_pcr_allocate({4: False, 11: True}) == h("00000002 0004 03 000000 000b 03 ffffff")
    assert (
        tpm2.encode_nv_define_space(NvPublic(0x01C00002, 0x42072001, 1500, 0x000B, b"policy")) == h("0000") + NV_BYTES
    )
    assert tpm2.encode_nv_write(b"abc", 1024) == h("0003 616263 0400")
    assert tpm2.encode_nv_read(3, 1024) == h("0003 0400")


def test_responses_without_sessions():
    assert tpm2.split_response(ST_NO_SESSIONS, b"abc") == ((), b"abc")
    tag, rc, body = decode_response(h("8001 0000000d 00000000 616263"))
    assert (tag, rc, body) == (ST_NO_SESSIONS, 0, b"abc")
    for wrong in (h("8001 0000000d 00000000 6162"), h("8001 0000000d 00000000 61626364"), h("8001")):
        with pytest.raises(ProtocolError):
            decode_response(wrong)
