"""A public key as lines for a person: those that getpubek has printed since the first TPM tools."""

from swtpm_svc.wire.public_key import EccPublicKey, PublicKey, RsaPublicKey
from swtpm_svc.wire.tpm2_public import Curve

_BYTES_A_LINE = 16


def key_text(key: PublicKey, output: str) -> str:
    """The lines of the classic tool, and for a curve the like. `output`: the file that was written."""
    lines = [f"{output} successfully written"]
    if isinstance(key, RsaPublicKey):
        lines += [f"Pubek keylength {len(key.modulus)}", "Modulus:", *_hex_lines(key.modulus)]
    else:
        lines += [f"Pubek curve {curve_name(key)}", "X:", *_hex_lines(key.x), "Y:", *_hex_lines(key.y)]
    return "\n".join(lines)


def curve_name(key: EccPublicKey) -> str:
    return f"NIST P-{Curve(key.curve).name[1:]}"  # subject_public_key.to_pem has refused all others


def _hex_lines(data: bytes) -> "list[str]":
    return [data[start : start + _BYTES_A_LINE].hex(" ").upper() for start in range(0, len(data), _BYTES_A_LINE)]
