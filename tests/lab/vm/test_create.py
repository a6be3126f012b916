"""TPMs made as a manufacturer does, on a machine with systemd: by `vtpmctl create`, and at a first start by [provision]."""

import os
import shutil

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from services import journal, run, show, systemctl, tpm2

pytestmark = pytest.mark.needs("systemd", "root", "accounts", "tpm2-tools")

#: Where the endorsement keys and their certificates are: RSA 2048, NIST P-384 (TCG EK Credential Profile).
KEYS = (("0x81010001", "0x1c00002"), ("0x81010016", "0x1c00016"))


def assert_has_certified_keys(name, tmp_path):
    for handle, index in KEYS:
        tpm2("tpm2_readpublic", "-Q", "-c", handle, "-f", "pem", "-o", str(tmp_path / "key.pem"), device=name)
        tpm2("tpm2_nvread", "-C", index, "-o", str(tmp_path / "certificate"), index, device=name)
        key = x509.load_der_x509_certificate((tmp_path / "certificate").read_bytes()).public_key()
        assert key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo) == (tmp_path / "key.pem").read_bytes()


@pytest.fixture
def made():
    """The name of an instance that a test makes a configuration for."""
    yield "made"
    systemctl("stop", "made", expect=None)
    systemctl("reset-failed", "made", expect=None)
    os.unlink("/etc/vtpm.d/made.toml")
    shutil.rmtree("/var/lib/vtpm/made")


def test_what_create_makes_is_served(made, tmp_path):
    run("vtpmctl", "create", made)
    systemctl("start", made)
    assert_has_certified_keys(made, tmp_path)
    again = run("vtpmctl", "create", made, expect=None)
    assert again.returncode != 0
    assert "  remedy: " in again.stderr


def test_a_first_start_makes_the_tpm_and_a_second_does_not(configure, tmp_path):
    configure("first", '[tpm]\nstartup = "clear"\n[provision]\nenabled = true\n')
    systemctl("start", "first")
    assert_has_certified_keys("first", tmp_path)
    assert [entry["MESSAGE"] for entry in journal("first") if "a new TPM 2.0 was made" in entry["MESSAGE"]]
    key = (tmp_path / "key.pem").read_bytes()
    systemctl("stop", "first")
    systemctl("start", "first")
    assert_has_certified_keys("first", tmp_path)
    assert (tmp_path / "key.pem").read_bytes() == key


def test_without_a_usable_ca_nothing_is_made(configure):
    configure("none", '[tpm]\nstartup = "clear"\n[provision]\nenabled = true\n')
    os.rename("/var/lib/vtpm-ca/current", "/var/lib/vtpm-ca/aside")
    os.mkdir("/var/lib/vtpm-ca/current", 0o700)
    try:
        systemctl("start", "none", expect=None)
        assert show("none", "ActiveState") == "failed"
        assert any(entry.get("VTPM_ERROR") == "ca-unusable" for entry in journal("none"))
        assert not os.path.exists("/var/lib/vtpm/none/tpm2-00.permall")
    finally:
        os.rmdir("/var/lib/vtpm-ca/current")
        os.rename("/var/lib/vtpm-ca/aside", "/var/lib/vtpm-ca/current")
