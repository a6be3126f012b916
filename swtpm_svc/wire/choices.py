"""The names of what a manufacturer can put into a TPM 2.0, for the configuration: no more than names, and quick to
import."""

ENDORSEMENT_KEY_NAMES = ("rsa2048", "rsa3072", "rsa4096", "ecc-p256", "ecc-p384", "ecc-p521")
STORAGE_KEY_NAMES = ("rsa2048", "ecc-p256")
HASH_NAMES = ("sha1", "sha256", "sha384", "sha512")
