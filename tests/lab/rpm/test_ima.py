"""IMA appraisal in force over our files (docs/ima.md): what was signed runs, what was changed does not, and one is
told.

After test_reboot.py, on a machine booted with ima_appraise=enforce. The order of the tests matters: the kernel takes
one policy.
"""

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from device_clients import Client
from services import run, selinux_type, systemctl
from tpm_commands import GET_RANDOM, TPM12_GET_MANUFACTURER

pytestmark = pytest.mark.needs("systemd", "root", "cuse", "ima")

PACKAGE = "python3-swtpm"
CLASSIC = "python3-swtpm-compat"
LAUNCHER = Path("/usr/libexec/vtpm/vtpmd")
MANUAL = Path("docs/ima.md")
ATTRIBUTE = "security.ima"


def modules():
    (package,) = (path for path in run("rpm", "-ql", PACKAGE).stdout.splitlines() if path.endswith("/swtpm_svc"))
    return Path(package)


def signed_files(package=PACKAGE):
    signatures = Path(f"/usr/share/vtpm/ima/{package}.signatures").read_text()
    return [Path(line.split("\t")[0]) for line in signatures.splitlines()]


def attribute(path):
    try:
        return os.getxattr(path, ATTRIBUTE)
    except OSError:
        return b""


def dnf(*words):
    done = subprocess.run(["dnf", "-y", *words], capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def reinstall():
    dnf("reinstall", PACKAGE)


def doctor(expect):
    found = json.loads(run("vtpmctl", "--json", "doctor", "--ima", expect=expect).stdout)["findings"]
    return {entry["check"]: entry for entry in found if entry["verdict"] == "fail"}


def flip_a_byte(*paths):
    """In place, so that the signature stays; once more, and the file is what it was."""
    for path in paths:
        with open(path, "r+b", buffering=0) as file:
            file.seek(-2, os.SEEK_END)
            byte = file.read(1)
            file.seek(-2, os.SEEK_END)
            file.write(bytes([byte[0] ^ 1]))


def targets(what):
    """Files to be changed. Of a module also its .pyc: Python takes the one that the kernel does not refuse."""
    if what == "launcher":
        return [LAUNCHER]
    if what == "module":
        module = modules() / "service/loop.py"  # which vtpmctl does not need
        return [module, *(module.parent / "__pycache__").glob("loop.*.pyc")]
    return list((modules() / "tpm").glob("*.so"))


def answers(device, command):
    client = Client(device)
    assert client(command)[6:10] == bytes(4)
    client.close()


def test_without_ima_in_use_nothing_was_done():
    """By the installations of test_package.py, when this machine had been booted without a word about IMA."""
    assert len(signed_files()) > 100
    assert {attribute(path)[:1] for path in signed_files()} <= {b""}


def test_an_installation_puts_the_signatures_in_place():
    reinstall()
    assert {attribute(path)[:2] for path in signed_files()} == {b"\x03\x02"}
    assert doctor(expect=0) == {}


def test_the_old_command_names_have_theirs():
    dnf("install", CLASSIC)
    assert {attribute(path)[:2] for path in signed_files(CLASSIC)} == {b"\x03\x02"}
    assert Path("/usr/bin/swtpm") in signed_files(CLASSIC)
    assert doctor(expect=0) == {}
    os.removexattr("/usr/share/swtpm/swtpm-localca", ATTRIBUTE)
    assert set(doctor(expect=69)) == {"/usr/share/swtpm/swtpm-localca"}
    run("/usr/libexec/vtpm/vtpm-ima", "apply")
    assert doctor(expect=0) == {}


def test_what_was_signed_runs_under_the_policy_of_the_manual():
    ring = run("keyctl", "newring", "_ima", "@u").stdout.strip()
    run("keyctl", "link", "@u", "@s")
    with open("/usr/share/vtpm/ima/certificate.der", "rb") as certificate:
        subprocess.run(["keyctl", "padd", "asymmetric", "", ring], stdin=certificate, check=True, capture_output=True)
    run("keyctl", "setperm", ring, "0x1f0f0000")
    rules = re.findall(r"^    (appraise .*)$", MANUAL.read_text(), re.MULTILINE)
    assert len(rules) == 5
    Path("/sys/kernel/security/ima/policy").write_text("\n".join(rules) + "\n")
    LAUNCHER.read_bytes()  # the kernel looks for the keyring as who reads the first file, and keeps it
    systemctl("restart", "a", "vtpm0")
    answers("/dev/a", GET_RANDOM)
    answers("/dev/vtpm0", TPM12_GET_MANUFACTURER)
    systemctl("stop", "vtpm0")
    assert doctor(expect=0) == {}


def test_a_changed_pyc_is_passed_over_and_named():
    _, *cached = targets("module")
    cached += (modules() / "cli/vtpmctl/__pycache__").glob("entry.*.pyc")  # root's vtpmctl does not write it anew
    assert len(cached) == 2
    systemctl("stop", "a")
    flip_a_byte(*cached)
    systemctl("start", "a")
    assert set(doctor(expect=69)) == {str(path) for path in cached}
    systemctl("stop", "a")
    flip_a_byte(*cached)


@pytest.mark.parametrize("what", ["launcher", "module", "shared object"])
def test_what_was_changed_does_not_run_and_is_named(what):
    changed = targets(what)
    flip_a_byte(*changed)
    since = f"@{time.time():.6f}"
    systemctl("start", "a", expect=1)
    systemctl("stop", "a")
    assert not os.path.exists("/dev/a")
    run("journalctl", "--sync")
    assert "ermission denied" in run("journalctl", "-b", "-o", "cat", "--since", since).stdout
    told = run("journalctl", "-b", "-o", "cat").stdout
    if run("systemctl", "is-active", "systemd-journald-audit.socket", expect=None).returncode:
        told = Path("/var/log/audit/audit.log").read_text(
            errors="replace"
        )  # a journal without audit records, as trixie has it
    refused = [line for line in told.splitlines() if "appraise_data" in line and f'name="{changed[0]}"' in line]
    assert refused, told[-3000:]
    assert "invalid-signature" in refused[-1]
    run("systemctl", "reset-failed", "vtpm@a.service", expect=None)  # else it is named, too
    without = {"libtpms"} if what == "shared object" else set()  # which it is there to load
    assert set(doctor(expect=69)) == {str(path) for path in changed} | without
    flip_a_byte(*changed)


def test_a_reinstallation_mends_it():
    flip_a_byte(*targets("launcher"), *targets("module"), *targets("shared object"))
    systemctl("start", "a", expect=1)
    systemctl("stop", "a")
    reinstall()
    run("systemctl", "reset-failed", "vtpm@a.service", expect=None)
    systemctl("start", "a")
    answers("/dev/a", GET_RANDOM)
    assert doctor(expect=0) == {}


def test_a_host_with_a_key_signs_what_a_policy_in_force_hides():
    """The new files have no signature, so that nobody can read them: vtpm-ima signs the digests that rpm has."""
    before = {attribute(path)[3:7] for path in signed_files()}
    own = Path("/etc/vtpm.d/ima")
    for name in ("key.pem", "certificate.der"):
        shutil.copyfile(f"../repositories/host/{name}", own / name)  # without the label that it has there
    (own / "key.pem").chmod(0o600)
    assert {selinux_type(path) for path in (own, own / "key.pem")} == {"vtpm_ima_key_t"}
    ring = run("keyctl", "search", "@u", "keyring", "_ima").stdout.strip()
    with open(own / "certificate.der", "rb") as certificate:
        subprocess.run(["keyctl", "padd", "asymmetric", "", ring], stdin=certificate, check=True, capture_output=True)
    reinstall()
    assert len(before | {attribute(path)[3:7] for path in signed_files()}) == len(before) + 1
    systemctl("restart", "a")
    assert doctor(expect=0) == {}


def test_selinux_had_no_objection():
    run("journalctl", "--sync")
    log = Path("/var/log/audit/audit.log").read_text(errors="replace")
    assert "INTEGRITY_DATA" in log
    denied = [
        line for line in log.splitlines() if re.search(r"avc: +denied", line) and re.search(r":vtpm(_\w+)?_t:", line)
    ]
    assert denied == []
