"""Public keys as values, the same for both versions of the TPM."""

from swtpm_svc.wire.hints import Union
from swtpm_svc.wire.values import NamedTuple

#: The exponent that a TPM means by zero, or by none at all.
DEFAULT_EXPONENT = 65537


class RsaPublicKey(NamedTuple):
    """`modulus`: big-endian, as many bytes as the key has."""

    modulus: bytes
    exponent: int = DEFAULT_EXPONENT

    @property
    def bits(self) -> int:
        return len(self.modulus) * 8


class EccPublicKey(NamedTuple):
    """`curve`: TPM_ECC_CURVE (wire.tpm2_public.Curve); `x` and `y`: big-endian."""

    curve: int
    x: bytes
    y: bytes


PublicKey = Union[RsaPublicKey, EccPublicKey]
