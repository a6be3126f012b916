"""IMA appraisal in force over our files (docs/ima.md): what was signed runs, what was changed does not, and one is told.

After test_reboot.py, on a machine booted with ima_appraise=enforce. The order of the tests matters: the kernel takes one policy.
"""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from device_clients import Client
from services import run, show, systemctl
from tpm_commands import GET_RANDOM

pytestmark = pytest.mark.needs("systemd", "root", "cuse")

PACKAGE = "python3-swtpm"
LAUNCHER = Path("/usr/libexec/vtpm/vtpmd")
MANUAL = Path("docs/ima.md")
ATTRIBUTE = "security.ima"


def modules():
    (package,) = (path for path in run("rpm", "-ql", PACKAGE).stdout.splitlines() if path.endswith("/swtpm_svc"))
    return Path(package)


def signed_files():
    return [Path(line.split("\t")[0]) for line in Path("/usr/share/vtpm/ima/signatures").read_text().splitlines()]


def attribute(path):
    try:
        return os.getxattr(path, ATTRIBUTE)
    except OSError:
        return b""


def reinstall():
    done = subprocess.run(["dnf", "-y", "reinstall", PACKAGE], capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def doctor(expect):
    found = json.loads(run("vtpmctl", "--json", "doctor", "--ima", expect=expect).stdout)
    return {entry["check"]: entry for entry in found if entry["verdict"] == "fail"}


def flip_a_byte(path):
    with open(path, "r+b", buffering=0) as file:
        file.seek(-2, os.SEEK_END)
        byte = file.read(1)
        file.seek(-2, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))


def test_without_ima_in_use_nothing_was_done():
    """By the installations of test_package.py, when this machine had been booted without a word about IMA."""
    assert len(signed_files()) > 100
    assert {attribute(path)[:1] for path in signed_files()} <= {b""}


def test_an_installation_puts_the_signatures_in_place():
    reinstall()
    assert {attribute(path)[:2] for path in signed_files()} == {b"\x03\x02"}
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
    systemctl("restart", "a")
    client = Client("/dev/a")
    assert client(GET_RANDOM)[6:10] == bytes(4)
    client.close()
    assert doctor(expect=0) == {}


@pytest.mark.parametrize("what", ["launcher", "module", "shared object"])
def test_what_was_changed_does_not_run_and_is_named(what):
    path = {
        "launcher": LAUNCHER,
        "module": modules() / "service/loop.py",
        "shared object": next((modules() / "tpm").glob("*.so")),
    }[what]
    systemctl("stop", "a")
    flip_a_byte(path)
    if what == "module":  # a changed .pyc is passed over, and so is one that fits no more
        for cached in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            cached.unlink()
    systemctl("start", "a", expect=1)
    systemctl("stop", "a")
    assert not os.path.exists("/dev/a")
    run("journalctl", "--sync")
    told = run("journalctl", "-b", "-o", "cat").stdout
    assert "ermission denied" in told
    refused = [line for line in told.splitlines() if "appraise_data" in line and f'name="{path}"' in line]
    assert refused, told[-3000:]
    assert "invalid-signature" in refused[-1]
    assert str(path) in doctor(expect=69)
    reinstall()
    run("systemctl", "reset-failed", "vtpm@a.service", expect=None)
    systemctl("start", "a")
    assert show("a", "ActiveState") == "active"
    assert doctor(expect=0) == {}
