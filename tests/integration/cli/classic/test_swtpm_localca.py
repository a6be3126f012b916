"""swtpm_localca beside the distribution's: one CA for both, each way; the same refusals."""

import os
import stat
import subprocess

import pytest
from both_programs import needs_swtpm_tools, run_ours, run_theirs
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from swtpm_svc.provision import validity

pytestmark = needs_swtpm_tools

FACTS = (
    "--tpm-spec-family 2.0 --tpm-spec-revision 164 --tpm-spec-level 0 --tpm-manufacturer id:00001014 "
    "--tpm-model swtpm --tpm-version id:20191023"
)
KEY = f"c{'0f' * 255}1"
POINT = (
    "x=6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296,"
    "y=4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
)
RUN = {"theirs": run_theirs, "ours": run_ours}


def configure(folder, **values):
    """A configuration whose CA is in folder/ca, and a folder for what comes out."""
    ca = folder / "ca"
    lines = {"statedir": ca, "signingkey": ca / "key.pem", "issuercert": ca / "issuer.pem", "certserial": ca / "serial"}
    lines.update(values)
    (folder / "swtpm-localca.conf").write_text("".join(f"{key} = {value}\n" for key, value in lines.items() if value))
    (folder / "swtpm-localca.options").write_text(
        "--platform-manufacturer Linux\n--platform-version 2.1\n--platform-model QEMU\n"
    )
    (folder / "out").mkdir(exist_ok=True)
    return {**os.environ, "XDG_CONFIG_HOME": str(folder), "HOME": str(folder)}


def make(who, folder, kind="ek", key=KEY, more="--tpm2", **options):
    words = f"--type {kind} --ek {key} --dir {folder}/out {FACTS} {more}".split()
    return RUN[who]("swtpm_localca", words, **options)


@pytest.mark.parametrize(("first", "second"), [("theirs", "ours"), ("ours", "theirs")])
@pytest.mark.parametrize("password", [None, "secret word"])
def test_a_ca_that_one_has_made_is_the_other_s_too(tmp_path, first, second, password):
    env = configure(tmp_path, signingkey_password=password)
    if password is not None:
        env["SWTPM_ROOTCA_PASSWORD"] = "another"
    made = make(first, tmp_path, more="--tpm2 --vmid vm_a+b,c", env=env)
    assert (made.status, made.out.splitlines()[-1]) == (0, "Successfully created EK certificate locally.")
    one = x509.load_der_x509_certificate((tmp_path / "out/ek.cert").read_bytes())
    files = sorted(os.listdir(tmp_path / "ca"))
    keys = [(tmp_path / "ca" / name).read_bytes() for name in ("key.pem", "issuer.pem")]
    made = make(second, tmp_path, more="--tpm2 --vmid vm_a+b,c", env=env)
    assert (made.status, made.out) == (0, "Successfully created EK certificate locally.\n"), made.err
    other = x509.load_der_x509_certificate((tmp_path / "out/ek.cert").read_bytes())
    assert sorted(os.listdir(tmp_path / "ca")) == files
    assert [(tmp_path / "ca" / name).read_bytes() for name in ("key.pem", "issuer.pem")] == keys
    assert other.serial_number == one.serial_number + 1
    assert (tmp_path / "ca/serial").read_text() == str(other.serial_number)
    assert (other.subject, other.issuer) == (one.subject, one.issuer)
    assert other.subject.rfc4514_string() == "CN=vm_a_b_c"
    assert [extension.value.public_bytes() for extension in other.extensions] == [
        extension.value.public_bytes() for extension in one.extensions
    ]
    (tmp_path / "chain").write_bytes(
        (tmp_path / "ca/issuer.pem").read_bytes() + (tmp_path / "ca/swtpm-localca-rootca-cert.pem").read_bytes()
    )
    for certificate in (one, other):
        (tmp_path / "leaf").write_bytes(certificate.public_bytes(Encoding.PEM))
        words = ["openssl", "verify", "-ignore_critical", "-CAfile", tmp_path / "chain", tmp_path / "leaf"]
        subprocess.run(words, check=True, capture_output=True)


def test_the_files_of_a_ca_have_the_distribution_s_names_and_modes(tmp_path):
    seen = {}
    for who in RUN:
        folder = tmp_path / who
        folder.mkdir()
        assert make(who, folder, env=configure(folder)).status == 0
        seen[who] = {
            path.relative_to(folder): stat.S_IMODE(path.stat().st_mode)
            for path in [folder / "ca", *(folder / "ca").iterdir(), *(folder / "out").iterdir()]
        }
    assert seen["ours"] == seen["theirs"]


