"""TPM 1.2 structures: bytes laid out by hand from TPM Main Part 2 and 3, and what malformed ones do."""

from contextlib import suppress

import pytest
from answers import refuse_other_lengths
from hypothesis import given
from hypothesis import strategies as st

from swtpm_svc.wire import tpm12
from swtpm_svc.wire.cursor import Cursor
from swtpm_svc.wire.protocol_error import ProtocolError
from swtpm_svc.wire.public_key import RsaPublicKey


def h(text):
    return bytes.fromhex(text)


RSA_PARMS = h("00000001 0003 0001 0000000c 00000800 00000002 00000000")
MODULUS = bytes(range(1, 256)) + b"\x01"
PUBKEY = RSA_PARMS + h("00000100") + MODULUS
DIGEST = bytes(range(20))

#: What a TPM answers, and how each is decoded.
ANSWERS = [
    (tpm12.decode_oiap, h("02000001") + DIGEST, (0x02000001, DIGEST)),
    (tpm12.decode_osap, h("02000001") + DIGEST + b"\xff" * 20, (0x02000001, DIGEST, b"\xff" * 20)),
    (tpm12.decode_pubek, PUBKEY + DIGEST, (RsaPublicKey(MODULUS, 65537), PUBKEY, DIGEST)),
    (tpm12.decode_internal_pub, PUBKEY, RsaPublicKey(MODULUS, 65537)),
    (tpm12.decode_capability, h("00000001 01"), b"\1"),
    (tpm12.decode_nv_value, h("00000003 616263"), b"abc"),
]


@pytest.mark.parametrize(("decode", "body", "expected"), ANSWERS)
def test_answers(decode, body, expected):
    assert decode(body) == expected
    refuse_other_lengths(decode, body)


@given(st.sampled_from([decode for decode, _body, _expected in ANSWERS]), st.binary(max_size=400))
def test_any_bytes_are_decoded_or_refused(decode, body):
    with suppress(ProtocolError):
        decode(body)


def test_an_exponent_that_is_given():
    parms = h("00000001 0003 0001 0000000f 00000800 00000002 00000003 010003")
    assert tpm12.decode_pubkey(Cursor(parms + h("00000100") + MODULUS)).exponent == 0x10003


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"\0\0\0\2" + PUBKEY[4:], "not RSA"),
        (RSA_PARMS + h("00000000"), "2048 bits has 0 bytes"),
        (RSA_PARMS + h("00000080") + bytes(128), "2048 bits has 128 bytes"),
    ],
)
def test_keys_that_are_none(body, reason):
    with pytest.raises(ProtocolError, match=reason):
        tpm12.decode_internal_pub(body)


def test_parameters():
    nonce = b"\x11" * 20
    assert tpm12.encode_create_endorsement_key_pair(nonce) == nonce + RSA_PARMS
    assert tpm12.encode_osap(tpm12.ET_OWNER, tpm12.Kh.OWNER, nonce) == h("0002 40000001") + nonce
    assert tpm12.encode_owner_read_internal_pub(tpm12.Kh.EK) == h("40000006")
    assert tpm12.encode_get_capability(tpm12.Cap.PROPERTY, tpm12.CapProp.OWNER) == h("00000005 00000004 00000111")
    assert tpm12.encode_flush_session(0x02000001) == h("02000001 00000002")
    assert tpm12.encode_nv_write_value(0x1001, 2, b"abc") == h("00001001 00000002 00000003 616263")
    assert tpm12.encode_nv_read_value(0x1001, 2, 3) == h("00001001 00000002 00000003")


def test_take_ownership():
    """TPM_PID_OWNER, both secrets, and a TPM_KEY: version, usage, flags, authDataUsage, parameters, no PCRs, no key, no
    data."""
    srk = h("01010000 0011 00000000 01") + RSA_PARMS + h("00000000 00000000 00000000")
    assert tpm12.encode_take_ownership(b"own", b"srk!") == h("0005 00000003 6f776e 00000004 73726b21") + srk


def test_nv_define_space():
    pcr_info = h("0003 000000 1f") + bytes(20)
    public = h("0018 00001001") + pcr_info * 2 + h("0017 00020002 00 00 00 00000010")
    permission = tpm12.NvPermission.OWNERREAD | tpm12.NvPermission.OWNERWRITE
    assert tpm12.encode_nv_define_space(0x1001, 16, permission, DIGEST) == public + DIGEST


def test_sessions():
    auth = b"\x22" * 20
    assert tpm12.encode_auth(7, DIGEST, auth, continues=True) == h("00000007") + DIGEST + b"\1" + auth
    assert tpm12.split_response_auth(b"out" + DIGEST + b"\0" + auth) == (b"out", DIGEST, False, auth)
    assert tpm12.split_response_auth(DIGEST + b"\1" + auth) == (b"", DIGEST, True, auth)
    with pytest.raises(ProtocolError, match="no room"):
        tpm12.split_response_auth(bytes(40))
