"""All state blobs in one answer: whole, in order, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swtpm_svc.errors import VtpmError
from swtpm_svc.tpm import controller
from swtpm_svc.tpm.controller import Rights
from swtpm_svc.wire import ptm, state_bundle
from swtpm_svc.wire.protocol_error import ProtocolError
from swtpm_svc.wire.ptm import BlobType


@given(st.dictionaries(st.sampled_from(list(BlobType)), st.binary(max_size=50)))
def test_what_goes_in_comes_out(blobs):
    assert state_bundle.decode(state_bundle.encode(blobs)) == blobs


@given(st.binary(max_size=60))
def test_any_bytes_decode_or_are_refused(data):
    try:
        assert state_bundle.encode(state_bundle.decode(data)) == data
    except ProtocolError:
        pass


@pytest.mark.parametrize(
    "data", ["00000001", "0000000100000002ff", "0000000400000000", "00000001000000000000000100000000"]
)
def test_what_is_no_bundle_is_refused(data):
    with pytest.raises(ProtocolError):
        state_bundle.decode(bytes.fromhex(data))


def test_it_is_no_type_of_the_protocol_s():
    assert ptm.ALL_BLOBS not in [int(kind) for kind in BlobType]


@pytest.mark.parametrize("rights", [Rights(control=True, secrets=False), Rights(control=False, secrets=True)])
def test_the_bundle_takes_the_rights_of_each_blob(rights):
    request = ptm.GetStateBlob(ptm.STATE_FLAG_DECRYPTED, ptm.ALL_BLOBS, 0)
    with pytest.raises(VtpmError):
        controller.authorize(request, rights, in_clear=True)
    controller.authorize(request, Rights(control=True, secrets=True), in_clear=True)
    assert controller.uses_storage(request)
    assert not controller.is_immediate(request)
