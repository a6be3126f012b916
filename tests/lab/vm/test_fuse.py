"""[fuse] under a real systemd: the mount is made outside of the service's sandbox, seen by all, and gone on every way
out."""

import json
import os
import signal

import pytest
from device_clients import wait_for
from services import journal, run, show, systemctl

pytestmark = pytest.mark.needs("systemd", "root", "accounts", "fuse")

CONFIGURATION = '[tpm]\nstartup = "clear"\n[device]\nenabled = false\n[fuse]\nenabled = true\n'
FILES = "/run/vtpm/files/fs"


def random(user=None, expect=0):
    return run("tpm2_getrandom", "--hex", "8", "-T", f"device:{FILES}/tpm", user=user, expect=expect)


def test_members_of_the_group_use_the_file_and_others_do_not(configure):
    configure("files", CONFIGURATION)
    systemctl("start", "files")
    assert show("files", "StatusText") == f"TPM 2.0 at {FILES}/tpm, running"
    for user in ("lab-member", None):
        assert len(bytes.fromhex(random(user).stdout)) == 8
    assert "Permission denied" in random("lab-outsider", expect=None).stderr
    # the facts are for everybody to look at
    assert len(run("cat", f"{FILES}/pcr-sha256/0", user="lab-outsider").stdout) == 65
    assert json.loads(run("cat", f"{FILES}/status", user="lab-outsider").stdout)["instance"] == "files"
    with open(f"/proc/{show('files', 'MainPID')}/status", encoding="ascii") as file:
        assert "CapEff:\t0000000000000000\n" in file.read()
    systemctl("stop", "files")
    assert not os.path.ismount(FILES)
    assert not os.path.exists("/run/vtpm/files")
    assert show("files", "NFileDescriptorStore") == "0"


def test_a_restart_mounts_anew_also_after_a_kill(configure):
    configure("files", CONFIGURATION)
    systemctl("start", "files")
    for _ in range(2):
        systemctl("restart", "files")
        assert len(bytes.fromhex(random().stdout)) == 8
    with open(f"{FILES}/tpm", "r+b", buffering=0) as held:
        pid = int(show("files", "MainPID"))
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: show("files", "MainPID") not in ("0", str(pid)), "the successor")
        wait_for(lambda: show("files", "ActiveState") == "active", "that it serves")
        with pytest.raises(OSError, match=r"."):  # and not a wait without end
            held.write(bytes.fromhex("80010000000c0000017b0008"))
    assert len(bytes.fromhex(random().stdout)) == 8
    systemctl("stop", "files")
    assert not os.path.ismount(FILES)


def test_a_directory_that_cannot_be_mounted_on_is_named(configure):
    configure("files", CONFIGURATION + 'directory = "/etc/vtpm.d"\n')
    systemctl("start", "files", expect=None)
    assert show("files", "ExecMainStatus") == "73"
    assert show("files", "NRestarts") == "0"
    entry = next(entry for entry in journal("files") if entry.get("VTPM_ERROR") == "mount-failed")
    assert "/etc/vtpm.d is not empty; remedy: give [fuse] an empty directory" in entry["MESSAGE"]
