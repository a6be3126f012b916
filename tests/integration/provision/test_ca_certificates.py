"""The certificates of a TPM as openssl, certtool and the distribution's own tools for the same purpose see them."""

import hashlib
import re
import subprocess
from pathlib import Path
from typing import Callable, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from swtpm_svc.provision import ca, certificates, validity
from swtpm_svc.provision.certificates import PlatformFacts, TpmFacts

pytestmark = pytest.mark.needs("openssl")

TPM = TpmFacts("id:00001014", "swtpm", "id:20191023", "2.0", 0, 164)
TPM_1_2 = TPM._replace(family="1.2", level=2, revision=116)
PLATFORM = PlatformFacts("Fedora", "QEMU", "2.1")
RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP384R1())


class Issued(NamedTuple):
    der: bytes
    path: Path

    @property
    def certificate(self) -> x509.Certificate:
        return x509.load_der_x509_certificate(self.der)

    def extension(self, oid: str) -> "x509.Extension[x509.ExtensionType]":
        return self.certificate.extensions.get_extension_for_oid(x509.ObjectIdentifier(oid))


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> ca.Authority:
    return ca.obtain(str(tmp_path_factory.mktemp("local") / "ca"))


@pytest.fixture(scope="module")
def issued(authority, tmp_path_factory) -> "dict[str, Issued]":
    """One of each kind."""
    directory = tmp_path_factory.mktemp("issued")
    rsa_key, ec_key = RSA_KEY.public_key(), EC_KEY.public_key()
    ek = certificates.ek_certificate(authority, rsa_key, TPM)
    made = {
        "ek": ek,
        "ek-ecc": certificates.ek_certificate(authority, ec_key, TPM),
        "ek-1.2": certificates.ek_certificate(authority, rsa_key, TPM_1_2),
        "platform": certificates.platform_certificate(authority, rsa_key, TPM, PLATFORM),
        "platform-serial": certificates.platform_certificate(
            authority, ec_key, TPM, PLATFORM._replace(serial="0815/4711")
        ),
        "platform-1.2": certificates.platform_certificate(authority, rsa_key, TPM_1_2, PLATFORM),
        "idevid": certificates.idevid_certificate(authority, ec_key, TPM, ek, "0815"),
        "iak": certificates.iak_certificate(authority, ec_key, TPM, ek),
    }
    for name, der in made.items():
        (directory / f"{name}.der").write_bytes(der)
    return {name: Issued(der, directory / f"{name}.der") for name, der in made.items()}


KINDS = ["ek", "ek-ecc", "ek-1.2", "platform", "platform-serial", "platform-1.2", "idevid", "iak"]


def run(*words: str, data: bytes = b"") -> str:
    return subprocess.run(words, input=data, check=True, capture_output=True).stdout.decode(errors="replace")


def as_pem(der: bytes) -> bytes:
    return ca.pem(x509.load_der_x509_certificate(der))


@pytest.mark.parametrize("kind", KINDS)
def test_openssl_verifies_the_chain_and_finds_nothing_against_rfc_5280(authority, issued, kind, tmp_path):
    issuer, root = authority.chain
    (tmp_path / "root").write_bytes(ca.pem(root))
    (tmp_path / "issuer").write_bytes(ca.pem(issuer))
    (tmp_path / "leaf").write_bytes(as_pem(issued[kind].der))
    options = [
        "-x509_strict",
        "-check_ss_sig",
        "-CAfile",
        str(tmp_path / "root"),
        "-untrusted",
        str(tmp_path / "issuer"),
    ]
    assert run("openssl", "verify", *options, str(tmp_path / "leaf")).endswith(": OK\n")


@pytest.mark.needs("certtool")
@pytest.mark.parametrize("kind", KINDS)
def test_certtool_verifies_the_chain(authority, issued, kind, tmp_path):
    issuer, root = authority.chain
    (tmp_path / "root").write_bytes(ca.pem(root))
    chain = as_pem(issued[kind].der) + ca.pem(issuer)
    output = run("certtool", "--verify", "--load-ca-certificate", str(tmp_path / "root"), data=chain)
    assert "Chain verification output: Verified." in output


