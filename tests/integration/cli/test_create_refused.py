"""What `vtpmctl create` does not make: what is said, and that what is there stays as it is."""

import hashlib
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from created_host import Host

from swtpm_svc.errors import Code
from swtpm_svc.provision import ca_directory
from swtpm_svc.state import newborn


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("../x",), Code.USAGE, "instance name"),
        (("vm1", "--tpm-version", "3"), Code.CONFIG_INVALID, "[tpm] version"),
        (("vm1", "--ek", "dsa"), Code.CONFIG_INVALID, "[provision] endorsement-keys"),
        (("vm1", "--ek", "rsa2048,rsa2048"), Code.CONFIG_INVALID, "[provision] endorsement-keys"),
        (("vm1", "--pcr-banks", ""), Code.CONFIG_INVALID, "[provision] pcr-banks"),
        (("vm1", "--srk", "x"), Code.CONFIG_INVALID, "[provision] storage-key"),
        (("vm1", "--platform-model", "ä"), Code.CONFIG_INVALID, "[provision] platform-model"),
        (("vm1", "--platform-version", ""), Code.CONFIG_INVALID, "[provision] platform-version"),
        (("vm1", "--idevid", "--platform-serial", "SN_1@b*c"), Code.CONFIG_INVALID, "[provision] platform-serial"),
        (("vm1", "--group", "no-such-group"), Code.USER_MISSING, "no-such-group"),
        (("vm1", "--tpm-version", "1.2", "--iak"), Code.CONFIG_INVALID, "idevid, iak"),
        (("vm1", "--iak", "--no-certificates"), Code.CONFIG_INVALID, "certificates"),
        (("vm1", "--key-file", "/no/such/key"), Code.KEY_UNUSABLE, "/no/such/key"),
        (("vm1", "--key-file", "/no/such/key\udcff"), Code.USAGE, "--key-file"),
        (("vm1", "--platform-model", "\udcff"), Code.USAGE, "--platform-model"),
        (("vm1", "--profile", "/no/such\x7f"), Code.USAGE, "--profile"),
        (("vm1", "--ca", ""), Code.USAGE, "--ca"),
        (("vm1", "--passphrase-file", ""), Code.USAGE, "--passphrase-file"),
        (("vm1", "--key-mode", "aes-cbc"), Code.CONFIG_INVALID, "no key"),
        (("vm1", "--key-file", __file__, "--key-format", "rot13"), Code.CONFIG_INVALID, "[state] key-format"),
        (("vm1", "--tpm-version", "1.2", "--profile", "null"), Code.CONFIG_INVALID, "[tpm] profile"),
        (("vm1", "--tpm-version", "1.2", "--ek", "ecc-p384", "--srk", "rsa2048"), Code.USAGE, "--ek, --srk"),
        (("vm1", "--profile", "a b"), Code.CONFIG_INVALID, "[tpm] profile"),
        (("vm1", "--profile", "/no/such/profile"), Code.STATE_UNREADABLE, "/no/such/profile"),
        (("vm1", "--profile", __file__), Code.CONFIG_INVALID, "not a JSON object"),
        (("vm1", "--profile", "no-such-profile"), Code.TPM_REFUSED, "profile"),
        (("vm1", "-pwdo", "word"), Code.USAGE, "ownership of a TPM 1.2 only"),
        (("vm1", "--srk-password-file", __file__), Code.TOO_LARGE, "not a password"),
        (("vm1", "--ek", "rsa4096"), Code.TPM_REFUSED, "CreatePrimary"),
    ],
)
def test_what_cannot_be_made_is_said_and_leaves_nothing(host: Host, words: Any, code: Code, says: str) -> None:
    if "rsa4096" in words and _has_rsa4096():
        pytest.skip("unobtainable: a libtpms without RSA 4096")
    error = host.refused(*words)
    assert (error["code"], says in error["message"]) == (code.value, True), error
    assert [path for path in host.tree() if not path.startswith(str(host.ca))] == []


def test_a_profile_that_is_a_pipe_keeps_nobody_waiting(host: Host, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    error = host.refused("vm1", "--profile", str(tmp_path / "pipe"))
    assert (error["code"], "not a JSON object" in error["message"]) == ("config-invalid", True)


def _has_rsa4096() -> bool:
    from swtpm_svc.tpm import libtpms

    return tuple(map(int, libtpms.version().split("."))) >= (0, 10, 0)


def test_a_failure_does_not_wait_for_the_ca(host: Host) -> None:
    """Another process has the CA's lock, and this one needs no CA any more."""
    with ca_directory.CaDirectory(str(host.ca)).locked():
        begin = time.monotonic()
        assert host.refused("vm1", "--profile", __file__)["code"] == "config-invalid"
    assert time.monotonic() - begin < ca_directory.LOCK_TIME_S / 2


def test_nothing_that_is_there_is_touched(host: Host) -> None:
    host.made("vm1", "--no-certificates")
    (host.config / "vm2.toml").symlink_to("/nowhere")
    before = host.tree()
    assert host.refused("vm1")["code"] == "already-provisioned"
    assert host.refused("vm2")["code"] == "already-provisioned"
    os.unlink(host.config / "vm1.toml")
    del before[str(host.config / "vm1.toml")]
    error = host.refused("vm1")
    assert "has a TPM already" in error["message"]
    assert host.tree() == before


def test_a_state_that_was_used_is_not_taken_for_one_that_was_not(host: Host) -> None:
    """The mark of a killed run, and a TPM that has run since."""
    host.made("vm1", "--no-certificates")
    os.unlink(host.config / "vm1.toml")
    (host.state / "vm1" / newborn.MARKER).write_text("0" * 64)
    before = host.tree()
    assert host.refused("vm1")["code"] == "already-provisioned"
    assert host.tree() == before


def test_what_a_killed_run_has_left_is_replaced(host: Host) -> None:
    """The state is there first, with its mark. The next run takes what was not used for what it is."""
    host.made("vm1", "--no-certificates")
    state = host.state / "vm1"
    unused = (state / "tpm2-00.permall").read_bytes()
    (state / newborn.MARKER).write_text(hashlib.sha256(unused).hexdigest())
    os.unlink(host.config / "vm1.toml")
    host.made("vm1", "--tpm-version", "1.2", "--no-certificates")
    assert sorted(os.listdir(state)) == [".lock", "tpm-00.permall"]
    assert unused not in host.tree().values()


def test_a_full_disk_leaves_nothing(host: Host) -> None:
    words = host.command("create", "vm1", "--no-certificates")
    limited = subprocess.run(
        ["bash", "-c", 'ulimit -f 1; exec "$@"', "-", *words], capture_output=True, text=True, check=False
    )
    assert limited.returncode == 74, limited.stderr
    assert "Traceback" not in limited.stderr
    assert not (host.state / "vm1").exists()
    assert not list(host.config.iterdir())
    host.made("vm1", "--no-certificates")
    assert os.listdir(host.state) == ["vm1"]


def test_a_damaged_ca_is_not_replaced(host: Host) -> None:
    host.made("vm1")
    (host.ca / "current" / "chain.pem").write_text("nothing")
    before = host.tree()
    assert host.refused("vm2")["code"] == "ca-unusable"
    assert host.tree() == before
