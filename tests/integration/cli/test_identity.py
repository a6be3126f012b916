"""vtpmctl ek and identity: on TPMs that swtpm_setup has made, and on such as our CA certifies. openssl and tpm2-tools
judge."""

import json
import os
import pty
import random
import re
import shutil
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from daemon_process import DaemonProcess

from swtpm_svc.cli.vtpmctl import entry
from swtpm_svc.cli.vtpmctl.host import Places
from swtpm_svc.provision import ca, certificates, nv_certificates
from swtpm_svc.provision.certificates import PlatformFacts, TpmFacts
from swtpm_svc.provision.ek_templates import ENDORSEMENT_KEYS
from swtpm_svc.provision.ownership import connect
from swtpm_svc.wire.tpm2 import NvAttribute, NvPublic
from swtpm_svc.wire.tpm12 import NvPermission

PROGRAM = [sys.executable, "-c", "import sys; from swtpm_svc.cli.vtpmctl.entry import main; sys.exit(main())"]
PASSWORD = "ownerpass"
FACTS = TpmFacts("id:00001014", "swtpm", "id:20191023", "2.0", 0, 164)
#: As the EK Credential Profile asks (2.2.1.4), but that the platform may remove it.
CERTIFICATE_INDEX = (
    NvAttribute.PPWRITE
    | NvAttribute.PPREAD
    | NvAttribute.OWNERREAD
    | NvAttribute.AUTHREAD
    | NvAttribute.NO_DA
    | NvAttribute.PLATFORMCREATE
)


def run(*words, data=b""):
    return subprocess.run([str(word) for word in words], input=data, check=True, capture_output=True, timeout=60).stdout


class Made:
    """What swtpm_setup has made: a state directory, and the certificates of swtpm-localca that signed."""

    def __init__(self, folder, version, *options):
        self.state, self.version, authority = folder / "state", version, folder / "ca"
        self.root, self.issuer = authority / "swtpm-localca-rootca-cert.pem", authority / "issuercert.pem"
        self.state.mkdir()
        authority.mkdir()
        platform = "--platform-manufacturer Maker\n--platform-model Lab\n--platform-version 7.2\n"
        (folder / "localca.options").write_text(platform)
        (folder / "localca.conf").write_text(
            f"statedir = {authority}\nsigningkey = {authority}/signkey.pem\n"
            f"issuercert = {self.issuer}\ncertserial = {authority}/certserial\n"
        )
        (folder / "setup.conf").write_text(
            "create_certs_tool = swtpm_localca\n"
            f"create_certs_tool_config = {folder}/localca.conf\ncreate_certs_tool_options = {folder}/localca.options\n"
        )
        words = ["swtpm_setup", "--config", folder / "setup.conf", "--tpm-state", self.state, "--lock-nvram"]
        run(*words, "--create-ek-cert", "--create-platform-cert", *(["--tpm2"] if version == "2.0" else []), *options)


@pytest.fixture(scope="session")
def tpm_2_0(tmp_path_factory):
    return Made(tmp_path_factory.mktemp("made-2.0"), "2.0")


@pytest.fixture(scope="session")
def tpm_1_2(tmp_path_factory):
    return Made(tmp_path_factory.mktemp("made-1.2"), "1.2", "--take-ownership", "--ownerpass", PASSWORD)


