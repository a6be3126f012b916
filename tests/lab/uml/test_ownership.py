"""The classic session with TPMs 1.2 at real devices: endorsement key, ownership, public key."""

import json
import os
import subprocess

import pytest
from device_clients import Client
from manager import run
from tpm_commands import TPM12_GET_MANUFACTURER

from swtpm_svc.cli import tpm_connection
from swtpm_svc.cli.vtpmctl.entry import STATUS_INTERRUPTED, main
from swtpm_svc.wire.command_codes import CommandCode

pytestmark = pytest.mark.needs("cuse", "root", "udev", "accounts", "binding")


def vtpmctl(*words, status=0, folder=None, environment=None):
    options = {"capture_output": True, "text": True, "timeout": 300, "check": False, "cwd": folder, "env": environment}
    done = subprocess.run(["vtpmctl", *map(str, words)], **options)
    assert done.returncode == status, (words, done.stdout, done.stderr)
    return done.stdout if status == 0 else done.stderr


def test_the_classic_session_for_two_instances(instance, tmp_path):
    (tmp_path / "owner").write_text("ownerpass\n")
    (tmp_path / "wrong").write_text("another\n")
    password, wrong = ("--owner-password-file", tmp_path / "owner"), ("--owner-password-file", tmp_path / "wrong")
    moduli = []
    for name in ("vtpm0", "vtpm1"):
        one = instance(name, version="1.2").start()
        vtpmctl("init", name, "--no-startup")  # createek sends it, as a machine's firmware does
        assert "TPM_INVALID_POSTINIT" in vtpmctl("getpubek", name, status=69)
        assert "RSA 2048" in vtpmctl("createek", name)
        client = Client(one.device)
        vtpmctl("takeown", name, *password)
        assert "TPM_AUTHFAIL" in vtpmctl("getpubek", name, *wrong, status=77, folder=tmp_path)
        lines = vtpmctl("getpubek", name, *password, folder=tmp_path).splitlines()
        assert lines[:3] == ["pubek.pem successfully written", "Pubek keylength 256", "Modulus:"]
        assert [len(line.split()) for line in lines[3:]] == [16] * 16
        environment = {**os.environ, "TPM_DEVICE": one.device}
        again = json.loads(vtpmctl("getpubek", *password, "--json", folder=tmp_path, environment=environment))
        assert again["device"] == one.device
        assert bytes.fromhex(again["modulus"]) == bytes.fromhex(" ".join(lines[3:]))
        assert "PUBLIC KEY" in run("openssl", "pkey", "-pubin", "-in", str(tmp_path / "pubek.pem")).stdout
        moduli.append(lines[3:])
        assert client(TPM12_GET_MANUFACTURER)[6:10] == bytes(4)  # other clients go on
        client.close()
    assert moduli[0] != moduli[1]


def test_a_tpm_2_at_a_device(tpm2, tmp_path):
    (tmp_path / "owner").write_text("ownerpass\n")
    password = ("--owner-password-file", tmp_path / "owner")
    vtpmctl("takeown", "vtpm0", *password)
    assert "TPM_RC_BAD_AUTH" in vtpmctl("createek", tpm2.device, status=77)
    assert "0x81010016" in vtpmctl("createek", tpm2.device, "--algorithm", "ecc-p384", *password)
    shown = vtpmctl("getpubek", "vtpm0", "--algorithm", "ecc-p384", folder=tmp_path)
    assert shown.startswith("pubek.pem successfully written\nPubek curve NIST P-384\nX:\n")


def test_ownership_of_a_tpm_2_that_is_interrupted_is_given_up(tpm2, tmp_path, monkeypatch):
    """With an answer of the device that nobody has read: no other command may follow on that open file."""
    (tmp_path / "owner").write_text("ownerpass\n")
    password = ("--owner-password-file", str(tmp_path / "owner"))
    exchange, seen = tpm_connection._File.exchange, []

    def interrupted(way, command):
        if int.from_bytes(command[6:10], "big") == CommandCode.HIERARCHY_CHANGE_AUTH:
            seen.append(command)
            if len(seen) == 2:
                os.write(way._descriptor, command)
                raise KeyboardInterrupt
        return exchange(way, command)

    monkeypatch.setattr(tpm_connection._File, "exchange", interrupted)
    assert main(["takeown", tpm2.device, *password]) == STATUS_INTERRUPTED
    assert len(seen) == 4  # two, and the same two back
    vtpmctl("takeown", "vtpm0", *password)
