"""TPMs made as a manufacturer does, on a machine with systemd: by `vtpmctl create`, and at a first start by
[provision]."""

import json
import os
import pwd
import shutil
import stat

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
    shutil.rmtree("/var/lib/vtpm-identity/made")


def test_what_create_makes_is_served(made, tmp_path):
    run("vtpmctl", "create", made)
    systemctl("start", made)
    assert_has_certified_keys(made, tmp_path)
    again = run("vtpmctl", "create", made, expect=None)
    assert again.returncode != 0
    assert "  remedy: " in again.stderr


NOTICE = "312890bbb9f7428d9c8d313e541cea59"


@pytest.mark.parametrize("provision", ["false", "true"])
def test_a_tpm_that_is_lost_with_its_directory_is_missed(configure, provision):
    """The commonest accident: the next start makes another TPM, and what was bound to the one before is locked out."""
    name = f"lost-{provision}"
    configure(name, f'[tpm]\nstartup = "clear"\n[provision]\nenabled = {provision}\n')
    systemctl("start", name)
    if provision == "false":
        run("vtpmctl", "createek", name)
    was = run("vtpmctl", "ek", name, "--fingerprint").stdout.split()[0].removeprefix("sha256:")
    systemctl("stop", name)
    record = f"/var/lib/vtpm-identity/{name}"
    found = os.stat(record)
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (os.stat(f"/var/lib/vtpm/{name}").st_uid, 0o700)
    assert not os.path.exists(f"/var/lib/vtpm/{name}/identity.json")
    systemctl("start", name)
    systemctl("stop", name)
    assert journal(name, f"MESSAGE_ID={NOTICE}") == []
    shutil.rmtree(f"/var/lib/vtpm/{name}")
    systemctl("start", name)
    shown = json.loads(run("vtpmctl", "--json", "identity", name).stdout)["record"]["change"]
    assert shown["was"]["rsa2048"] == was
    assert shown["is"]["rsa2048"] != was
    assert "changed: it is another TPM than before" in run("vtpmctl", "identity", name).stdout
    (entry,) = journal(name, f"MESSAGE_ID={NOTICE}")
    assert f"the endorsement key rsa2048 was sha256:{was}" in entry["MESSAGE"]
    assert entry["PRIORITY"] == "5"
    systemctl("restart", name)
    assert len(journal(name, f"MESSAGE_ID={NOTICE}")) == 1


def test_a_record_beside_the_state_is_taken_over(configure):
    """As a daemon keeps it that is run by hand."""
    configure("moved", '[tpm]\nstartup = "clear"\n')
    systemctl("start", "moved")
    run("vtpmctl", "createek", "moved")
    systemctl("stop", "moved")
    record = "/var/lib/vtpm-identity/moved/identity.json"
    with open(record, encoding="utf-8") as file:
        before = json.load(file)
    os.rename(record, "/var/lib/vtpm/moved/identity.json")
    systemctl("start", "moved")
    with open(record, encoding="utf-8") as file:
        assert json.load(file) == before
    assert not os.path.exists("/var/lib/vtpm/moved/identity.json")
    assert journal("moved", f"MESSAGE_ID={NOTICE}") == []


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


@pytest.mark.parametrize("way", ["provision", "create"])
def test_a_file_system_of_its_own_gets_its_tpm(configure, tmp_path, way):
    """Mounted where the state is to be; root's and with lost+found, as mkfs leaves an ext4."""
    name = f"mounted-{way}"
    place = f"/var/lib/vtpm/{name}"
    os.makedirs(place, exist_ok=True)
    run("mount", "-t", "tmpfs", "-o", "mode=0755", "none", place)
    os.mkdir(f"{place}/lost+found", 0o700)
    run("restorecon", "-R", place, expect=None)
    try:
        if way == "provision":
            configure(name, '[tpm]\nstartup = "clear"\n[provision]\nenabled = true\n')
        else:
            run("vtpmctl", "create", name)
        systemctl("start", name)
        assert_has_certified_keys(name, tmp_path)
        systemctl("stop", name)
        assert {"lost+found", "tpm2-00.permall"} <= set(os.listdir(place))
        found = os.stat(place)
        assert (pwd.getpwuid(found.st_uid).pw_name, stat.S_IMODE(found.st_mode)) == ("vtpm", 0o700)
    finally:
        systemctl("stop", name, expect=None)
        run("umount", place)
        if way == "create":
            os.unlink(f"/etc/vtpm.d/{name}.toml")


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