class Session:
    """An instance, and vtpmctl on it."""

    def __init__(self, tmp_path, capsys, version="2.0", made=None):
        self.folder, self.capsys = tmp_path / "lab", capsys
        self.folder.mkdir()
        if made is not None:
            shutil.copytree(made.state, self.folder / "lab.state")
        self.daemon = DaemonProcess(self.folder, "lab", tpm=f'version = "{version}"').start()
        self.places = Places(config=str(self.folder), run=str(tmp_path))
        self.password_file = self.folder / "owner"
        self.password_file.write_text(PASSWORD)
        self.password = ("--owner-password-file", self.password_file)

    def run(self, command, *words):
        status = entry.main([command, "lab", *map(str, words)], self.places)
        out, err = self.capsys.readouterr()
        return status, out, err

    def done(self, *words):
        status, out, err = self.run(*words)
        assert (status, err) == (0, "")
        return out

    def refused(self, status, *words):
        found, out, err = self.run(*words)
        assert (found, out) == (status, "")
        assert err.startswith("vtpmctl: ")
        assert "\n  remedy: " in err
        return err

    def identity(self, *words):
        return json.loads(self.done("identity", "--json", *words))

    def certificates(self, *words):
        return {found["role"]: found for found in self.identity(*words)["certificates"]}

    def tool(self, *words):
        environment = {**os.environ, "TPM2TOOLS_TCTI": f"swtpm:path={self.daemon.data}", "TSS2_LOG": "all+NONE"}
        subprocess.run(
            [str(word) for word in words], cwd=self.folder, env=environment, check=True, capture_output=True, timeout=60
        )

    def write_nv(self, index, data, attributes=CERTIFICATE_INDEX, size=None):
        with self.daemon.connect() as client:

            def execute(command):
                client.sendall(command)
                return client.recv(4096)

            tpm = connect(execute)
            tpm.nv_define_space(NvPublic(index, attributes, len(data) if size is None else size))
            if data:
                tpm.nv_write(index, data)


@pytest.fixture
def session(tmp_path, capsys):
    made = []

    def make(**kw):
        made.append(Session(tmp_path, capsys, **kw))
        return made[-1]

    yield make
    for one in made:
        one.daemon.stop()


def fingerprint_by_openssl(pem):
    return run("openssl", "sha256", "-r", data=run("openssl", "pkey", "-pubin", "-in", pem, "-outform", "DER"))[
        :64
    ].decode()


# --- TPMs that swtpm_setup has made
# ------------------------------------------------------------------------------------------


@pytest.mark.needs("swtpm_setup", "certtool", "tpm2-tools", "openssl")
@pytest.mark.parametrize("algorithm", ["rsa2048", "ecc-p384"])
def test_key_and_certificate_are_what_tpm2_tools_and_openssl_find(session, tpm_2_0, algorithm):
    one, key = session(made=tpm_2_0), ENDORSEMENT_KEYS[algorithm]
    theirs = one.folder / "theirs.pem"
    one.tool("tpm2_readpublic", "-c", hex(key.handle), "-f", "pem", "-o", theirs)
    assert (
        one.done("ek", "--algorithm", algorithm)
        == theirs.read_text()
        == one.done("ek", "--pem", "--algorithm", algorithm)
    )
    expected = fingerprint_by_openssl(theirs)
    line = one.done("ek", "--fingerprint", "--algorithm", algorithm)
    assert line == f"sha256:{expected}  endorsement key {key.label}, its SubjectPublicKeyInfo\n"
    ours = one.folder / "ours"
    assert one.done("ek", "--der", "--output", ours, "--algorithm", algorithm) == f"{ours} successfully written\n"
    assert ours.read_bytes() == run("openssl", "pkey", "-pubin", "-in", theirs, "-outform", "DER")

    one.tool("tpm2_nvread", hex(key.certificate_index), "-o", "nv.der")
    one.done("ek", "--cert", "--der", "--output", ours, "--algorithm", algorithm)
    assert ours.read_bytes() == (one.folder / "nv.der").read_bytes()
    one.done("ek", "--cert", "--output", ours, "--algorithm", algorithm)
    assert run("openssl", "x509", "-in", ours, "-pubkey", "-noout") == theirs.read_bytes()
    # the platform must not have been told of a certificate for another purpose: openssl knows none of TCG's, and is not
    # asked
    assert run("openssl", "verify", "-CAfile", tpm_2_0.root, "-untrusted", tpm_2_0.issuer, ours).endswith(b": OK\n")


