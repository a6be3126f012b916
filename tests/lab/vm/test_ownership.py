"""The classic session of a TPM 1.2, from the hardware initialisation to the endorsement key in a file, for two
instances."""

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from services import run, systemctl

pytestmark = pytest.mark.needs("systemd", "root", "accounts")


def modulus_of(name, folder):
    """The classic session with one TPM; the modulus as printed, which is that of the file."""
    folder.mkdir()
    password = folder / "password"
    password.write_bytes(b"owner of " + name.encode())
    password.chmod(0o600)
    run("vtpmctl", "init", name)
    run("vtpmctl", "createek", name)
    run("vtpmctl", "takeown", name, "--owner-password-file", str(password))
    lines = run("vtpmctl", "getpubek", name, "--owner-password-file", str(password), cwd=folder).stdout.splitlines()
    assert lines[:3] == ["pubek.pem successfully written", "Pubek keylength 256", "Modulus:"]
    assert [len(line.split()) for line in lines[3:]] == [16] * 16
    modulus = int("".join(lines[3:]).replace(" ", ""), 16)
    assert load_pem_public_key((folder / "pubek.pem").read_bytes()).public_numbers().n == modulus
    return modulus


def test_two_instances_have_two_endorsement_keys(configure, tmp_path):
    names = ("classic0", "classic1")
    for name in names:
        configure(name, '[tpm]\nversion = "1.2"\n')
    systemctl("start", *names)
    first, second = (modulus_of(name, tmp_path / name) for name in names)
    assert first != second
    identity = run("vtpmctl", "identity", names[0]).stdout
    assert "endorsement key rsa2048" in identity
