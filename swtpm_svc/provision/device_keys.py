"""The other keys that a manufacturer leaves in a TPM 2.0: storage root key, initial device identity, initial
attestation key.

Sources: TCG TPM v2.0 Provisioning Guidance, 7.5.1 and 7.8 (storage root key and handles); TCG TPM 2.0 Keys for Device
Identity and Attestation, 7.3 (template H-3 of both keys, whose policies have NV indices in them that need not exist).
"""

from typing import NamedTuple

from swtpm_svc.wire.algorithms import Alg
from swtpm_svc.wire.tpm2_public import Curve, EccParameters, ObjectAttribute, Public, RsaParameters


class DeviceKey(NamedTuple):
    """`label`: for people.

    `handle`: where the key stays; `certificate_index`: where its certificate does, 0: it has none.
    """

    label: str
    handle: int
    certificate_index: int
    template: Public


_OF_THE_TPM = ObjectAttribute.FIXED_TPM | ObjectAttribute.FIXED_PARENT | ObjectAttribute.SENSITIVE_DATA_ORIGIN
_STORES = (
    _OF_THE_TPM
    | ObjectAttribute.USER_WITH_AUTH
    | ObjectAttribute.NO_DA
    | ObjectAttribute.RESTRICTED
    | ObjectAttribute.DECRYPT
)
_SIGNS = _OF_THE_TPM | ObjectAttribute.USER_WITH_AUTH | ObjectAttribute.ADMIN_WITH_POLICY | ObjectAttribute.SIGN

_STORAGE_HANDLE = 0x81000001

STORAGE_KEYS = {
    "rsa2048": DeviceKey(
        "SRK RSA 2048", _STORAGE_HANDLE, 0, Public(Alg.SHA256, _STORES, b"", RsaParameters(128, 2048), (bytes(256),))
    ),
    "ecc-p256": DeviceKey(
        "SRK NIST P-256",
        _STORAGE_HANDLE,
        0,
        Public(Alg.SHA256, _STORES, b"", EccParameters(128, Curve.P256, Alg.NULL), (bytes(32), bytes(32))),
    ),
}

#: PolicyOR of PolicySecret(TPM_RH_ENDORSEMENT), alone and with PolicyCommandCode, and of PolicyAuthorizeNV; SHA-384.
_IDEVID_POLICY = bytes.fromhex(
    "4db1aa836d0b5615df6ee53a40ef70c61c217f4303d446959259"
    "72bc927006cfa5cbdf6dc18c4dbe329b2f1542c3dd33"
)  # fmt: skip
_IAK_POLICY = bytes.fromhex(
    "129d94ebf84556652c6eef43bbb757512ac87e52be7b349ca6ce"
    "4d826f749fcf672f51716c5cbb605f313bf345aab312"
)  # fmt: skip


def _signing(label: str, handle: int, index: int, attributes: int, policy: bytes, unique: bytes) -> DeviceKey:
    parameters = EccParameters(0, Curve.P384, Alg.SHA384)
    return DeviceKey(label, handle, index, Public(Alg.SHA384, attributes, policy, parameters, (unique, unique)))


IDEVID = _signing("IDevID NIST P-384", 0x81020000, 0x01C90000, _SIGNS, _IDEVID_POLICY, b"IDEVID")
IAK = _signing("IAK NIST P-384", 0x81020001, 0x01C90100, _SIGNS | ObjectAttribute.RESTRICTED, _IAK_POLICY, b"IAK")
