"""A CA whose key is elsewhere: openssl, a PKCS#11 token, and commands that do not keep the contract."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from cryptography import x509

from swtpm_svc.cli.vtpmctl import entry
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.provision import ca, ca_signer

pytestmark = pytest.mark.needs("openssl")

SOFTHSM = "/usr/lib/softhsm/libsofthsm2.so"
PIN = "123456"
KEYS = {
    "rsa": ("-algorithm RSA -pkeyopt rsa_keygen_bits:2048", "sha256"),
    "p256": ("-algorithm EC -pkeyopt ec_paramgen_curve:P-256", "sha256"),
    "p384": ("-algorithm EC -pkeyopt ec_paramgen_curve:P-384", "sha384"),
    "p521": ("-algorithm EC -pkeyopt ec_paramgen_curve:P-521", "sha512"),
}


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


def make_issuer(directory: Path, kind: str) -> "tuple[Path, Path]":
    """(key, self-signed CA certificate), made by openssl."""
    key, certificate = directory / f"{kind}.key", directory / f"{kind}.pem"
    run("openssl", "genpkey", *KEYS[kind][0].split(), "-out", str(key))
    extensions = ["-addext", "basicConstraints=critical,CA:true", "-addext", "keyUsage=critical,keyCertSign"]
    run(
        "openssl",
        "req",
        "-x509",
        "-new",
        "-key",
        str(key),
        "-subj",
        f"/CN={kind}",
        "-days",
        "9",
        *extensions,
        "-out",
        str(certificate),
    )
    return key, certificate


def issue_and_verify(authority: ca.Authority, root: Path, tmp_path: Path) -> None:
    """A certificate by the authority, which openssl accepts."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "leaf")])
    builder = x509.CertificateBuilder().subject_name(name).public_key(authority.key.public_key())
    (tmp_path / "leaf.pem").write_bytes(ca.pem(authority.issue(builder)))
    run("openssl", "verify", "-CAfile", str(root), str(tmp_path / "leaf.pem"))


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("kind", KEYS)
def test_openssl_signs(tmp_path, kind):
    key, certificate = make_issuer(tmp_path, kind)
    place = str(tmp_path / "ca")
    signer = f"openssl dgst -{KEYS[kind][1]} -sign '{key}'"
    assert entry.main(["ca", "import", str(certificate), "--signer", signer, "--ca", place]) == 0
    authority = ca.load(place)
    assert authority.signer
    assert authority.signer.words == (shutil.which("openssl"), "dgst", f"-{KEYS[kind][1]}", "-sign", str(key))
    assert sorted(os.listdir(f"{place}/current")) == ["chain.pem", "signer.json"]
    issue_and_verify(authority, certificate, tmp_path)


