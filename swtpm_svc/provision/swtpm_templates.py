"""The keys that swtpm_setup leaves in a TPM 2.0: for each algorithm the template, the handle, the NV indices.

Handles and indices are those that the distribution's leaves; templates are provision/ek_templates.py's, where those of
keys that sign differ as swtpm_setup(8) says (--allow-signing, --decryption), and those of TCG TPM 2.0 Keys for Device
Identity and Attestation, 7.3.4 (H-1 to H-5).
"""

from typing import NamedTuple, Optional

from swtpm_svc.provision.device_keys import IAK, IDEVID
from swtpm_svc.provision.ek_templates import ENDORSEMENT_KEYS
from swtpm_svc.wire.algorithms import Alg
from swtpm_svc.wire.tpm2_public import Curve, EccParameters, KeyParameters, ObjectAttribute, Public, RsaParameters


class Key(NamedTuple):
    """`label`: as messages have it; `name`: as files have it. Of an NV index 0: there is none."""

    label: str
    name: str
    handle: int
    certificate_index: int
    template_index: int
    template: Public


#: swtpm_setup's names of algorithms, and all that they can be called.
ALGORITHMS = ("rsa2048", "rsa3072", "rsa4096", "secp256r1", "secp384r1", "secp521r1")
_ALIASES = {"ecc_nist_p256": "secp256r1", "ecc_nist_p384": "secp384r1", "ecc_nist_p521": "secp521r1"}
#: By algorithm: our name of the endorsement key's template, and the number in its handle and NV indices.
_ENDORSEMENT = {
    "rsa2048": ("rsa2048", 0x01, 0x02, 0x04),
    "rsa3072": ("rsa3072", 0x1C, 0x1C, 0x1D),
    "rsa4096": ("rsa4096", 0x1E, 0x1E, 0x1F),
    "secp256r1": ("ecc-p256", 0x0A, 0x0A, 0x0B),
    "secp384r1": ("ecc-p384", 0x16, 0x16, 0x17),
    "secp521r1": ("ecc-p521", 0x18, 0x18, 0x19),
}
#: swtpm 0.10 has one elliptic curve, and calls it so.
_LABELS = {"secp384r1": "ECC"}
_IAK_INDEX, _IDEVID_INDEX = 0x01C90100, 0x01C90200

_STORES = (
    ObjectAttribute.FIXED_TPM
    | ObjectAttribute.FIXED_PARENT
    | ObjectAttribute.SENSITIVE_DATA_ORIGIN
    | ObjectAttribute.USER_WITH_AUTH
    | ObjectAttribute.NO_DA
    | ObjectAttribute.RESTRICTED
    | ObjectAttribute.DECRYPT
)
_STORAGE_HANDLE = 0x81000001
#: As in provision/device_keys.py, which has those of SHA-384.
_POLICIES: "dict[int, tuple[bytes, bytes]]" = {
    Alg.SHA256: (
        bytes.fromhex("ad6b3a2284fd698a0710bf5cc1b9bdf15e2532e3f601fa4b93a6a8fa8de579ea"),
        bytes.fromhex("5437182326e414fca797d5f174615a1641f61255797c3a2b22c21d120b2d1e07"),
    ),
    Alg.SHA384: (IDEVID.template.policy, IAK.template.policy),
    Alg.SHA512: (
        bytes.fromhex(
            "7dd7500fd6c1b94f97a6af910da147301ef28f662fee06f225a4ccadda3b4e6b"
            "38e66b2f3ad5dee1a0503cd2daedb1e68cfe4f84b03a8cd22bb6a976f071a72f"
        ),
        bytes.fromhex(
            "8060d1fb31716a29e48a6e5fece088bcfc1b278fc162255e81c3eca3544cd44a"
            "f94410c3715d561cccd9e39a6cb2646d43535bb54ea88710deb5f7836bd9b586"
        ),
    ),
}
#: Of a key for device identity or attestation: the hash of its name and signatures, and a size in bits or a curve.
_SIGNING: "dict[str, tuple[int, int]]" = {
    "rsa2048": (Alg.SHA256, 2048),
    "rsa3072": (Alg.SHA384, 3072),
    "rsa4096": (Alg.SHA512, 4096),
    "secp256r1": (Alg.SHA256, Curve.P256),
    "secp384r1": (Alg.SHA384, Curve.P384),
    "secp521r1": (Alg.SHA512, Curve.P521),
}


def algorithm(text: str) -> Optional[str]:
    """The algorithm that a person means; None: there is none of that name."""
    text = text.lower()
    text = _ALIASES.get(text, text)
    return text if text in ALGORITHMS else None


def _label(name: str) -> str:
    return f"RSA {name[3:]}" if name.startswith("rsa") else _LABELS.get(name, name)


def endorsement_key(name: str, *, signs: bool, decrypts: bool) -> Key:
    """The endorsement key of one of ALGORITHMS; the standard one, or one that signs, or does both."""
    ours, handle, certificate, template_index = _ENDORSEMENT[name]
    template = ENDORSEMENT_KEYS[ours].template
    if signs:
        attributes = template.attributes & ~(ObjectAttribute.RESTRICTED | ObjectAttribute.DECRYPT)
        attributes |= ObjectAttribute.SIGN | (ObjectAttribute.DECRYPT if decrypts else 0)
        template = template._replace(attributes=attributes, parameters=template.parameters._replace(aes_bits=0))
    indices = 0x01C00000 + certificate, 0x01C00000 + template_index if signs else 0
    return Key(_label(name), name, 0x81010000 + handle, *indices, template)


def storage_key(name: str) -> Key:
    """The storage primary key: one of rsa2048, rsa3072, rsa4096, secp384r1."""
    parameters: KeyParameters
    unique: tuple[bytes, ...]
    if name == "secp384r1":
        parameters, unique, hashed = EccParameters(256, Curve.P384), (bytes(48), bytes(48)), Alg.SHA384
    else:
        bits = int(name[3:])
        strong = bits > 2048
        parameters, unique = RsaParameters(256 if strong else 128, bits), (bytes(bits // 8),)
        hashed = Alg.SHA384 if strong else Alg.SHA256
    return Key(_label(name), name, _STORAGE_HANDLE, 0, 0, Public(hashed, _STORES, b"", parameters, unique))


def attestation_key(name: str) -> Key:
    """The initial attestation key (IAK)."""
    return _signing(name, IAK.handle, _IAK_INDEX, IAK.template.attributes, 1, b"IAK")


def identity_key(name: str) -> Key:
    """The initial device identity (IDevID)."""
    return _signing(name, IDEVID.handle, _IDEVID_INDEX, IDEVID.template.attributes, 0, b"IDEVID")


def _signing(name: str, handle: int, index: int, attributes: int, which: int, unique: bytes) -> Key:
    hashed, size = _SIGNING[name]
    is_rsa = name.startswith("rsa")
    parameters: KeyParameters = (
        RsaParameters(0, size, pss_hash=hashed) if is_rsa else EccParameters(0, size, ecdsa_hash=hashed)
    )
    template = Public(
        hashed, attributes, _POLICIES[hashed][which], parameters, (unique,) if is_rsa else (unique, unique)
    )
    return Key(_label(name), name, handle, index, 0, template)