@pytest.mark.needs("swtpm_setup", "certtool", "openssl")
def test_the_identity_of_a_tpm_2_of_swtpm_setup(session, tpm_2_0):
    one = session(made=tpm_2_0)
    found = one.identity()
    assert found["version"] == "2.0"
    assert [(key["algorithm"], key["handle"]) for key in found["endorsement_keys"]] == [
        ("rsa2048", "0x81010001"),
        ("ecc-p384", "0x81010016"),
    ]
    fingerprints = {key["algorithm"]: key["fingerprint"] for key in found["endorsement_keys"]}
    for algorithm, fingerprint in fingerprints.items():
        one.done("ek", "--algorithm", algorithm, "--output", one.folder / "pem")
        assert fingerprint_by_openssl(one.folder / "pem") == fingerprint
    assert found["record"] == {"keys": fingerprints, "change": None, "clones": []}
    roles = {one["role"]: one for one in found["certificates"]}
    assert {role: values["index"] for role, values in roles.items()} == {
        "EK rsa2048": "0x1c00002",
        "EK ecc-p384": "0x1c00016",
        "platform": "0x1c08000",
    }
    for algorithm in fingerprints:
        values = roles[f"EK {algorithm}"]
        assert values["key"]["is_ek"] is True
        assert re.fullmatch("id:20[0-9]{6}", values["tpm"].pop("version")), "the date of libtpms' specification"
        assert values["tpm"] == {"manufacturer": "id:00001014", "model": "swtpm"}
        assert values["issuer"] == "CN=swtpm-localca"
        one.done("ek", "--cert", "--algorithm", algorithm, "--output", one.folder / "pem")
        shown = run(
            "openssl", "x509", "-in", one.folder / "pem", "-noout", "-fingerprint", "-sha256", "-serial"
        ).decode()
        assert values["sha256"] in shown.replace(":", "").lower()
        assert int(shown.partition("serial=")[2], 16) == int(values["serial"], 16)
    assert roles["platform"]["tpm"] == {
        "platform manufacturer": "Maker",
        "platform model": "Lab",
        "platform version": "7.2",
    }
    text = one.done("identity")
    assert "  key         the endorsement key (0x81010016)\n  local CA    not known: " in text
    assert text.endswith("changed: nothing that it is known by\n")


@pytest.mark.needs("swtpm_setup", "certtool", "openssl")
def test_an_owned_tpm_1_2_of_swtpm_setup(session, tpm_1_2):
    """Key and certificate are for its owner; what everybody may see is shown without a password."""
    one = session(version="1.2", made=tpm_1_2)
    assert "Owner password is needed" in one.refused(64, "ek")
    assert "Owner password is needed" in one.refused(64, "ek", "--cert")
    wrong = one.folder / "wrong"
    wrong.write_text("other")
    assert "TPM_AUTHFAIL" in one.refused(77, "ek", "--owner-password-file", wrong)
    pem, certificate = one.folder / "pem", one.folder / "certificate"
    one.done("ek", "--output", pem, *one.password)
    one.done("ek", "--cert", "--output", certificate, *one.password)
    assert run("openssl", "x509", "-in", certificate, "-pubkey", "-noout") == pem.read_bytes()
    assert run("openssl", "verify", "-CAfile", tpm_1_2.root, "-untrusted", tpm_1_2.issuer, certificate).endswith(
        b": OK\n"
    )

    closed = one.identity()
    assert "only its owner" in closed["endorsement_keys"][0]["error"]
    assert ["give the owner's password" in found["error"] for found in closed["certificates"]] == [True, True]
    found = one.identity(*one.password)
    assert found["endorsement_keys"] == [{"algorithm": "rsa2048", "fingerprint": fingerprint_by_openssl(pem)}]
    assert found["record"]["keys"] == {"rsa2048": fingerprint_by_openssl(pem)}  # the daemon knows it without a password
    roles = {one["role"]: one for one in found["certificates"]}
    assert list(roles) == ["EK rsa2048", "platform"]
    assert roles["EK rsa2048"]["key"]["is_ek"] is True
    assert roles["EK rsa2048"]["tpm"]["version"] == "id:00740001"
    one.done("identity", *one.password)


@pytest.mark.needs("swtpm_setup", "certtool")
def test_a_tpm_1_2_that_nobody_owns_yet(session, tmp_path):
    """Its certificates are for an owner, whom there is not: no password could help."""
    (tmp_path / "made").mkdir()
    one = session(version="1.2", made=Made(tmp_path / "made", "1.2"))
    for words in ((), one.password):
        assert "nobody owns the TPM yet" in one.refused(70, "ek", "--cert", *words)
        errors = [found["error"] for found in one.identity(*words)["certificates"]]
        assert ["takeown comes first" in error for error in errors] == [True, True]
    assert "password" not in one.done("identity")
    one.done("takeown", *one.password)
    one.done("ek", "--cert", *one.password)


