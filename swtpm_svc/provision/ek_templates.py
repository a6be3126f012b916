"""The endorsement keys of a TPM 2.0: for each algorithm the template, the handle where it stays, and the NV indices.

Sources: TCG EK Credential Profile for TPM Family 2.0, version 2.3 (templates L-1 and L-2 of the low range, H-3 to H-7
of the high range, and their NV indices); TCG TPM 2.0 Provisioning Guidance (the first two handles). The handles of the
high range follow its NV indices, as the distribution's swtpm_setup has it for P-384.

A template of the low range lets a policy authorize all of the key's use: PolicySecret of the endorsement hierarchy. One
of the high range lets its (empty) password do that too, and has a policy that the hierarchy's administrator can
replace.
"""

from swtpm_svc.wire.algorithms import Alg
from swtpm_svc.wire.tpm2_public import Curve, EccParameters, KeyParameters, ObjectAttribute, Public, RsaParameters
from swtpm_svc.wire.values import NamedTuple

_LOW_RANGE = (
    ObjectAttribute.FIXED_TPM
    | ObjectAttribute.FIXED_PARENT
    | ObjectAttribute.SENSITIVE_DATA_ORIGIN
    | ObjectAttribute.ADMIN_WITH_POLICY
    | ObjectAttribute.RESTRICTED
    | ObjectAttribute.DECRYPT
)
_HIGH_RANGE = _LOW_RANGE | ObjectAttribute.USER_WITH_AUTH

#: PolicySecret(TPM_RH_ENDORSEMENT), SHA-256.
_POLICY_A = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
#: PolicyOR of it and of PolicyAuthorizeNV with the index 0x01C07F02 (SHA-384) or 0x01C07F03 (SHA-512).
_POLICY_B_SHA384 = bytes.fromhex(
    "b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12"
)
_POLICY_B_SHA512 = bytes.fromhex(
    "b8221ca69e8550a4914de3faa6a18c072cc01208073a928d5d66d59ef79e49a4"
    "29c41a6b269571d57edb25fbdb1838425608b413cd616a5f6db5b6071af99bea"
)


class EndorsementKey(NamedTuple):
    """`label`: for people. `handle`: where the key stays; `certificate_index`: where its certificate does."""

    label: str
    handle: int
    certificate_index: int
    template: Public


def _high(label: str, number: int, name_alg: int, policy: bytes, parameters: KeyParameters) -> EndorsementKey:
    unique = (b"",) if isinstance(parameters, RsaParameters) else (b"", b"")
    template = Public(name_alg, _HIGH_RANGE, policy, parameters, unique)
    return EndorsementKey(label, 0x81010000 + number, 0x01C00000 + number, template)


ENDORSEMENT_KEYS = {
    "rsa2048": EndorsementKey(
        "RSA 2048",
        0x81010001,
        0x01C00002,
        Public(Alg.SHA256, _LOW_RANGE, _POLICY_A, RsaParameters(128, 2048), (bytes(256),)),
    ),
    "rsa3072": _high("RSA 3072", 0x1C, Alg.SHA384, _POLICY_B_SHA384, RsaParameters(256, 3072)),
    "rsa4096": _high("RSA 4096", 0x1E, Alg.SHA384, _POLICY_B_SHA384, RsaParameters(256, 4096)),
    "ecc-p256": EndorsementKey(
        "NIST P-256",
        0x81010002,
        0x01C0000A,
        Public(Alg.SHA256, _LOW_RANGE, _POLICY_A, EccParameters(128, Curve.P256), (bytes(32), bytes(32))),
    ),
    "ecc-p384": _high("NIST P-384", 0x16, Alg.SHA384, _POLICY_B_SHA384, EccParameters(256, Curve.P384)),
    "ecc-p521": _high("NIST P-521", 0x18, Alg.SHA512, _POLICY_B_SHA512, EccParameters(256, Curve.P521)),
}
