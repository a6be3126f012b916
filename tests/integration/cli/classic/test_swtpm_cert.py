"""swtpm_cert beside the distribution's: the same certificates, octet by octet, and the same refusals."""

import os
import subprocess
import time

import pytest
from both_programs import needs_swtpm_tools, run_ours, run_theirs
from cryptography import x509

pytestmark = needs_swtpm_tools

TPM = "--tpm-manufacturer id:1 --tpm-model swtpm --tpm-version id:2"
SPEC = "--tpm-spec-family 2.0 --tpm-spec-level 0 --tpm-spec-revision 164"
PLATFORM = "--platform-manufacturer Linux --platform-model q --platform-version #1"
MODULUS = f"--modulus c{'0f' * 255}1"
#: A point of NIST P-256: its base point (FIPS 186-4, D.1.2.3).
POINT = (
    "--ecc-x 6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296 "
    "--ecc-y 4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
)


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    """A folder with keys and certificates as certtool and openssl make them."""
    path = tmp_path_factory.mktemp("ca")
    for name, words in {
        "rsa.pem": ["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        "ec.pem": ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
    }.items():
        _openssl(*words, "-out", path / name)
    for kind in ("rsa", "ec"):
        key = path / f"{kind}.pem"
        _openssl(
            "req",
            "-x509",
            "-new",
            "-key",
            key,
            "-subj",
            f"/O=us/CN={kind}",
            "-days",
            "99",
            "-out",
            path / f"{kind}.crt",
        )
        _openssl("pkey", "-in", key, "-pubout", "-out", path / f"{kind}.pub")
    _openssl("pkey", "-in", path / "rsa.pem", "-aes256", "-passout", "pass:secret", "-out", path / "locked.pem")
    (path / "password").write_text("secret")
    return path


def _openssl(*words):
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)


SIGN = "--signkey rsa.pem --issuercert rsa.crt"
GOOD = [
    f"{SIGN} {MODULUS} {TPM} {SPEC}",
    f"{SIGN} {MODULUS} {TPM} {SPEC} --tpm2 --days -1 --subject CN=vm,O=us,C=DE --serial 255",
    f"{SIGN} {MODULUS} {TPM} {SPEC} --tpm2 --allow-signing",
    f"{SIGN} {MODULUS} {TPM} {SPEC} --tpm2 --allow-signing --decryption",
    f"{SIGN} {MODULUS} {TPM} {SPEC} --tpm2 --decryption --pem",
    f"{SIGN} {MODULUS} {TPM} {SPEC} --add-header --days 10000",
    f"{SIGN} {MODULUS} {TPM} {SPEC} --exponent 3 -tpm2 -subject CN=_under,serialNumber=7,ST=s,OU=o,UID=u,DC=d,L=Köln",
    f"{SIGN} {MODULUS} {TPM} {PLATFORM}",
    f"{SIGN} {MODULUS} {TPM} {PLATFORM} --type PLATFORM",
    f"{SIGN} {MODULUS} {TPM} {PLATFORM} --type platform --tpm2 --serial 9223372036854775807",
    f"{SIGN} {POINT} {TPM} {SPEC} --tpm2",
    f"{SIGN} {POINT} {TPM} {PLATFORM} --tpm2 --type platform --allow-signing --decryption",
    f"{SIGN} --pubkey rsa.pub {TPM} {SPEC} --tpm2",
    f"{SIGN} --pubkey rsa.pub {TPM} {SPEC} --tpm2 --subject CN=a\\,b",
    f"--signkey locked.pem --signkey-password secret --issuercert rsa.crt {MODULUS} {TPM} {SPEC} --tpm2",
    f"--signkey locked.pem --signkey-pwd pass:secret --issuercert rsa.crt {MODULUS} {TPM} {SPEC} --tpm2",
    f"--signkey locked.pem --signkey-pwd file:password --issuercert rsa.crt {MODULUS} {TPM} {SPEC} --tpm2",
    f"--signkey locked.pem --signkey-pwd env:PASSWORD --issuercert rsa.crt {MODULUS} {TPM} {SPEC} --tpm2 word",
    f"--signkey rsa.pem --signkey-password needless --issuercert rsa.crt {MODULUS} {TPM} {SPEC} --tpm2",
]


@pytest.mark.parametrize("line", GOOD)
def test_a_certificate_is_the_distribution_s(ca, tmp_path, line):
    if f"{TPM} {PLATFORM}" in line and "--type" not in line.lower():
        line += f" {SPEC}"  # an EK's, with what it does not need
    options = {"cwd": ca, "env": {**os.environ, "PASSWORD": "secret"}}
    for _ in range(5):
        second = int(time.time())
        theirs = run_theirs("swtpm_cert", [*line.split(" "), "--out-cert", str(tmp_path / "theirs")], **options)
        ours = run_ours("swtpm_cert", [*line.split(" "), "--out-cert", str(tmp_path / "ours")], **options)
        if int(time.time()) == second:  # both have the same beginning
            break
    assert theirs.status == 0, theirs.err
    assert ours == theirs
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "theirs").stat().st_mode