@pytest.mark.needs("softhsm2", "pkcs11-tool")
@pytest.mark.parametrize("kind", ["rsa", "p256"])
def test_a_pkcs11_token_signs(tmp_path, kind, monkeypatch):
    """softhsm2 by pkcs11-tool. The token's ECDSA takes a digest and gives r and s without any structure."""
    (tmp_path / "tokens").mkdir()
    (tmp_path / "softhsm2.conf").write_text(f"directories.tokendir = {tmp_path}/tokens\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "softhsm2.conf"))
    monkeypatch.setenv("CA_PIN", PIN)
    key, certificate = make_issuer(tmp_path, kind)
    run("softhsm2-util", "--init-token", "--free", "--label", "ca", "--so-pin", "0000", "--pin", PIN)
    run("softhsm2-util", "--import", str(key), "--token", "ca", "--label", "issuer", "--id", "01", "--pin", PIN)
    key.unlink()
    tool = f"pkcs11-tool --module {SOFTHSM} --token-label ca --login --pin env:CA_PIN --id 01 --sign --mechanism"
    if kind == "rsa":
        signer = f"{tool} SHA256-RSA-PKCS"
    else:
        signer = script(tmp_path / "signer", f"openssl dgst -sha256 -binary | {tool} ECDSA")
    place = str(tmp_path / "ca")
    assert entry.main(["ca", "import", str(certificate), "--signer", signer, "--ca", place]) == 0
    issue_and_verify(ca.load(place), certificate, tmp_path)

    monkeypatch.setenv("CA_PIN", "wrong")
    with pytest.raises(VtpmError) as caught:
        issue_and_verify(ca.load(place), certificate, tmp_path)
    assert caught.value.code is Code.CA_SIGNER
    assert "PIN" in caught.value.message


NO_SIGNATURE = "are not a signature by the key of the CA's certificate"
BY_HAND = "try it by hand; vtpmctl ca show has all of the command"
ONLY_THE_SIGNATURE = "let it write the signature to standard output, and nothing else"
WAITS = "see what it waits for; it has no terminal"
WITH_THAT_KEY = "let it sign standard input with that key and sha256, see vtpmctl(8)"


@pytest.mark.parametrize(
    ("text", "words", "remedy"),
    [
        ("exit 3", "failed with status 3", BY_HAND),
        ("echo no token >&2; exit 1", "failed with status 1: no token", BY_HAND),
        ("kill -9 $$", "failed with status -9", BY_HAND),
        ("true", "gave 0 bytes", ONLY_THE_SIGNATURE),
        ("head -c 1 /dev/zero", f"gave 1 bytes that {NO_SIGNATURE}", WITH_THAT_KEY),
        ("head -c 4096 /dev/zero", f"gave 4096 bytes that {NO_SIGNATURE}", WITH_THAT_KEY),
        ("head -c 4097 /dev/zero", "gave 4097 bytes", ONLY_THE_SIGNATURE),
        ("cat /dev/zero | head -c 100000", "gave 100000 bytes", ONLY_THE_SIGNATURE),
        ("cat /dev/zero", " bytes, and more", ONLY_THE_SIGNATURE),
        ("cat /dev/zero >&2", "gave no answer in 5 s", WAITS),
        ("head -c 10000000 /dev/zero >&2; echo the end >&2; exit 1", "the end", BY_HAND),
        ("echo nonsense", NO_SIGNATURE, WITH_THAT_KEY),
        ("head -c 64 /dev/zero", NO_SIGNATURE, WITH_THAT_KEY),
        ("openssl dgst -sha256 -sign OTHER", NO_SIGNATURE, WITH_THAT_KEY),
        ("openssl dgst -sha512 -sign KEY", NO_SIGNATURE, WITH_THAT_KEY),
        ("exec <&-; sleep 0.1; openssl dgst -sha256 -sign KEY /etc/hostname", NO_SIGNATURE, WITH_THAT_KEY),
    ],
)  # fmt: skip
def test_a_signer_that_does_not_sign_is_refused(tmp_path, monkeypatch, capsys, text, words, remedy):
    monkeypatch.setattr(ca_signer, "SIGN_TIME_S", 5.0)
    key, certificate = make_issuer(tmp_path, "p256")
    other, _ = make_issuer(tmp_path, "p384")
    signer = script(tmp_path / "signer", text.replace("KEY", str(key)).replace("OTHER", str(other)))
    status = entry.main(["ca", "import", str(certificate), "--signer", signer, "--ca", str(tmp_path / "ca")])
    cause, told = capsys.readouterr().err.splitlines()
    assert status == 75
    assert cause.endswith(words)
    assert told == f"  remedy: {remedy}"
    assert not (tmp_path / "ca").exists()


@pytest.mark.parametrize("then", ["wait", "exit 0"])
def test_a_signer_that_hangs_is_ended_with_all_that_it_started(tmp_path, monkeypatch, then):
    monkeypatch.setattr(ca_signer, "SIGN_TIME_S", 0.5)
    _, certificate = make_issuer(tmp_path, "p256")
    signer = script(tmp_path / "signer", f"sleep 300 & echo $! > {tmp_path}/child; {then}")
    with pytest.raises(VtpmError) as caught:
        ca.import_issuer(certificate.read_bytes(), command=(signer,), directory=str(tmp_path / "ca"))
    assert "gave no answer" in caught.value.message
    child = (tmp_path / "child").read_text().strip()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and "\nState:\tZ" not in Path(f"/proc/{child}/status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_signer_that_is_gone_is_an_error_and_the_ca_stays(tmp_path):
    key, certificate = make_issuer(tmp_path, "p256")
    signer = script(tmp_path / "signer", f"openssl dgst -sha256 -sign {key}")
    place = str(tmp_path / "ca")
    ca.import_issuer(certificate.read_bytes(), command=(signer,), directory=place)
    os.unlink(signer)
    with pytest.raises(VtpmError) as caught:
        issue_and_verify(ca.obtain(place), certificate, tmp_path)
    assert caught.value.code is Code.CA_SIGNER
    assert caught.value.message == f"the CA's signer {signer} cannot be run: No such file or directory"
    assert caught.value.remedy == f"see what keeps it: ls -l {signer}; or import the CA again with another command"


@pytest.mark.needs("root", "setpriv")
def test_root_runs_the_signer_as_the_user_whom_the_ca_belongs_to(tmp_path):
    """Or whoever can write the directory could have anything run by root."""
    key, certificate = make_issuer(tmp_path, "p256")
    for path in (tmp_path, *tmp_path.parents):
        if str(path).startswith("/tmp/"):
            path.chmod(0o755)
    key.chmod(0o644)
    place = tmp_path / "ca"
    place.mkdir(mode=0o700)
    (tmp_path / "out").mkdir()
    for path in (place, tmp_path / "out"):
        os.chown(path, 65534, 65534)
    signer = script(tmp_path / "signer", f"id -u > {tmp_path}/out/uid; openssl dgst -sha256 -sign {key}")
    authority, _ = ca.import_issuer(certificate.read_bytes(), command=(signer,), directory=str(place))
    assert (tmp_path / "out/uid").read_text() == "65534\n"
    (tmp_path / "out/uid").unlink()
    issue_and_verify(authority, certificate, tmp_path)
    assert (tmp_path / "out/uid").read_text() == "65534\n"
    assert {path.stat().st_uid for path in place.rglob("*")} == {65534}

    asked = ["setpriv", "--reuid=65533", "--regid=65533", "--clear-groups", "cat", f"{place}/current/signer.json"]
    assert subprocess.run(asked, capture_output=True, check=False).returncode != 0


@pytest.mark.parametrize("line", ["", "'", "no-such-program -x"])
def test_a_command_line_that_cannot_be_is_status_64(tmp_path, line):
    _, certificate = make_issuer(tmp_path, "p256")
    assert entry.main(["ca", "import", str(certificate), "--signer", line, "--ca", str(tmp_path / "ca")]) == 64