@pytest.mark.parametrize("kind", ["ek", "platform"])
@pytest.mark.parametrize("key", [KEY, POINT])
@pytest.mark.parametrize("more", ["--tpm2", "--tpm2 --allow-signing", "--tpm2 --allow-signing --decryption", ""])
def test_what_is_certified_is_the_same(tmp_path, kind, key, more):
    env, content = configure(tmp_path), {}
    for who in RUN:
        assert make(who, tmp_path, kind, key, more, env=env).status == 0
        content[who] = (tmp_path / f"out/{kind}.cert").read_bytes()
    theirs, ours = (_without_what_differs(content[who]) for who in ("theirs", "ours"))
    assert ours == theirs


def _without_what_differs(content):
    """All of a certificate but serial number, beginning, signature: which are those of the time of making."""
    start = content[7:] if content[:1] == b"\x10" else content
    parsed = x509.load_der_x509_certificate(start)
    beginning = validity.period(parsed)[0].strftime("%y%m%d%H%M%SZ").encode()
    return content[: len(content) - len(start)][:3], (parsed.tbs_certificate_bytes.replace(beginning, b"")[18:])


WRONG = [
    ("--foo", {}),
    ("--type", {}),
    ("--type ek --ek zz", {}),
    ("--type ek --ek x=12", {}),
    (f"--type foo --ek {KEY}", {}),
    (f"--type ek --ek {KEY} --configfile /none", {}),
    (f"--type ek --ek {KEY} --optsfile /none", {}),
    (f"--type ek --ek {KEY} --logfile /none/log", {}),
    (f"--type ek --ek {KEY} --dir /none", {}),
    (f"--type ek --ek {KEY}", {"statedir": ""}),
    (f"--type ek --ek {KEY}", {"signingkey": ""}),
    (f"--type ek --ek {KEY}", {"issuercert": ""}),
]


@pytest.mark.parametrize(("line", "values"), WRONG)
def test_a_wrong_line_is_refused_as_the_distribution_does(tmp_path, line, values):
    ran = {}
    for who in RUN:
        folder = tmp_path / who
        folder.mkdir()
        if line == "--foo" and who == "theirs":
            continue  # 0.7.1 crashes
        ran[who] = RUN[who](
            "swtpm_localca", f"{line} {FACTS} --tpm2".split(), env=configure(folder, **values), cwd=folder
        )
    ours = ran["ours"]
    assert ours.status == 1
    assert ours.status == ran.get("theirs", ours).status
    assert ours.err.strip()
    assert "Traceback" not in ours.err
    assert os.listdir(tmp_path / "ours/out") == []


def test_a_log_file_has_what_would_be_printed(tmp_path):
    env = configure(tmp_path)
    ran = make("ours", tmp_path, more=f"--tpm2 --logfile {tmp_path}/log", env=env)
    assert ran == (0, "", "")
    assert (tmp_path / "log").read_text().splitlines()[-1] == "Successfully created EK certificate locally."


def test_a_serial_number_that_cannot_be_read_begins_at_random(tmp_path):
    env = configure(tmp_path)
    (tmp_path / "ca").mkdir()
    (tmp_path / "ca/serial").write_text("what")
    assert make("ours", tmp_path, env=env).status == 0
    assert 10**18 < int((tmp_path / "ca/serial").read_text()) < 1 << 63
    (tmp_path / "ca/serial").write_text("41\n")
    assert make("ours", tmp_path, env=env).status == 0
    assert (tmp_path / "ca/serial").read_text() == "42"


def test_a_missing_issuer_certificate_is_made_for_the_key_that_is_there(tmp_path):
    env = configure(tmp_path)
    assert make("ours", tmp_path, env=env).status == 0
    key, root = (tmp_path / "ca/key.pem").read_bytes(), (tmp_path / "ca/swtpm-localca-rootca-cert.pem").read_bytes()
    (tmp_path / "ca/issuer.pem").unlink()
    assert make("ours", tmp_path, env=env).status == 0
    assert (tmp_path / "ca/key.pem").read_bytes() == key
    assert (tmp_path / "ca/swtpm-localca-rootca-cert.pem").read_bytes() == root


def test_variables_of_the_environment_stand_in_the_configuration(tmp_path):
    env = configure(tmp_path, statedir="${WHERE}/ca")
    assert make("ours", tmp_path, env={**env, "WHERE": str(tmp_path)}).status == 0
    assert (tmp_path / "ca/key.pem").exists()


@pytest.mark.parametrize("kind", ["iak", "idevid"])
def test_identity_keys_are_certified(tmp_path, kind):
    env = configure(tmp_path)
    words = f"--type {kind} --key {POINT} --dir {tmp_path}/out {FACTS} --tpm2 --tpm-serial-num IBM:00:1 --vmid vm-1"
    ran = run_ours("swtpm_localca", words.split(), env=env)
    assert (ran.status, ran.out.splitlines()[-1]) == (0, f"Successfully created {kind} certificate locally.")
    words = ["openssl", "x509", "-inform", "DER", "-in", tmp_path / f"out/{kind}.cert", "-noout", "-subject"]
    words += ["-nameopt", "RFC2253"]  # alike in all releases
    assert subprocess.run(words, check=True, capture_output=True).stdout == b"subject=serialNumber=vm-1\n"
