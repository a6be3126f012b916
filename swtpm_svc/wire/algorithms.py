"""Algorithms by number, and by the names that people and the configuration have for them. Quick to import.

Source: TPM 2.0 Library Part 2 revision 1.59, section 6.3, "TPM_ALG_ID"; TCG Algorithm Registry for others there are.
"""

from swtpm_svc.wire.enumerations import IntEnum, unique


@unique
class Alg(IntEnum):
    """TPM_ALG_ID: those that this program names. A TPM may say others, which stay plain numbers."""

    RSA = 0x0001
    SHA1 = 0x0004
    AES = 0x0006
    SHA256 = 0x000B
    SHA384 = 0x000C
    SHA512 = 0x000D
    NULL = 0x0010
    SM3_256 = 0x0012
    RSAES = 0x0015
    RSAPSS = 0x0016
    ECDSA = 0x0018
    ECDAA = 0x001A
    ECC = 0x0023
    CFB = 0x0043


#: The hashes that a PCR bank can be of. TPM 1.2 has SHA-1 alone.
HASHES = {
    "sha1": Alg.SHA1,
    "sha256": Alg.SHA256,
    "sha384": Alg.SHA384,
    "sha512": Alg.SHA512,
    "sm3_256": Alg.SM3_256,
}
_HASH_NAMES: "dict[int, str]" = {algorithm: name for name, algorithm in HASHES.items()}

# What the configuration lets choose for a TPM 2.0.
HASH_NAMES = ("sha1", "sha256", "sha384", "sha512")
ENDORSEMENT_KEY_NAMES = ("rsa2048", "rsa3072", "rsa4096", "ecc-p256", "ecc-p384", "ecc-p521")
STORAGE_KEY_NAMES = ("rsa2048", "ecc-p256")


def hash_name(algorithm: int) -> str:
    """What a hash is called; one without a name is its number, in hexadecimal."""
    return _HASH_NAMES.get(algorithm) or f"{algorithm:#x}"


def hash_of(name: str) -> int:
    """The algorithm that `hash_name` gave the name of.

    Raises:
        ValueError: it gives no such name.
    """
    algorithm = HASHES.get(name)
    return int(name, 16) if algorithm is None else algorithm


#: Those of the registry that a command can name, by the names that it has for them.
_NAMES: "dict[int, str]" = {
    0x0001: "RSA", 0x0003: "TDES", 0x0004: "SHA1", 0x0005: "HMAC", 0x0006: "AES", 0x0007: "MGF1",
    0x0008: "KEYEDHASH", 0x000A: "XOR", 0x000B: "SHA256", 0x000C: "SHA384", 0x000D: "SHA512", 0x0010: "NULL",
    0x0012: "SM3_256", 0x0013: "SM4", 0x0014: "RSASSA", 0x0015: "RSAES", 0x0016: "RSAPSS", 0x0017: "OAEP",
    0x0018: "ECDSA", 0x0019: "ECDH", 0x001A: "ECDAA", 0x001B: "SM2", 0x001C: "ECSCHNORR", 0x001D: "ECMQV",
    0x0020: "KDF1_SP800_56A", 0x0021: "KDF2", 0x0022: "KDF1_SP800_108", 0x0023: "ECC", 0x0025: "SYMCIPHER",
    0x0026: "CAMELLIA", 0x0027: "SHA3_256", 0x0028: "SHA3_384", 0x0029: "SHA3_512", 0x003F: "CMAC",
    0x0040: "CTR", 0x0041: "OFB", 0x0042: "CBC", 0x0043: "CFB", 0x0044: "ECB",
}  # fmt: skip


def registered_name(algorithm: int) -> str:
    """Any algorithm's, by the registry; one without a name is its number, in hexadecimal."""
    return _NAMES.get(algorithm) or f"{algorithm:#06x}"