def test_a_tpm_without_anything(session):
    one = session()
    assert "there is no endorsement key rsa2048 at 0x81010001" in one.refused(70, "ek")
    assert "vtpmctl createek" in one.refused(70, "ek", "--fingerprint")
    one.done("createek")
    assert "no certificate of an endorsement key rsa2048 at NV index 0x1c00002" in one.refused(70, "ek", "--cert")
    assert one.identity()["certificates"] == []
    assert one.done("identity").startswith("TPM 2.0\nendorsement key rsa2048  at 0x81010001\n")


def test_a_tpm_1_2_without_anything(session):
    one = session(version="1.2")
    assert "TPM_NO_ENDORSEMENT" in one.refused(70, "ek")
    assert "no certificate" in one.refused(70, "ek", "--cert")
    assert "no endorsement key ecc-p384" in one.refused(64, "ek", "--algorithm", "ecc-p384")
    assert one.identity() == {
        "device": one.daemon.data,
        "operation": "identity",
        "version": "1.2",
        "endorsement_keys": [],
        "certificates": [],
        "local_ca_complaint": None,
        "served_as": [],
        "record": {"keys": {}, "change": None, "clones": []},
    }
    assert "none is stored" in one.done("identity")


@pytest.mark.parametrize("words", [("--pem", "--der"), ("--cert", "--fingerprint"), ("--der", "--fingerprint")])
def test_one_form_at_a_time(session, words):
    assert "exclude each other" in session().refused(64, "ek", *words)


