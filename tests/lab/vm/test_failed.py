"""A TPM that cannot be stored, under systemd: what is seen of it, what a restart keeps, and that nobody has to do
anything."""

import os
from contextlib import suppress

import pytest
from device_clients import Client, wait_for
from services import journal, run, show, status, systemctl
from tpm_commands import (
    GET_RANDOM,
    NV_DEFINE_COUNTER,
    NV_INCREMENT,
    NV_READ_COUNTER,
    PCR_EXTEND_16,
    PCR_READ_16,
    counter_of,
    result_of,
    with_session,
)

pytestmark = pytest.mark.needs("systemd", "root", "accounts")

NAME = "small"
SECRET = b"hunter2 in clear"
CHANGE_AUTH = with_session(0x129, bytes.fromhex("40000001"), len(SECRET).to_bytes(2, "big") + SECRET)
TPM_RC_FAILURE = 0x101
FAILED_ID, HEALED_ID = "ff37e3df739c4d61b1c494c75619fafb", "915b4fccb0e74e5c975b27a1cb1c0a0e"


#: A file system of its own, so that only the state is without room, and not the audit log.
STATE = f"/var/lib/vtpm/{NAME}"
FILLER = f"{STATE}/filler"


def fill():
    with open(FILLER, "wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


def make_room():
    os.unlink(FILLER)


@pytest.fixture
def small(configure):
    """An opener of an instance whose disk is full or not, as the test says."""
    os.makedirs(STATE, exist_ok=True)
    run("mount", "-t", "tmpfs", "-o", "size=256k,mode=0755", "none", STATE)
    run("restorecon", "-R", STATE)
    configure(NAME, '[tpm]\nstartup = "clear"\n')
    systemctl("start", NAME)
    yield Client(f"/dev/{NAME}")
    systemctl("stop", NAME)
    run("umount", STATE)


def entries(identifier):
    return journal(NAME, f"MESSAGE_ID={identifier}")


def test_it_is_seen_and_survived_with_a_restart_in_between(small):
    for command in (NV_DEFINE_COUNTER, NV_INCREMENT, PCR_EXTEND_16):
        assert result_of(small(command)) == 0
    pcr = small(PCR_READ_16)
    fill()
    assert result_of(small(CHANGE_AUTH)) == TPM_RC_FAILURE
    assert result_of(small(GET_RANDOM)) == TPM_RC_FAILURE
    wait_for(lambda: "failed: " in show(NAME, "StatusText"), "systemd to be told", 10)
    assert show(NAME, "StatusText").startswith(f"TPM 2.0 at /dev/{NAME}, failed: ")
    assert "No space left on device" in systemctl("status", NAME).stdout
    assert run("vtpmctl", "status", NAME, expect=70).stdout.count("the TPM has failed") == 1
    assert "the TPM has failed" in run("vtpmctl", "doctor", NAME, expect=None).stdout
    assert len(entries(FAILED_ID)) == 1
    assert "goes on" in run("journalctl", "-x", "-u", f"vtpm@{NAME}.service", f"MESSAGE_ID={FAILED_ID}").stdout
    # what is handed over is the TPM of the last acknowledged command
    systemctl("restart", NAME)
    assert show(NAME, "ActiveState") == "active"
    assert result_of(small(NV_INCREMENT)) == TPM_RC_FAILURE
    make_room()
    assert small(PCR_READ_16) == pcr
    assert counter_of(small(NV_READ_COUNTER)) == 1
    assert status(NAME)["daemon"]["tpm"]["healed"] == 1
    wait_for(lambda: show(NAME, "StatusText").endswith(", running"), "systemd to be told", 10)
    assert len(entries(HEALED_ID)) == 1
    run("journalctl", "--sync")
    said = run("journalctl", "-b", "-o", "json").stdout.lower()
    for spelled in (SECRET.decode(), SECRET.hex(), SECRET.hex(" ")[:40]):
        assert spelled not in said
    assert result_of(small(NV_INCREMENT)) == 0


def test_a_start_that_cannot_store_is_tried_again_until_it_can(small):
    assert result_of(small(NV_DEFINE_COUNTER)) == result_of(small(NV_INCREMENT)) == 0
    small.close()
    systemctl("stop", NAME)
    fill()
    systemctl("start", NAME, expect=None)
    wait_for(lambda: int(show(NAME, "NRestarts")) >= 2, "systemd to try it again", 30)
    assert any("status=74" in entry["MESSAGE"] for entry in journal(NAME))
    assert show(NAME, "ActiveState") == "activating"
    assert not os.path.exists(f"/dev/{NAME}")
    make_room()
    wait_for(lambda: show(NAME, "ActiveState") == "active", "the start to succeed", 30)
    assert counter_of(Client(f"/dev/{NAME}")(NV_READ_COUNTER)) == 1
