"""vtpmctl ca as an administrator or a script meets it."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509

from swtpm_svc.cli import command_line
from swtpm_svc.cli.vtpmctl import entry
from swtpm_svc.cli.vtpmctl.commands import PROGRAM
from swtpm_svc.provision import ca, ca_directory

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def place(tmp_path: Path) -> str:
    return str(tmp_path / "ca")


@pytest.fixture
def run(place, capsys):
    """(exit status, standard output, standard error) of vtpmctl ca ARGUMENTS."""

    def run(*arguments: str) -> "tuple[int, str, str]":
        status = entry.main(["ca", *arguments, "--ca", place])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return status, captured.out, captured.err

    return run


def test_show_says_what_there_is_to_know(run, place):
    issuer, root = ca.obtain(place).chain
    status, text, _ = run("show")
    assert status == 0
    for found in (issuer, root):
        for words in (
            found.subject.rfc4514_string(),
            f"{found.serial_number:x}",
            "EC secp384r1",
            "9999-12-31T23:59:59Z",
        ):
            assert words in text


def test_show_tells_a_program_the_fingerprint_that_openssl_shows(run, place):
    ca.obtain(place)
    values = json.loads(run("show", "--json")[1])
    assert values["directory"] == place
    assert values["signer"] is None
    assert [found["role"] for found in values["certificates"]] == ["issuer", "root"]
    _, text, _ = run("export")
    shown = subprocess.run(
        ["openssl", "x509", "-noout", "-fingerprint", "-sha256"], input=text, capture_output=True, text=True, check=True
    ).stdout
    assert shown.strip().split("=")[1] == values["certificates"][1]["sha256"]


def test_show_makes_no_ca_but_says_how(run, place):
    status, text, error = run("show")
    assert (status, text) == (66, "")
    assert error == f"vtpmctl: there is no CA in {place}\n  remedy: make one: vtpmctl ca create --ca {place}\n"
    assert not os.path.exists(place)


def test_create_makes_it_once(run, place):
    first, second = run("create"), run("create")
    assert first == second
    assert first[0] == 0
    assert ca.load(place).certificate.subject.rfc4514_string() in first[1]


def test_export_gives_the_root_or_the_chain(run, place):
    chain = ca.obtain(place).chain
    assert run("export")[1].encode() == ca.pem(chain[1])
    assert run("export", "--chain")[1].encode() == ca.pem(chain[0]) + ca.pem(chain[1])
    assert json.loads(run("export", "--json")[1]) == {"pem": ca.pem(chain[1]).decode()}


def test_export_to_a_file_that_verifiers_can_read(run, place, tmp_path):
    chain = ca.obtain(place).chain
    target = tmp_path / "root.pem"
    mask = os.umask(0o022)
    try:
        status, text, _ = run("export", "--output", str(target))
    finally:
        os.umask(mask)
    assert (status, text) == (0, f"{target}: certificates written: 1\n")
    assert target.read_bytes() == ca.pem(chain[1])
    assert stat.S_IMODE(target.stat().st_mode) == 0o644


def test_import_says_where_the_old_one_is(run, place, tmp_path):
    ca.obtain(str(tmp_path / "other"))
    files = [str(tmp_path / "other/current" / name) for name in (ca.CHAIN, ca.ISSUER_KEY)]
    ca.obtain(place)
    assert run("import", files[0], "--key", files[1])[0] == 73
    status, text, _ = run("import", files[0], "--key", files[1], "--force", "--json")
    assert status == 0
    assert os.listdir(json.loads(text)["replaced"])
    assert ca.load(place).chain == ca.load(str(tmp_path / "other")).chain


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ([], 64, "required: CHAIN"),
        (["chain"], 64, "one of --key and --signer is required"),
        (["chain", "--key", "k", "--signer", "s"], 64, "one of --key and --signer is required"),
        (["/no/chain", "--key", "/no/key"], 66, "/no/chain cannot be read"),
        (["/dev/zero", "--key", os.devnull], 65, "/dev/zero has more than 1048576 bytes"),
        ([os.devnull, "--key", "/dev/zero"], 65, "/dev/zero has more than 1048576 bytes"),
        ([os.devnull, "--key", os.devnull, "--ca", ""], 64, "--ca: expected a path"),
        ([os.devnull, "--key", os.devnull], 65, "should have certificates in PEM"),
    ],
)
def test_an_import_that_cannot_be_is_one_line_of_cause_and_one_of_remedy(run, arguments, status, words):
    found, text, error = run("import", *arguments)
    cause, remedy = error.splitlines()
    assert (found, text) == (status, "")
    assert words in cause
    assert remedy.startswith("  remedy: ")


def test_a_damaged_ca_is_told_to_a_program_too(run, place):
    ca.obtain(place)
    Path(place, "current/chain.pem").write_text("")
    status, text, _ = run("show", "--json")
    assert (status, json.loads(text)["error"]["code"]) == (65, "ca-unusable")


def test_without_cryptography_it_is_said_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    status, _, error = run("show")
    assert status == 69
    assert "python3-cryptography" in error


def test_nobody_pays_for_cryptography_who_does_not_use_the_ca():
    """Its import takes longer than the daemon's start and vtpmctl list together."""
    program = (
        "import sys; import swtpm_svc.service.vtpmd, swtpm_svc.service.daemon; from swtpm_svc.cli import command_line;"
        "from swtpm_svc.cli.vtpmctl import authority; from swtpm_svc.cli.vtpmctl.commands import PROGRAM;"
        "command_line.parse(PROGRAM, ['ca', 'show']); print('cryptography' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_default_place_is_the_one_in_the_manual():
    assert f".Pa {ca_directory.DIRECTORY} ." in (ROOT / "docs/man/vtpmctl.8").read_text()
    assert command_line.parse(PROGRAM, ["ca", "show"])[1]["directory"] == ca_directory.DIRECTORY
    assert command_line.parse(PROGRAM, ["identity"])[1]["directory"] == ca_directory.DIRECTORY


def test_a_certificate_of_the_export_is_a_ca(run, place):
    run("create")
    found = x509.load_pem_x509_certificate(run("export")[1].encode())
    assert found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