def test_der_goes_to_another_program_and_to_no_terminal(session):
    one = session()
    one.done("createek", "--algorithm", "ecc-p256")
    words = [*PROGRAM, "ek", one.daemon.data, "--algorithm", "ecc-p256", "--der"]
    assert run("openssl", "pkey", "-pubin", "-inform", "DER", data=run(*words)).decode() == one.done(
        "ek", "--algorithm", "ecc-p256"
    )
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(words, stdout=theirs, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    finally:
        os.close(theirs)
        os.close(ours)
    assert done.returncode == 64
    assert (
        done.stderr
        == "vtpmctl: DER is binary, and not for a terminal\n  remedy: name a file with --output, or use --pem\n"
    )
    values = json.loads(one.done("ek", "--algorithm", "ecc-p256", "--der", "--json"))
    assert values["pem"] == one.done("ek", "--algorithm", "ecc-p256")


# --- TPMs that our CA certifies
# ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return ca.obtain(str(tmp_path_factory.mktemp("authority") / "ca"))


def public_key_of(pem):
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    return load_pem_public_key(pem.encode())


@pytest.fixture
def certified(session, authority):
    """A TPM with EK, and an index that is larger than the certificate in it."""
    one = session()
    one.done("createek")
    one.key = public_key_of(one.done("ek"))
    one.ek = certificates.ek_certificate(authority, one.key, FACTS)
    one.authority = ("--ca", authority.directory)
    one.write_nv(0x01C00002, one.ek + bytes(100))
    return one


def test_the_local_ca_is_recognised(certified, authority, tmp_path):
    values = certified.certificates(*certified.authority)["EK rsa2048"]
    assert (values["local_ca"], values["key"]["is_ek"]) == (True, True)
    assert "  local CA    has signed it\n" in certified.done("identity", *certified.authority)
    ca.obtain(str(tmp_path / "other"))
    assert certified.certificates("--ca", tmp_path / "other")["EK rsa2048"]["local_ca"] is False
    assert "has NOT signed it" in certified.done("identity", "--ca", tmp_path / "other")
    values = certified.certificates("--ca", tmp_path / "none")["EK rsa2048"]
    assert (values["local_ca"], values["local_ca_reason"]) == (None, f"there is no CA in {tmp_path}/none")
    certified.done("ek", "--cert", "--der", "--output", tmp_path / "der")
    assert (tmp_path / "der").read_bytes() == certified.ek  # without what the index has behind it


def test_a_certificate_of_the_right_name_by_another_key_is_not_ours(certified, authority, tmp_path):
    """Who copies the name of the issuer cannot copy its signature."""
    shutil.copytree(authority.directory, tmp_path / "ca")
    forged = bytearray(certified.ek)
    forged[-1] ^= 1
    certified.write_nv(0x01C0000A, bytes(forged))
    assert certified.certificates(*certified.authority)["EK ecc-p256"]["local_ca"] is False


@pytest.mark.needs("tpm2-tools")
def test_platform_idevid_and_iak(certified, authority):
    """The keys are made by tpm2-tools: one that signs anything, and one that signs only what the TPM has made."""
    attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign"
    for handle, kind, more in (
        ("0x81020000", "ecc256:ecdsa-sha256:null", ""),
        ("0x81020001", "ecc384:ecdsa-sha384:null", "|restricted"),
    ):
        certified.tool("tpm2_createprimary", "-C", "e", "-G", kind, "-a", attributes + more, "-c", "context")
        certified.tool("tpm2_evictcontrol", "-C", "o", "-c", "context", handle)
        certified.tool("tpm2_readpublic", "-c", handle, "-f", "pem", "-o", f"{handle}.pem")
        certified.tool("tpm2_flushcontext", "-t")
    keys = [public_key_of((certified.folder / f"0x8102000{number}.pem").read_text()) for number in (0, 1)]
    platform = PlatformFacts("Maker", "Lab", "7.2", "0815")
    certified.write_nv(0x01C08000, certificates.platform_certificate(authority, certified.key, FACTS, platform))
    certified.write_nv(0x01C90000, certificates.idevid_certificate(authority, keys[0], FACTS, certified.ek, "0815"))
    certified.write_nv(0x01C90011, certificates.iak_certificate(authority, keys[1], FACTS, certified.ek, "0815"))
    found = certified.certificates(*certified.authority)
    assert {
        role: (values["index"], values["key"]["stored_at"], values["local_ca"]) for role, values in found.items()
    } == {
        "EK rsa2048": ("0x1c00002", "0x81010001", True),
        "platform": ("0x1c08000", "0x81010001", True),
        "IDevID": ("0x1c90000", "0x81020000", True),
        "IAK": ("0x1c90011", "0x81020001", True),
    }
    assert found["IAK"]["subject"] == "2.5.4.5=0815"
    assert found["platform"]["tpm"]["platform serial"] == "0815"


def test_a_certificate_of_another_key_is_told(certified, authority):
    certified.done("createek", "--algorithm", "ecc-p384")
    other = public_key_of(certified.done("ek", "--algorithm", "ecc-p384"))
    certified.done("createek", "--algorithm", "ecc-p256")
    certified.write_nv(0x01C0000A, certificates.ek_certificate(authority, other, FACTS))
    values = certified.certificates(*certified.authority)["EK ecc-p256"]
    assert values["key"]["is_ek"] is False
    assert values["key"]["stored_at"] == "0x81010016"
    assert "  key         NOT the endorsement key: sha256:" in certified.done("identity", *certified.authority)


def test_damaged_certificates_are_shown_as_damaged(certified):
    """And the good one is shown too."""
    indices = [ENDORSEMENT_KEYS[name].certificate_index for name in ("ecc-p256", "ecc-p384", "ecc-p521", "rsa3072")]
    for index, data in zip(indices, (certified.ek[:200], bytes(100), b"\x30", b"\x30\x82\xff\xff" + os.urandom(60))):
        certified.write_nv(index, data)
    certified.write_nv(0x01C08000, b"", size=50)  # defined, not written: there is none
    found = certified.certificates()
    assert sorted(role for role, values in found.items() if "error" in values) == [
        "EK ecc-p256",
        "EK ecc-p384",
        "EK ecc-p521",
        "EK rsa3072",
    ]
    assert found["EK rsa2048"]["key"]["is_ek"] is True
    assert "platform" not in found
    assert certified.done("identity").count("cannot be used: no X.509 certificate, or a damaged one") == 4
    for form in ("--pem", "--der"):
        assert "no X.509 certificate" in certified.refused(70, "ek", "--cert", form, "--algorithm", "ecc-p384")


@pytest.mark.parametrize(
    "stored",
    [
        "10010003e71003 3000",
        "0000000000000000",
        "10010000011002 30",
        "100100ffff1002 3000",
        "10010003e71002 3000",
        "10",
        "10010000021002",
    ],
)
def test_damage_in_a_tpm_1_2(session, stored):
    """Another tag, zeros, sizes that cannot be, an index that is shorter than it says, no certificate at all."""
    one = session(version="1.2")
    one.done("createek")
    data = bytes.fromhex(stored)
    with one.daemon.connect() as client:

        def execute(command):
            client.sendall(command)
            return client.recv(4096)

        tpm = connect(execute)
        tpm.nv_define_space(nv_certificates.EK_INDEX_1_2, len(data), NvPermission.OWNERREAD | NvPermission.OWNERWRITE)
        tpm.nv_write(nv_certificates.EK_INDEX_1_2, data)
    (found,) = one.identity()["certificates"]
    assert found["role"] == "EK rsa2048"
    assert found["error"]
    one.done("identity")
    one.refused(70, "ek", "--cert")


def test_an_index_for_others_is_not_read(certified):
    """Nor is a password tried where a failure would count against dictionary attacks."""
    certified.write_nv(0x01C0000A, certified.ek, CERTIFICATE_INDEX & ~(NvAttribute.AUTHREAD | NvAttribute.OWNERREAD))
    certified.write_nv(0x01C00016, certified.ek, CERTIFICATE_INDEX & ~NvAttribute.NO_DA)
    found = certified.certificates()
    assert "neither by everybody nor by the owner" in found["EK ecc-p256"]["error"]
    assert "error" not in found["EK ecc-p384"]  # by the owner, who has no password yet
    certified.done("takeown", *certified.password)
    assert "TPM_RC_BAD_AUTH" in certified.certificates()["EK ecc-p384"]["error"]
    assert "error" not in certified.certificates(*certified.password)["EK ecc-p384"]
    assert certified.certificates()["EK rsa2048"]["key"]["is_ek"] is True


def test_a_certificate_does_not_command_the_terminal(certified, authority):
    facts = FACTS._replace(model="\x1b]0;owned\x07\x1b[2J\u202e")
    certified.write_nv(0x01C00016, certificates.ek_certificate(authority, certified.key, facts))
    text = certified.done("identity")
    assert "?]0;owned??[2J?" in text
    assert text.isprintable() or set(text) - {"\n"} == {letter for letter in text if letter.isprintable()}


def test_any_damage_of_a_certificate_is_a_value(authority):
    """2000 certificates of each kind with a byte or some changed: what is said of them is said without an exception."""
    from cryptography.hazmat.primitives.asymmetric import ec

    from swtpm_svc.provision import certificate_facts

    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    ek = certificates.ek_certificate(authority, key, FACTS)
    kinds = [
        ek,
        certificates.iak_certificate(authority, key, FACTS, ek, "1"),
        authority.certificate.public_bytes(Encoding.DER),
    ]
    chance, read = random.Random(5), 0
    for whole in kinds:
        for _ in range(2000):
            der = bytearray(whole)
            for _ in range(chance.choice((1, 1, 2, 9))):
                der[chance.randrange(len(der))] = chance.randrange(256)
            try:
                found = certificate_facts.load(
                    bytes(der[: chance.choice((len(der), len(der), chance.randrange(len(der))))])
                )
            except ValueError:
                continue
            read += 1
            json.dumps(certificate_facts.describe(found))
            certificate_facts.fingerprint_of_key(found)
            certificate_facts.is_for_attestation(found)
            certificate_facts.is_signed_by(found, authority.certificate)
    assert read > 500  # the damage is in the places that are looked at, too


# --- what has changed
# --------------------------------------------------------------------------------------------------------


def test_a_change_is_shown(session, capsys):
    one = session()
    one.done("createek")
    was = one.identity()["endorsement_keys"][0]["fingerprint"]
    one.daemon.stop()
    for name in os.listdir(one.daemon.state):
        if "-00." in name:
            os.unlink(f"{one.daemon.state}/{name}")
    one.daemon.start()
    text = one.done("identity")
    assert "\nchanged: it is another TPM than before, or was cleared, as was seen at 20" in text
    assert text.endswith(f"\n  rsa2048 was  {was}\n  rsa2048 is   not there any more\n")
    # of a path nobody knows which instance's it is
    assert entry.main(["identity", one.daemon.data]) == 0
    assert "changed: not known" in capsys.readouterr().out
