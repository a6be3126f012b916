"""Encrypted state under systemd: a credential that only this machine can open, a key in a file, and what is refused."""

import os
import shutil

import pytest
from services import journal, run, show, systemctl, tpm2

pytestmark = pytest.mark.needs("systemd", "root", "accounts", "tpm2-tools")

NAME = "secret"
STATE = f"/var/lib/vtpm/{NAME}/tpm2-00.permall"
DROP_IN = f"/run/systemd/system/vtpm@{NAME}.service.d"
#: Where the header of a state file has its flags, and the flag for a payload that is encrypted
#: (swtpm_svc/state/blob.py).
FLAGS, ENCRYPTED = slice(4, 6), 0x01


@pytest.fixture
def credential():
    """The unit's drop-in, and what encrypts a new key for it: `credential()` gives the unit another one."""
    os.makedirs("/etc/credstore.encrypted", exist_ok=True)
    path = f"/etc/credstore.encrypted/vtpm-{NAME}.state-key"

    def renew():
        run("systemd-creds", "encrypt", "--with-key=host", "--name=state-key", "-", path, input=os.urandom(32).hex())

    renew()
    os.makedirs(DROP_IN, exist_ok=True)
    with open(f"{DROP_IN}/key.conf", "w", encoding="ascii") as file:
        file.write(f"[Service]\nLoadCredentialEncrypted=state-key:{path}\nRestart=no\n")
    run("systemctl", "daemon-reload")
    yield renew
    os.unlink(path)
    shutil.rmtree(DROP_IN)
    run("systemctl", "daemon-reload")


def state():
    with open(STATE, "rb") as file:
        return file.read()


def is_encrypted():
    return bool(int.from_bytes(state()[FLAGS], "big") & ENCRYPTED)


def write_nv():
    tpm2("tpm2_nvdefine", "-Q", "-C", "o", "-s", "4", "0x1500001", device=NAME)
    with open("/root/kept", "w", encoding="ascii") as file:
        file.write("kept")
    tpm2("tpm2_nvwrite", "-Q", "-C", "o", "-i", "/root/kept", "0x1500001", device=NAME)


def read_nv():
    return tpm2("tpm2_nvread", "-C", "o", "0x1500001", device=NAME).stdout


def refused(error):
    systemctl("start", NAME, expect=None)
    assert show(NAME, "ActiveState") == "failed"
    return [entry for entry in journal(NAME) if entry.get("VTPM_ERROR") == error][-1]["MESSAGE"]


def test_a_credential_of_this_machine_opens_the_state_of_a_tpm_made_with_it_and_another_does_not(configure, credential):
    text = '[tpm]\nstartup = "clear"\n[state]\nkey-credential = "state-key"\n[provision]\nenabled = true\n'
    configure(NAME, text)
    systemctl("start", NAME)
    assert is_encrypted()
    tpm2("tpm2_readpublic", "-Q", "-c", "0x81010001", device=NAME)
    write_nv()
    systemctl("restart", NAME)
    assert read_nv() == "kept"
    systemctl("stop", NAME)
    before = state()
    shutil.copy(f"/etc/credstore.encrypted/vtpm-{NAME}.state-key", "/root/state-key.old")
    credential()
    message = refused("state-key")
    assert STATE in message
    assert state() == before
    shutil.move("/root/state-key.old", f"/etc/credstore.encrypted/vtpm-{NAME}.state-key")
    systemctl("reset-failed", NAME)
    systemctl("start", NAME)
    assert read_nv() == "kept"


def test_a_tpm_in_clear_is_encrypted_by_rekey_with_a_key_in_a_file(configure):
    configure(NAME, '[tpm]\nstartup = "clear"\n')
    systemctl("start", NAME)
    write_nv()
    systemctl("stop", NAME)
    assert not is_encrypted()
    key = f"/etc/vtpm.d/{NAME}.key"
    try:
        with open(key, "w", encoding="ascii") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(os.urandom(32).hex())
        shutil.chown(key, "root", "vtpm")
        os.chmod(key, 0o644)
        configure(NAME, f'[tpm]\nstartup = "clear"\n[state]\nkey-file = "{key}"\n')
        assert key in refused("key-unusable")
        os.chmod(key, 0o640)
        run("vtpmctl", "rekey", NAME)
        assert is_encrypted()
        systemctl("reset-failed", NAME)
        systemctl("start", NAME)
        assert read_nv() == "kept"
    finally:
        os.unlink(key)