def test_a_certificate_signed_with_an_elliptic_curve_verifies(ca, tmp_path):
    line = f"--signkey ec.pem --issuercert ec.crt {MODULUS} {TPM} {SPEC} --tpm2 --days 50 --out-cert {tmp_path}/c --pem"
    assert run_ours("swtpm_cert", line.split(), cwd=ca).status == 0
    _openssl("verify", "-partial_chain", "-trusted", ca / "ec.crt", "-ignore_critical", tmp_path / "c")


def test_a_file_with_an_elliptic_key_is_for_key_agreement(ca, tmp_path):
    """The distribution's takes such a file's key for an RSA key in this one respect."""
    line = f"{SIGN} --pubkey ec.pub {TPM} {SPEC} --tpm2 --out-cert {tmp_path}/c"
    assert run_ours("swtpm_cert", line.split(), cwd=ca).status == 0
    certificate = x509.load_der_x509_certificate((tmp_path / "c").read_bytes())
    assert certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_agreement


def test_iak_and_idevid_have_a_hardware_module_name(ca, tmp_path):
    """2.23.133.1.2 and the serial number as octets, in a directory name that is not critical."""
    for kind in ("iak", "idevid"):
        line = (
            f"{SIGN} {POINT} --tpm2 --type {kind} --tpm-serial-num S1 --subject serialNumber=x --out-cert {tmp_path}/c"
        )
        assert run_ours("swtpm_cert", line.split(), cwd=ca).status == 0
        content = (tmp_path / "c").read_bytes()
        # subjectAltName, not critical: OCTET STRING, GeneralNames, [4], Name, RDN, AttributeTypeAndValue
        names = bytes.fromhex("301c 06082b06010505070804 3010".replace(" ", ""))[2:]
        assert names[:10] in content
        assert bytes.fromhex("0605678105010204025331") in content
        text = subprocess.run(
            ["openssl", "x509", "-inform", "DER", "-in", tmp_path / "c", "-noout", "-text"],
            check=True,
            capture_output=True,
        ).stdout.decode()  # cryptography does not read such a name
        assert "Key Usage: critical\n                Digital Signature\n" in text
        assert "Alternative Name: \n" in text
        _openssl("x509", "-inform", "DER", "-in", tmp_path / "c", "-out", tmp_path / "pem")
        _openssl("verify", "-partial_chain", "-trusted", ca / "rsa.crt", tmp_path / "pem")


WRONG = [
    "",
    "--foo",
    "--signkey",
    f"{SIGN}",
    f"{SIGN} {MODULUS}",
    f"{SIGN} {MODULUS} {TPM}",
    f"{SIGN} {MODULUS} {TPM} {SPEC} --type foo",
    f"{SIGN} {MODULUS} {TPM} {SPEC} --type platform --tpm2",
    f"{SIGN} --modulus 123 {TPM} {SPEC}",
    f"{SIGN} --modulus zz {TPM} {SPEC}",
    f"{SIGN} --ecc-x 12 {TPM} {SPEC}",
    f"{SIGN} {POINT} --ecc-curveid foo {TPM} {SPEC}",
    f"{SIGN} {POINT} {MODULUS} {TPM} {SPEC}",
    f"{SIGN} --pubkey rsa.pem {TPM} {SPEC}",
    f"{SIGN} --pubkey none {TPM} {SPEC}",
    f"{SIGN} {MODULUS} --exponent x {TPM} {SPEC}",
    f"--signkey rsa.pem {MODULUS} {TPM} {SPEC}",
    f"--signkey none --issuercert rsa.crt {MODULUS} {TPM} {SPEC}",
    f"--signkey rsa.pem --issuercert none {MODULUS} {TPM} {SPEC}",
    f"--signkey rsa.crt --issuercert rsa.crt {MODULUS} {TPM} {SPEC}",
    f"--signkey locked.pem --issuercert rsa.crt {MODULUS} {TPM} {SPEC}",
    f"--signkey locked.pem --signkey-password wrong --issuercert rsa.crt {MODULUS} {TPM} {SPEC}",
    f"--signkey locked.pem --signkey-pwd env:UNSET --issuercert rsa.crt {MODULUS} {TPM} {SPEC}",
    f"--signkey locked.pem --signkey-pwd file:none --issuercert rsa.crt {MODULUS} {TPM} {SPEC}",
    f"--signkey locked.pem --signkey-pwd fd:77 --issuercert rsa.crt {MODULUS} {TPM} {SPEC}",
    f"--signkey pkcs11:token=x --issuercert rsa.crt {MODULUS} {TPM} {SPEC}",
    f"{SIGN} {MODULUS} {TPM} {SPEC} --serial x",
    f"{SIGN} {MODULUS} {TPM} {SPEC} --serial 0",
    f"{SIGN} {MODULUS} {TPM} {SPEC} --serial 1461501637330902918203684832716283019655932542976",
    f"{SIGN} {MODULUS} {TPM} {SPEC} --tpm2 --subject foo",
    f"{SIGN} {MODULUS} {TPM} {SPEC} --tpm2 --subject CN=a,b",
    f"{SIGN} {MODULUS} {TPM} {SPEC} --tpm2 --subject CN=a+b",
    f"{SIGN} {MODULUS} {TPM} {SPEC} --tpm2 --subject foo=b",
    f"{SIGN} {MODULUS} {TPM} {SPEC} --out-cert none/c",
    f"{SIGN} {MODULUS} {TPM} {SPEC} --out-cert link",
    f"{SIGN} {MODULUS} {TPM} {SPEC} --ecc-x",
]


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_line_is_refused_as_the_distribution_does(ca, tmp_path, line):
    for name in os.listdir(ca):
        (tmp_path / name).symlink_to(ca / name)
    (tmp_path / "link").symlink_to("elsewhere")
    words = line.split()
    theirs, ours = (run("swtpm_cert", words, cwd=tmp_path) for run in (run_theirs, run_ours))
    assert ours.status == theirs.status == 1
    assert ours.err.strip()
    assert "Traceback" not in ours.err
    assert bool(ours.out) == bool(theirs.out)  # the help
    assert sorted(os.listdir(tmp_path)) == sorted([*os.listdir(ca), "link"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--days x", "Could not parse the number of days 'x'."),
        ("--days -2", "Days value of '-2' is outside valid range."),
        ("--tpm-spec-level x", "--tpm-spec-level must be a number, not 'x'."),
        ("--serial 1461501637330902918203684832716283019655932542976", "Serial number is too large."),
        (
            "--public 00 --keyalgo ml-kem-512",
            "ML-KEM and ML-DSA keys are not supported: leave --public and --keyalgo out.",
        ),
        ("--type iak --tpm2", "--tpm-serial-num must be provided."),
        (f"--tpm-model {'m' * 5000}", "The value of --tpm-model is too long."),
    ],
)
def test_what_newer_releases_refuse_is_refused(ca, words, said):
    ran = run_ours("swtpm_cert", f"{SIGN} {MODULUS} {TPM} {SPEC} {words}".split(), cwd=ca)
    assert (ran.status, ran.err) == (1, said + "\n")


