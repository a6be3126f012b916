"""What provisioning knows by heart is what the specifications' formulas give, and refusals are clear."""

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from swtpm_svc.errors import TABLE, Code, VtpmError
from swtpm_svc.provision import subject_public_key
from swtpm_svc.provision.ek_templates import ENDORSEMENT_KEYS
from swtpm_svc.provision.refused import RefusedByTpm
from swtpm_svc.provision.tpm12_owner import secret_of
from swtpm_svc.provision.tpm12_session import Session, hmac_sha1
from swtpm_svc.wire import return_codes
from swtpm_svc.wire.algorithms import Alg
from swtpm_svc.wire.public_key import EccPublicKey, RsaPublicKey
from swtpm_svc.wire.results import TpmRc, TpmResult
from swtpm_svc.wire.tpm2_public import Curve, RsaParameters

h = bytes.fromhex
HASHES = {Alg.SHA256: ("sha256", 0x01C07F01), Alg.SHA384: ("sha384", 0x01C07F02), Alg.SHA512: ("sha512", 0x01C07F03)}


def policies(algorithm):
    """PolicyA and PolicyB of the EK Credential Profile, by the formulas of TPM 2.0 Part 3 for the policy commands.

    A: PolicySecret(TPM_RH_ENDORSEMENT). C: PolicyAuthorizeNV of an index that only A may write, and that has room for a
    policy. B: PolicyOR(A, C).
    """
    name, nv_index = HASHES[algorithm]

    def digest(*parts):
        return hashlib.new(name, b"".join(parts)).digest()

    size = hashlib.new(name).digest_size
    a = digest(digest(bytes(size), h("00000151 4000000b")))
    attributes = 0x220F1008
    public = nv_index.to_bytes(4, "big") + algorithm.to_bytes(2, "big") + attributes.to_bytes(4, "big")
    public += size.to_bytes(2, "big") + a + (size + 2).to_bytes(2, "big")
    c = digest(bytes(size), h("00000192"), algorithm.to_bytes(2, "big"), digest(public))
    return a, digest(bytes(size), h("00000171"), a, c)


@pytest.mark.parametrize("key", ENDORSEMENT_KEYS.values(), ids=ENDORSEMENT_KEYS)
def test_a_template_has_the_policy_of_its_range(key):
    in_low_range = key.certificate_index in (0x01C00002, 0x01C0000A)
    policy_a, policy_b = policies(key.template.name_alg)
    assert key.template.policy == (policy_a if in_low_range else policy_b)
    assert key.template.attributes == (0x000300B2 if in_low_range else 0x000300F2)


def test_keys_have_places_of_their_own():
    assert len({key.handle for key in ENDORSEMENT_KEYS.values()}) == len(ENDORSEMENT_KEYS)
    assert ENDORSEMENT_KEYS["rsa2048"].handle == 0x81010001
    assert ENDORSEMENT_KEYS["ecc-p384"].handle == 0x81010016
    for key in ENDORSEMENT_KEYS.values():
        assert len(key.template.unique) == (1 if isinstance(key.template.parameters, RsaParameters) else 2)