@pytest.mark.parametrize("kind", KINDS)
def test_each_has_what_all_have_in_common(authority, issued, kind):
    found = issued[kind].certificate
    assert found.version is x509.Version.v3
    assert found.issuer == authority.certificate.subject
    assert 64 < found.serial_number.bit_length() < 160
    assert validity.period(found)[1] == validity.FOREVER
    assert (issued[kind].extension("2.5.29.19").critical, issued[kind].extension("2.5.29.19").value) == (
        True,
        x509.BasicConstraints(ca=False, path_length=None),
    )
    usage = found.extensions.get_extension_for_class(x509.KeyUsage)
    expected = {
        "ek-ecc": "key_agreement",
        "platform-serial": "key_agreement",
        "idevid": "digital_signature",
        "iak": "digital_signature",
    }
    assert (usage.critical, usage.value) == (True, ca.usage(expected.get(kind, "key_encipherment")))
    identifier = found.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert identifier == x509.SubjectKeyIdentifier.from_public_key(authority.certificate.public_key()).digest
    # RFC 5280, 4.2.1.6: critical where there is no subject
    assert issued[kind].extension("2.5.29.17").critical is (not list(found.subject))
    assert ("notAfter=Dec 31 23:59:59 9999 GMT") in run(
        "openssl", "x509", "-inform", "der", "-in", str(issued[kind].path), "-noout", "-dates"
    )
    key = found.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x07" not in key, "not id-RSAES-OAEP"


def test_the_serial_numbers_differ(issued):
    assert len({found.certificate.serial_number for found in issued.values()}) == len(KINDS)


def test_the_specification_is_an_attribute_that_openssl_can_parse(issued):
    """SubjectDirectoryAttributes, tcg-at-tpmSpecification: family, level, revision."""
    for kind, family, level, revision in (("ek", "2.0", "00", "A4"), ("ek-1.2", "1.2", "02", "74")):
        lines = run("openssl", "asn1parse", "-inform", "der", "-in", str(issued[kind].path)).splitlines()
        at = next(index for index, line in enumerate(lines) if "X509v3 Subject Directory Attributes" in line)
        offset = lines[at + 1].split(":")[0].strip()
        parsed = run("openssl", "asn1parse", "-inform", "der", "-in", str(issued[kind].path), "-strparse", offset)
        name, *values = re.findall(r"(?:OBJECT|UTF8STRING|INTEGER) +:(.+)", parsed)
        assert name in ("2.23.133.2.16", "TPM Specification"), "newer ones know its name"
        assert values == [family, level, revision]


@pytest.mark.parametrize(
    ("revision", "hexadecimal"),
    [(0, "00"), (127, "7F"), (128, "80"), (159, "9F"), (164, "A4"), (183, "B7"), (256, "0100")],
)
def test_a_revision_is_encoded_as_a_positive_number(authority, tmp_path, revision, hexadecimal):
    """A first bit that is set would make it negative (X.690, 8.3)."""
    der = certificates.ek_certificate(authority, EC_KEY.public_key(), TPM._replace(revision=revision))
    found = (
        x509.load_der_x509_certificate(der).extensions.get_extension_for_oid(x509.ObjectIdentifier("2.5.29.9")).value
    )
    (tmp_path / "attributes").write_bytes(found.value)
    parsed = run("openssl", "asn1parse", "-inform", "der", "-in", str(tmp_path / "attributes"))
    assert re.findall(r"INTEGER +:(\S+)", parsed)[1] == hexadecimal


def names(found: Issued) -> "list[tuple[str, str]]":
    value = found.extension("2.5.29.17").value
    return [
        (part.oid.dotted_string, part.value) for name in value.get_values_for_type(x509.DirectoryName) for part in name
    ]


def test_a_platform_certificate_names_the_platform(issued):
    platform = [("2.23.133.5.1.1", "Fedora"), ("2.23.133.5.1.4", "QEMU"), ("2.23.133.5.1.5", "2.1")]
    assert names(issued["platform"]) == platform
    assert names(issued["platform-serial"]) == [*platform, ("2.23.133.5.1.6", "0815/4711")]
    assert names(issued["platform-1.2"])[3:] == [
        ("2.23.133.2.4", "Fedora"),
        ("2.23.133.2.5", "QEMU"),
        ("2.23.133.2.6", "2.1"),
    ]
    for kind in ("platform", "platform-serial", "platform-1.2"):
        assert [oid.dotted_string for oid in issued[kind].extension("2.5.29.37").value] == ["2.23.133.8.2"]


def test_an_identity_certificate_says_which_tpm_holds_its_key(authority, issued):
    ek = issued["ek"].certificate
    issuer = x509.SubjectKeyIdentifier.from_public_key(authority.certificate.public_key()).digest.hex()
    hardware = f"00001014:{issuer}:{ek.serial_number:x}"
    digest = run("openssl", "dgst", "-sha256", "-r", str(issued["ek"].path)).split()[0]
    for kind, policies in (("idevid", 2), ("iak", 3)):
        others = {
            name.type_id.dotted_string: name.value
            for name in issued[kind].extension("2.5.29.17").value.get_values_for_type(x509.OtherName)
        }
        module = run("openssl", "asn1parse", "-inform", "der", data=others["1.3.6.1.5.5.7.8.4"])
        assert re.findall(r"OBJECT +:(\S+)", module) == ["2.23.133.1.2"]
        assert re.findall(r"OCTET STRING +:(\S+)", module) == [hardware]
        identifier = run("openssl", "asn1parse", "-inform", "der", data=others["1.3.6.1.5.5.7.8.3"])
        assert re.findall(r"(?:UTF8STRING|OBJECT) +:(\S+)", identifier) == [digest, "2.23.133.12.1"]
        found = [policy.policy_identifier.dotted_string for policy in issued[kind].extension("2.5.29.32").value]
        assert found == [f"2.23.133.11.1.{number + 1}" for number in range(policies)]
    assert [oid.dotted_string for oid in issued["iak"].extension("2.5.29.37").value] == ["2.23.133.8.3"]
    assert issued["idevid"].certificate.subject.rfc4514_string() == "2.5.4.5=0815"