def test_the_last_serial_number_of_twenty_octets_is_taken(ca, tmp_path):
    line = f"{SIGN} {MODULUS} {TPM} {SPEC} --tpm2 --serial 1461501637330902918203684832716283019655932542975"
    ran = run_ours("swtpm_cert", [*line.split(), "--out-cert", str(tmp_path / "c")], cwd=ca)
    assert ran.status == 0
    assert b"\2\x15\0" + b"\xff" * 20 in (tmp_path / "c").read_bytes()


def test_octets_that_are_no_text_stay(ca, tmp_path):
    line = f"{SIGN} {MODULUS} {TPM} {SPEC} --tpm2"
    words = [*line.split(), "--subject", b"CN=\xff", "--out-cert", str(tmp_path / "c")]
    assert run_ours("swtpm_cert", words, cwd=ca).status == 0
    assert b"\x0c\x01\xff" in (tmp_path / "c").read_bytes()


def test_without_a_file_the_certificate_comes_out(ca, tmp_path):
    line = f"{SIGN} {MODULUS} {TPM} {SPEC} --tpm2 --pem"
    assert run_ours("swtpm_cert", line.split(), cwd=ca).out.startswith("-----BEGIN CERTIFICATE-----\nMII")


def test_a_key_of_a_token_signs_by_the_command_beside_its_certificate(ca, tmp_path):
    (tmp_path / "issuer.crt").write_bytes((ca / "rsa.crt").read_bytes())
    (tmp_path / "signer.json").write_text(
        f'{{"command": ["/usr/bin/openssl", "dgst", "-sha256", "-sign", "{ca}/rsa.pem"]}}'
    )
    line = f"--signkey pkcs11:token=t;object=o --issuercert issuer.crt {MODULUS} {TPM} {SPEC} --tpm2 --pem --out-cert c"
    ran = run_ours("swtpm_cert", line.split(), cwd=tmp_path)
    assert ran.status == 0, ran.err
    _openssl("verify", "-partial_chain", "-trusted", ca / "rsa.crt", "-ignore_critical", tmp_path / "c")


def test_version_help_and_capabilities(ca):
    assert run_ours("swtpm_cert", ["-version"]).out == (
        "TPM certificate tool version 0.10.2, Copyright (c) 2015 IBM Corp.\n"
    )
    assert run_ours("swtpm_cert", ["--print-capabilities"]).out == (
        '{ "type": "swtpm_cert", "features": [ "cmdarg-signkey-pwd", "cmdarg-parentkey-pwd", "cmdarg-tpm-serial-num", '
        '"supports-iak-idevid" ], "version": "0.10.2" }\n'
    )
    helped = run_ours("swtpm_cert", ["--h"])
    assert helped.status == run_theirs("swtpm_cert", ["--h"]).status == 0
    assert "--signkey <file>" in helped.out