@pytest.mark.parametrize(
    "curve", [(Curve.P256, ec.SECP256R1()), (Curve.P384, ec.SECP384R1()), (Curve.P521, ec.SECP521R1())]
)
def test_a_fingerprint_is_that_of_what_cryptography_writes(curve):
    """Of an EC key with short coordinates too, which TPMs are free to give without their leading zeros."""
    number, algorithm = curve
    for secret in (1, 2, 3, 0x5EC2E7):
        public = ec.derive_private_key(secret, algorithm).public_key().public_numbers()
        x, y = (value.to_bytes((value.bit_length() + 7) // 8, "big") for value in (public.x, public.y))
        key = EccPublicKey(number, x, y)
        assert subject_public_key.fingerprint(key) == hashlib.sha256(subject_public_key.to_der(key)).hexdigest()


@pytest.mark.parametrize("bits", [1024, 2048, 3072])
@pytest.mark.parametrize("exponent", [3, 65537])
def test_a_fingerprint_of_an_rsa_key_is_that_of_what_cryptography_writes(bits, exponent):
    for modulus in ((1 << bits) - 1, (1 << bits - 1) + 1):
        key = RsaPublicKey(modulus.to_bytes(bits // 8, "big"), exponent)
        assert subject_public_key.fingerprint(key) == hashlib.sha256(subject_public_key.to_der(key)).hexdigest()


def test_a_curve_that_is_not_known_has_no_fingerprint():
    with pytest.raises(VtpmError, match="0x0010"):
        subject_public_key.fingerprint(EccPublicKey(0x0010, b"\1", b"\2"))


@pytest.mark.parametrize(
    ("version", "command", "rc", "code", "words"),
    [
        ("1.2", 0x78, 0x26, Code.TPM_NOT_RUNNING, "TPM_CreateEndorsementKeyPair gave 0x26 (TPM_INVALID_POSTINIT: "),
        ("1.2", 0x7C, 0x01, Code.AUTH_FAILED, "TPM_ReadPubek gave 0x1 (TPM_AUTHFAIL: "),
        ("1.2", 0x7C, 0x7FF, Code.TPM_REFUSED, "TPM_ReadPubek gave 0x7ff ("),
        ("2.0", 0x131, 0x9A2, Code.AUTH_FAILED, "TPM2_CreatePrimary gave 0x9a2 (TPM_RC_BAD_AUTH: "),
        ("2.0", 0x131, 0x98E, Code.AUTH_FAILED, "TPM2_CreatePrimary gave 0x98e (TPM_RC_AUTH_FAIL: "),
        ("2.0", 0x131, 0x100, Code.TPM_NOT_RUNNING, "TPM2_CreatePrimary gave 0x100 (TPM_RC_INITIALIZE: "),
        ("2.0", 0x131, 0x921, Code.AUTH_FAILED, "TPM2_CreatePrimary gave 0x921 (TPM_RC_LOCKOUT: "),
    ],
)
def test_a_refusal_is_in_words(version, command, rc, code, words):
    error = RefusedByTpm(version, command, rc)
    assert error.code is code
    assert str(error).startswith(words)
    assert error.remedy


def test_every_return_code_gives_a_refusal_with_a_remedy():
    for version in ("1.2", "2.0"):
        for rc in range(1, 0x1000):
            error = RefusedByTpm(version, 0x7C, rc)
            assert error.remedy
            assert return_codes.describe(version, rc) in str(error)
            assert error.code in TABLE


def test_the_reason_is_the_code_without_what_it_is_about():
    assert RefusedByTpm("2.0", 0x173, 0x18B).reason == TpmRc.HANDLE
    assert RefusedByTpm("2.0", 0x12A, 0x14C).reason == 0x14C
    assert RefusedByTpm("1.2", 0x0D, 0x803).reason == TpmResult.DEFEND_LOCK_RUNNING


def test_the_secret_of_a_password_is_its_sha1():
    """As tpm-tools has it; FIPS 180's example."""
    assert secret_of(b"abc") == h("a9993e364706816aba3e25717850c26c9cd0d89d")


def test_hmac():
    """RFC 2202, test case 2."""
    assert hmac_sha1(b"Jefe", b"what do ya want ", b"for nothing?") == h("effcdf6ae5eb2fa2d27416d5f184df9c259a7c79")


def test_a_session_proves_and_asks_for_proof():
    secret, nonce_even, parameters = b"s" * 20, b"e" * 20, b"parameters"
    session = Session(0x02000001, nonce_even, secret)
    trailer = session.authorize(0x0D, parameters)
    handle, nonce_odd, continues, auth = trailer[:4], trailer[4:24], trailer[24:25], trailer[25:]
    assert (handle, continues) == (h("02000001"), b"\1")
    digest = hashlib.sha1(h("0000000d") + parameters).digest()
    assert auth == hmac_sha1(secret, digest + nonce_even + nonce_odd + b"\1")

    rolled, out = b"E" * 20, b"out"
    out_digest = hashlib.sha1(h("00000000 0000000d") + out).digest()
    response = out + rolled + b"\0" + hmac_sha1(secret, out_digest + rolled + nonce_odd + b"\0")
    assert session.verify(0x0D, response) == out
    assert not session.is_open  # the TPM has said that it does not continue
    next_trailer = session.authorize(0x0D, parameters)
    expected = hmac_sha1(
        secret, hashlib.sha1(h("0000000d") + parameters).digest() + rolled + next_trailer[4:24] + b"\1"
    )
    assert next_trailer[25:] == expected
    assert next_trailer[4:24] != nonce_odd
