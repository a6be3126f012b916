"""What swtpm_setup's keys and swtpm_cert's names are made of, without a TPM and without files."""

from contextlib import suppress
from hashlib import new

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swtpm_svc.errors import VtpmError
from swtpm_svc.provision import swtpm_certificate, swtpm_templates
from swtpm_svc.provision.der import object_identifier
from swtpm_svc.wire import tpm2_public
from swtpm_svc.wire.algorithms import HASHES, hash_name
from swtpm_svc.wire.tpm2_public import ObjectAttribute


@pytest.mark.parametrize(
    ("dotted", "der"),
    [
        ("2.5.4.3", "0603550403"),
        ("2.23.133.2.16", "06056781050210"),
        ("1.2.840.113549.1.1.11", "06092a864886f70d01010b"),
    ],
)
def test_object_identifiers(dotted, der):
    assert object_identifier(dotted).hex() == der


@pytest.mark.parametrize("dotted", ["3.1", "1.40", "x.1", "1.2.-3"])
def test_what_is_no_object_identifier_is_refused(dotted):
    with pytest.raises(ValueError, match=r".+"):
        object_identifier(dotted)


@pytest.mark.parametrize(
    ("text", "der"),
    [
        ("", "3000"),
        ("CN=a", "300c310a30080603550403130161"),
        # the last one first, and UTF-8 for what is not printable
        ("CN=a,O=_", "3018310a3008060355040a0c015f310a30080603550403130161"),
        ("CN= a\\,b ", "300e310c300a06035504031303612c62"),
        ("2.5.4.3=a", "300c310a30080603550403130161"),
        ("DC=a", "30133111300f060a0992268993f22c640119160161"),
    ],
)
def test_subjects(text, der):
    assert swtpm_certificate.subject(text).hex() == der


@pytest.mark.parametrize(
    "text", ["a", "CN", "CN=", "CN=a,", ",CN=a", "CN=a,,O=b", "CN=a+b", "FOO=a", "9.9.9=a", "EMAIL=ö"]
)
def test_what_is_no_subject_is_refused(text):
    with pytest.raises(VtpmError, match="--subject"):
        swtpm_certificate.subject(text)


@given(st.text(max_size=40))
def test_any_text_is_a_subject_or_is_refused(text):
    with suppress(VtpmError):
        assert swtpm_certificate.subject(text)[0] == 0x30


def _keys():
    for name in swtpm_templates.ALGORITHMS:
        for signs, decrypts in ((False, False), (True, False), (True, True)):
            yield swtpm_templates.endorsement_key(name, signs=signs, decrypts=decrypts)
        yield swtpm_templates.attestation_key(name)
        yield swtpm_templates.identity_key(name)
    for name in ("rsa2048", "rsa3072", "rsa4096", "secp384r1"):
        yield swtpm_templates.storage_key(name)


@pytest.mark.parametrize("key", list(_keys()), ids=lambda key: f"{key.handle:x}-{key.name}")
def test_a_template_is_whole(key):
    """It can be encoded, and its policy has the length of its name's hash."""
    assert tpm2_public.decode_public(tpm2_public.encode_public(key.template)) == key.template
    size = new(hash_name(key.template.name_alg)).digest_size
    assert len(key.template.policy) in (0, size)
    assert key.template.name_alg in HASHES.values()


def test_handles_and_indices_are_those_of_the_reference():
    """As swtpm_setup of the distributions leaves them."""
    found = {
        name: swtpm_templates.endorsement_key(name, signs=True, decrypts=False) for name in swtpm_templates.ALGORITHMS
    }
    assert {name: (key.handle, key.certificate_index, key.template_index) for name, key in found.items()} == {
        "rsa2048": (0x81010001, 0x01C00002, 0x01C00004),
        "rsa3072": (0x8101001C, 0x01C0001C, 0x01C0001D),
        "rsa4096": (0x8101001E, 0x01C0001E, 0x01C0001F),
        "secp256r1": (0x8101000A, 0x01C0000A, 0x01C0000B),
        "secp384r1": (0x81010016, 0x01C00016, 0x01C00017),
        "secp521r1": (0x81010018, 0x01C00018, 0x01C00019),
    }


def test_a_key_that_signs_does_not_restrict_itself():
    key = swtpm_templates.endorsement_key("rsa2048", signs=True, decrypts=False).template
    assert key.attributes == 0x000400B2
    assert swtpm_templates.endorsement_key("secp384r1", signs=True, decrypts=True).template.attributes == 0x000600F2
    assert not key.attributes & ObjectAttribute.RESTRICTED


@pytest.mark.parametrize(
    ("text", "name"),
    [("RSA2048", "rsa2048"), ("ecc_nist_p384", "secp384r1"), ("Secp521r1", "secp521r1"), ("rsa", None)],
)
def test_algorithms_by_any_name(text, name):
    assert swtpm_templates.algorithm(text) == name
