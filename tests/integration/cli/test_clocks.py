"""A host whose clock was ahead or behind when it made its CA, by libfaketime, and openssl with the right time as the
verifier."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Optional

import pytest
from created_host import Host, served

pytestmark = pytest.mark.needs("faketime", "openssl")

AHEAD, BEHIND = "+3y", "@2001-02-03 04:05:06"


class ClockedHost(Host):
    """`at`: libfaketime's word for the host's clock; None: the right one."""

    at: Optional[str] = None

    def command(self, *words: object, user: str = "root") -> "list[str]":
        fake = ["faketime", "-f", self.at] if self.at else []
        return [*fake, *super().command(*words, user=user)]

    def run(self, *words: object) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(self.command(*words), capture_output=True, text=True, timeout=60, check=False)
        assert "Traceback" not in done.stderr
        return done

    def values(self, *words: object) -> "dict[str, Any]":
        done = self.run("--json", *words)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def issuer(self, days: int) -> None:
        """Import an issuer of openssl's that is valid from the host's now on for `days`."""
        fake = ["faketime", "-f", self.at] if self.at else []
        key, chain = self.folder / "key.pem", self.folder / "chain.pem"
        words = [
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-x509",
            "-days",
            str(days),
            "-subj",
            "/CN=own",
        ]
        words += ["-addext", "keyUsage=critical,keyCertSign", "-keyout", str(key), "-out", str(chain)]
        subprocess.run([*fake, "openssl", "req", *words], check=True, capture_output=True, timeout=60)
        assert self.run("ca", "import", chain, "--key", key, "--ca", self.ca).returncode == 0


@pytest.fixture
def host(tmp_path: Path) -> ClockedHost:
    return ClockedHost(tmp_path)


@pytest.mark.parametrize("clock", [AHEAD, BEHIND, None])
@pytest.mark.needs("swtpm", "tpm2-tools")
def test_what_was_made_with_a_wrong_clock_is_accepted_with_the_right_one(
    host: ClockedHost, clock: Optional[str]
) -> None:
    host.at = clock
    assert host.made("vm")["warnings"] == []
    host.at = None
    assert host.made("later")["warnings"] == [], "nor does a right clock mind that CA"
    assert {one["validity"] for one in host.values("ca", "show", "--ca", host.ca)["certificates"]} == {"valid"}
    for name in ("vm", "later"):
        with served(host.state / name) as tools:
            tools.certificate("0x1c00002", "ek")
            root = host.folder / "root.pem"
            root.write_text(host.run("ca", "export", "--chain", "--ca", host.ca).stdout)
            tools.run("openssl", "x509", "-inform", "der", "-in", "ek", "-out", "ek.pem")
            tools.run("openssl", "verify", "-ignore_critical", "-CAfile", str(root), "ek.pem")


def test_a_ca_that_is_yet_to_begin_is_told_everywhere(host: ClockedHost) -> None:
    host.at = AHEAD
    host.issuer(days=10)
    host.at = None
    [warning] = host.made("vm")["warnings"]
    assert (warning["code"], "is not valid before 20" in warning["message"]) == ("ca-unusable", True)
    assert "set the clock, if it is wrong" in warning["remedy"]
    shown = host.run("ca", "show", "--ca", host.ca).stdout
    assert ": NOT YET VALID\n" in shown
    assert "warning     " in shown
    assert [one["validity"] for one in host.values("ca", "show", "--ca", host.ca)["certificates"]] == ["not-yet-valid"]
    assert "is not accepted yet: CN=own is not valid before" in doctor(host)
    # a person's view of the same
    assert "vm2: warning: " in host.run("create", "vm2").stdout


def test_a_ca_that_has_expired_is_told_everywhere(host: ClockedHost) -> None:
    host.issuer(days=2)
    host.made("vm")
    host.at = "+3d"
    error = host.refused("vm2")
    assert (error["code"], "CN=own expired at" in error["message"]) == ("ca-unusable", True)
    assert ": EXPIRED\n" in host.run("ca", "show", "--ca", host.ca).stdout
    assert [one["validity"] for one in host.values("ca", "show", "--ca", host.ca)["certificates"]] == ["expired"]
    assert "CN=own expired at" in doctor(host)


@pytest.mark.parametrize(
    ("then", "validity", "words"), [(AHEAD, "not-yet-valid", "NOT YET VALID"), (None, "valid", "")]
)
def test_identity_tells_of_certificates_and_of_the_ca(
    host: ClockedHost, then: Optional[str], validity: str, words: str
) -> None:
    host.at = then
    host.issuer(days=10)
    host.made("vm")
    host.at = None
    with served(host.state / "vm") as tools:
        path = tools.tcti.partition("=")[2]
        values = host.values("identity", path, "--ca", host.ca)
        text = host.run("identity", path, "--ca", host.ca).stdout
    assert {one["validity"] for one in values["certificates"]} == {validity}
    assert bool(values["local_ca_complaint"]) == bool(words)
    assert (": NOT YET VALID" in text, "\nlocal CA: " in text) == (bool(words), bool(words))


def doctor(host: ClockedHost) -> str:
    """What vtpmctl doctor says of the CA of the host's instances."""
    (host.config / "vm.toml").write_text(f'[provision]\nca = "{host.ca}"\n')
    done = host.run("doctor")
    assert done.returncode != 0
    return "\n".join(line for line in done.stdout.splitlines() if "CA" in line or "CN=own" in line)


def test_the_fake_clock_is_one() -> None:
    words = ["faketime", "-f", AHEAD, sys.executable, "-c", "import time; print(time.time())"]
    import time

    assert (
        float(subprocess.run(words, capture_output=True, text=True, check=True).stdout) > time.time() + 2 * 365 * 86400
    )
