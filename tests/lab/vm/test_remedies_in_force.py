"""Remedies with systemd and the sandbox: the journal's line is followed as it is, and the TPM is served."""

import grp
import os
import re
import shutil
import signal
import subprocess
import time

from device_clients import Client, wait_for
from services import journal, run, show, systemctl
from tpm_commands import GET_RANDOM


def told(name, code):
    return [entry["MESSAGE"] for entry in journal(name) if entry.get("VTPM_ERROR") == code]


def remedy_of(name, code):
    wait_for(lambda: told(name, code), f"{code} of {name}")
    return told(name, code)[-1].partition("; remedy: ")[2]


def follow(remedy):
    """The commands that change something, by root in a shell. How many it had."""
    parts = [part for part in re.split(r"; |: | && ", remedy) if re.match("(?:chown|chmod|mv|cp|install) ", part)]
    for part in parts:
        subprocess.run(["sh", "-c", part], check=True, timeout=30)
    return len(parts)


def test_state_that_root_has_restored(configure):
    """As from a backup: the files are root's, in a directory that systemd gives to the service."""
    configure("vtpm7", '[tpm]\nstartup = "clear"\n')
    systemctl("start", "vtpm7")
    systemctl("stop", "vtpm7")
    state = "/var/lib/vtpm/vtpm7"
    for name in os.listdir(state):
        os.chown(f"{state}/{name}", 0, 0)
    above = {
        path: (os.stat(path).st_uid, os.stat(path).st_mode) for path in ("/var/lib/vtpm", "/var/lib/vtpm-identity")
    }
    systemctl("start", "vtpm7", expect=None)
    remedy = remedy_of("vtpm7", "state-unwritable")
    assert f"{state}/tpm2-00.permall" in remedy
    assert follow(remedy) == 1
    # it is tried again by itself; the limit of starts may have been reached meanwhile
    systemctl("reset-failed", "vtpm7", expect=None)
    systemctl("start", "vtpm7")
    client = Client("/dev/vtpm7")
    assert len(client(GET_RANDOM)) == 20
    client.close()
    assert above == {path: (os.stat(path).st_uid, os.stat(path).st_mode) for path in above}


def test_state_that_is_damaged(configure):
    configure("vtpm7", '[tpm]\nstartup = "clear"\n')
    systemctl("start", "vtpm7")
    systemctl("stop", "vtpm7")
    with open("/var/lib/vtpm/vtpm7/tpm2-00.permall", "r+b") as file:
        file.seek(100)  # behind the header, which says of what format it is
        file.write(b"damaged")
    systemctl("start", "vtpm7", expect=None)
    assert show("vtpm7", "ExecMainStatus") == "65"
    assert follow(remedy_of("vtpm7", "state-corrupt")) >= 2
    systemctl("start", "vtpm7")
    client = Client("/dev/vtpm7")
    assert len(client(GET_RANDOM)) == 20
    client.close()


def test_a_refusal_is_the_unit_s_however_late_it_is_read(configure):
    """journald looks in /proc for the unit of an entry, when it reads that."""
    configure("vtpm7", '[tpm]\nversion = "3.0"\n')
    journald = int(run("systemctl", "show", "-P", "MainPID", "systemd-journald.service").stdout)
    os.kill(journald, signal.SIGSTOP)
    try:
        run("systemctl", "start", "--no-block", "vtpm@vtpm7.service")
        wait_for(lambda: "version" in show("vtpm7", "StatusText"), "the refusal")
        time.sleep(1)  # a process that does not wait for journald is gone by then
    finally:
        os.kill(journald, signal.SIGCONT)
    wait_for(lambda: show("vtpm7", "ActiveState") == "failed", "the end")
    assert show("vtpm7", "ExecMainStatus") == "78"
    assert len(told("vtpm7", "config-invalid")) == 1


def test_an_ordinary_user_is_given_nothing(configure):
    configure("vtpm7", "")
    systemctl("start", "vtpm7")
    systemctl("stop", "vtpm7")
    done = run("vtpmctl", "rekey", "vtpm7", user="lab-outsider", expect=None)
    assert done.returncode in (74, 77)
    assert "remedy: run this as root" in done.stderr
    assert "chown" not in done.stderr


def test_a_reload_with_a_group(configure):
    configure("vtpm7", "")
    systemctl("start", "vtpm7")
    path = "/run/vtpm/vtpm7/ctrl.sock"
    assert grp.getgrgid(os.stat(path).st_gid).gr_name == "vtpm-admin"
    configure("vtpm7", '[control]\ngroup = "no-such-group"\n')
    systemctl("reload", "vtpm7")
    wait_for(lambda: told("vtpm7", "user-missing"), "the refusal")
    said = [entry["MESSAGE"] for entry in journal("vtpm7")]
    assert any("there is no group no-such-group; vtpm-admin stays in force" in message for message in said)
    assert not any("now in force" in message for message in said)
    configure("vtpm7", '[control]\ngroup = "vtpm"\n')
    systemctl("reload", "vtpm7")
    wait_for(lambda: grp.getgrgid(os.stat(path).st_gid).gr_name == "vtpm", "the socket's group")


def test_a_host_without_configurations_is_examined():
    shutil.move("/etc/vtpm.d", "/etc/vtpm.d.away")
    try:
        done = run("vtpmctl", "doctor", expect=None)
        assert done.returncode == 78
        assert "fail  instances: /etc/vtpm.d does not exist\n" in done.stdout
        assert "ok    cuse: " in done.stdout
        assert "SELinux: is" in done.stdout
    finally:
        shutil.move("/etc/vtpm.d.away", "/etc/vtpm.d")
