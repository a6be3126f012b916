"""Properties of a TPM 2.0: bytes laid out by hand from TPM 2.0 Library Part 2 and 3, and what malformed ones do."""

from contextlib import suppress

import pytest
from answers import refuse_other_lengths
from hypothesis import given
from hypothesis import strategies as st

from swtpm_svc.wire import tpm_properties
from swtpm_svc.wire.protocol_error import ProtocolError
from swtpm_svc.wire.tpm_properties import PtVar, decode_properties, encode_get_properties

h = bytes.fromhex


def test_the_question():
    assert encode_get_properties(PtVar.PERMANENT, PtVar.LOCKOUT_RECOVERY) == h("00000006 00000200 00000012")


def test_the_answer():
    parameters = h("00 00000006 00000002 00000200 00000204 0000020e 00000003")
    found = decode_properties(parameters)
    assert found == {PtVar.PERMANENT: 0x204, PtVar.LOCKOUT_COUNTER: 3}
    assert found[PtVar.PERMANENT] & tpm_properties.IN_LOCKOUT
    refuse_other_lengths(decode_properties, parameters)
    with pytest.raises(ProtocolError, match="capability 5 came"):
        decode_properties(h("00 00000005 00000000"))


@given(st.binary(max_size=100))
def test_any_bytes_are_decoded_or_refused(parameters):
    with suppress(ProtocolError):
        decode_properties(parameters)