def test_without_a_serial_number_the_ek_names_the_device(issued):
    """IEEE 802.1AR wants one; this one is in the EK's fingerprint, which openssl computes here."""
    pem = run("openssl", "x509", "-inform", "der", "-in", str(issued["ek"].path), "-noout", "-pubkey").encode()
    (issued["ek"].path.parent / "ek.pem").write_bytes(pem)
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-outform", "DER"], input=pem, check=True, capture_output=True
    ).stdout
    serial = hashlib.sha256(der).hexdigest()[:20]
    assert issued["iak"].certificate.subject.rfc4514_string() == f"2.5.4.5={serial}"


# --- beside the distribution's swtpm_localca -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def localca(tmp_path_factory) -> Callable[..., x509.Certificate]:
    """What swtpm_localca makes of the same key and the same facts."""
    directory = tmp_path_factory.mktemp("localca")
    (directory / "options").write_text(
        "--platform-manufacturer Fedora\n--platform-version 2.1\n--platform-model QEMU\n"
    )
    lines = [
        f"statedir = {directory}",
        *(f"{key} = {directory}/{key}" for key in ("signingkey", "issuercert", "certserial")),
    ]
    (directory / "conf").write_text("\n".join(lines) + "\n")

    def make(kind: str, key: str, tpm: TpmFacts, *options: str) -> x509.Certificate:
        words = [
            "--type",
            kind,
            "--ek",
            key,
            "--dir",
            str(directory),
            "--vmid",
            "vm",
            "--optsfile",
            str(directory / "options"),
        ]
        words += [
            "--configfile",
            str(directory / "conf"),
            "--tpm-spec-family",
            tpm.family,
            "--tpm-spec-level",
            str(tpm.level),
        ]
        words += [
            "--tpm-spec-revision",
            str(tpm.revision),
            "--tpm-manufacturer",
            tpm.manufacturer,
            "--tpm-model",
            tpm.model,
        ]
        run("swtpm_localca", *words, "--tpm-version", tpm.version, *options)
        der = (directory / f"{kind}.cert").read_bytes()
        # for a TPM 1.2 the file is what goes to its NV memory: a header of seven bytes, then the certificate
        return x509.load_der_x509_certificate(der[der.index(b"\x30\x82") :])

    return make


RSA_TEXT = f"{RSA_KEY.public_key().public_numbers().n:x}"
EC_TEXT = "x={0.x:096x},y={0.y:096x},id=secp384r1".format(EC_KEY.public_key().public_numbers())


@pytest.mark.needs("swtpm_cert")
@pytest.mark.parametrize(
    ("kind", "their_kind", "key", "options"),
    [
        ("ek", "ek", RSA_TEXT, ("--tpm2", "--decryption")),
        ("ek-ecc", "ek", EC_TEXT, ("--tpm2", "--decryption")),
        ("platform", "platform", RSA_TEXT, ("--tpm2",)),
        ("ek-1.2", "ek", RSA_TEXT, ()),
    ],
)
def test_every_field_is_that_of_swtpm_localca(issued, localca, kind, their_kind, key, options):
    """But for what is each CA's own: serial number, issuer, its key identifier, its signature; and notBefore, which is
    now."""
    theirs, ours = localca(their_kind, key, TPM_1_2 if kind == "ek-1.2" else TPM, *options), issued[kind].certificate
    assert ours.version == theirs.version
    assert ours.public_key().public_numbers() == theirs.public_key().public_numbers()
    assert validity.period(ours)[1] == validity.period(theirs)[1]
    # theirs names the virtual machine for a TPM 2.0; the profile wants it empty, or the alternative name beside it
    assert list(ours.subject) == []
    own = x509.AuthorityKeyIdentifier.oid

    def fields(found: x509.Certificate) -> "dict[str, tuple[bool, bytes]]":
        return {
            part.oid.dotted_string: (part.critical, part.value.public_bytes())
            for part in found.extensions
            if part.oid != own
        }

    assert fields(ours) == fields(theirs)
    assert ours.extensions.get_extension_for_oid(own).critical == theirs.extensions.get_extension_for_oid(own).critical
