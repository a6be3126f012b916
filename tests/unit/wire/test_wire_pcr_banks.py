"""PCR banks of a TPM 2.0: bytes laid out by hand from TPM 2.0 Library Part 2 and 3, and what malformed ones do."""

from contextlib import suppress

import pytest
from answers import refuse_other_lengths
from hypothesis import given
from hypothesis import strategies as st

from swtpm_svc.wire import pcr_banks
from swtpm_svc.wire.protocol_error import ProtocolError

h = bytes.fromhex

#: What a TPM answers, and how each is decoded. The first has a bank without PCRs, and one of a hash without a name.
ANSWERS = [
    (
        pcr_banks.decode_pcrs,
        h("00 00000005 00000003 0004 03 000000 000b 03 ffffff 0027 03 010000"),
        {0x04: False, 0x0B: True, 0x27: True},
    ),
    (pcr_banks.decode_pcr_allocate, h("01 00000018 00000780 00000f60"), pcr_banks.Allocation(True, 24, 1920, 3936)),
    (pcr_banks.decode_pcr_read, h("00000015 00000001 000b 03 000001 00000001 0003 616263"), b"abc"),
    (pcr_banks.decode_pcr_read, h("00000015 00000001 000b 03 000000 00000000"), b""),  # there is no such PCR
]


@pytest.mark.parametrize(("decode", "parameters", "expected"), ANSWERS)
def test_answers(decode, parameters, expected):
    assert decode(parameters) == expected
    refuse_other_lengths(decode, parameters)


@given(st.sampled_from([decode for decode, _parameters, _expected in ANSWERS]), st.binary(max_size=100))
def test_any_bytes_are_decoded_or_refused(decode, parameters):
    with suppress(ProtocolError):
        decode(parameters)


def test_answers_to_another_question():
    with pytest.raises(ProtocolError, match="capability 6 came"):
        pcr_banks.decode_pcrs(h("00 00000006 00000000"))
    with pytest.raises(ProtocolError, match="2 digests came"):
        pcr_banks.decode_pcr_read(h("00000015 00000000 00000002 0001 61 0001 62"))


def test_commands():
    assert pcr_banks.encode_get_pcrs() == h("00000005 00000000 00000001")
    assert pcr_banks.encode_pcr_allocate({4: False, 11: True}) == h("00000002 0004 03 000000 000b 03 ffffff")
    assert pcr_banks.encode_pcr_read(0x0B, 16) == h("00000001 000b 03 000001")
    assert pcr_banks.encode_pcr_read(0x0C, 7) == h("00000001 000c 03 800000")
