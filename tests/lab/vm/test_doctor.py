"""What is broken, and what is said of it: each row breaks one thing on a machine with systemd and SELinux, and list,
status, doctor and `systemctl status` say the same, with a remedy that helps.

`truth` asks them all.
"""

import json
import os
import signal
import subprocess

import pytest
from device_clients import Client, wait_for
from services import journal, run, show, systemctl, tpm2
from tpm_commands import GET_RANDOM

pytestmark = pytest.mark.needs("systemd", "root", "accounts")

STARTED = '[tpm]\nstartup = "clear"\n'
DROP_INS = "/etc/systemd/system"


@pytest.fixture
def instance(configure):
    """An instance `broken` that serves, or with `start=False` was never started."""

    def make(text=STARTED, *, name="broken", start=True):
        configure(name, text)
        if start:
            systemctl("start", name)
        return name

    return make


@pytest.fixture
def drop_in():
    """Writes drop-ins, which are gone after the test."""
    made = []

    def write(name, text):
        path = f"{DROP_INS}/vtpm@{name}.service.d/zz-broken.conf"  # after openfile.conf
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"[Service]\n{text}\n")
        made.append(path)
        run("systemctl", "daemon-reload")

    yield write
    for path in made:
        if os.path.exists(path):
            os.unlink(path)
        os.rmdir(os.path.dirname(path))
    run("systemctl", "daemon-reload")


def ask(*words, user=None):
    """The exit status, and what is printed with --json."""
    done = run("vtpmctl", "--json", *words, user=user, expect=None)
    return done.returncode, json.loads(done.stdout)


def truth(name, user=None):
    """What status, list and doctor say of an instance, of which status and list say the same: (condition, exit status of
    status, of doctor, what doctor finds wrong)."""
    exit_status, found = ask("status", name, user=user)
    listed = next(one for one in ask("list", user=user)[1]["instances"] if one["instance"] == name)
    assert listed["condition"]["kind"] == found["condition"]["kind"]
    examined, findings = ask("doctor", name, user=user)
    wrong = [one for one in findings["findings"] if one["check"] == name and one["verdict"] != "ok"]
    assert examined == findings["exit_status"]
    return found["condition"], exit_status, examined, wrong


def said(wrong):
    return "\n".join(f"{one['text']} // {one['remedy']}" for one in wrong)


def is_failed(name):
    wait_for(lambda: show(name, "ActiveState") == "failed", f"the end of {name}", 60)


# --- it does not answer ----------------------------------------------------------------------------------------------


def test_a_daemon_that_is_stopped(instance):
    name = instance()
    pid = int(show(name, "MainPID"))
    os.kill(pid, signal.SIGSTOP)
    try:
        condition, exit_status, examined, wrong = truth(name)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert condition["kind"] == "does not answer"
    assert (exit_status, examined) == (69, 69)
    assert f"process {pid} is stopped" in said(wrong)
    assert f"kill -CONT {pid}" in said(wrong)
    assert truth(name)[0]["kind"] == "serves"


def test_a_status_socket_that_was_removed(instance):
    name = instance()
    client = Client(f"/dev/{name}")
    os.unlink(f"/run/vtpm/{name}/status")
    condition, exit_status, examined, wrong = truth(name)
    assert (condition["kind"], exit_status, examined) == ("does not answer", 69, 69)
    assert "its socket is gone, though process" in said(wrong)
    remedy = wrong[0]["remedy"].rpartition(": ")[2]
    assert remedy == f"systemctl restart vtpm@{name}.service"
    run(*remedy.split())
    assert truth(name)[1:3] == (0, 0)
    assert len(client(GET_RANDOM)) == 20


# --- systemd could not execute it: such faults end the tries at once ---------------------------------------------------


@pytest.mark.parametrize(
    ("text", "status", "cause", "remedy"),
    [
        ("ExecStart=\nExecStart=/usr/libexec/vtpm/nosuch %i", "203", "execute /usr/libexec/vtpm/nosuch", "reinstall"),
        ("User=nosuch-user", "217", "become the user that User= names", "systemd-sysusers vtpm.conf"),
        ("Group=nosuch-group", "216", "become the group that Group= names", "systemd-sysusers vtpm.conf"),
        ("LoadCredential=key:/etc/vtpm-nosuch", "243", "read a credential", "put the file in place"),
        ("BindPaths=/srv/nosuch", "226", "make its sandbox of mounts: Failed to set up mount namespacing", "exists"),
    ],
)
def test_what_systemd_cannot_do(instance, drop_in, text, status, cause, remedy):
    name = instance(start=False)
    drop_in(name, text)
    systemctl("start", name, expect=1)
    is_failed(name)
    assert show(name, "NRestarts") == "0"
    condition, exit_status, examined, wrong = truth(name)
    assert (condition["kind"], exit_status != 0, examined != 0) == ("failed", True, True)
    assert cause in said(wrong)
    assert remedy in said(wrong)
    assert any(f"status={status}" in entry["MESSAGE"] for entry in journal(name))


def test_a_credential_that_is_missing_is_named_while_all_runs(instance, drop_in):
    name = instance(start=False)
    with open("/etc/vtpm-key", "w", encoding="ascii") as file:
        file.write("00" * 16)
    os.chmod("/etc/vtpm-key", 0o600)
    drop_in(name, "LoadCredential=key:/etc/vtpm-key")
    systemctl("start", name)
    assert truth(name)[1:3] == (0, 0)
    os.unlink("/etc/vtpm-key")
    _, exit_status, examined, wrong = truth(name)
    assert (exit_status, examined) == (0, 78)
    assert "/etc/vtpm-key, which" in said(wrong)
    assert "the next start fails" in said(wrong)


# --- the daemon says why ----------------------------------------------------------------------------------------------


def test_a_wrong_configuration(instance):
    name = instance("[tpm]\nversion = 3\n", start=False)
    systemctl("start", name, expect=1)
    condition, exit_status, examined, wrong = truth(name)
    assert condition["kind"] == "failed"
    assert (exit_status, examined) == (78, 78)
    assert "found the integer 3" in said(wrong)
    shown = systemctl("status", name, expect=3).stdout
    assert "failed (config-invalid): /etc/vtpm.d/broken.toml: [tpm] version: found the integer 3" in shown
    assert 'remedy: write for example: version = "2.0"' in shown


def test_state_that_swtpm_holds(instance):
    name = instance()
    systemctl("stop", name)
    code = (
        "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.lockf(file, fcntl.LOCK_EX); print('held', flush=True); "
        "sys.stdin.read()"
    )
    words = ["python3", "-c", code, f"/var/lib/vtpm/{name}/.lock"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        # before the start, too
        _, _, examined, wrong = truth(name)
        assert (examined, f"is held by process {holder.pid} (python3" in said(wrong)) == (75, True)
        run("systemctl", "start", "--no-block", f"vtpm@{name}.service")
        wait_for(lambda: int(show(name, "NRestarts")) >= 2, "systemd to try it again", 60)
        condition, exit_status, examined, wrong = truth(name)
        assert condition["kind"] == "restarting"
        assert (exit_status, examined) == (75, 75)
        assert "is started again and again" in said(wrong)
        assert ".lock is held by process" in said(wrong)
        assert "restarting" in ask("status", name, user="lab-outsider")[1]["condition"]["kind"]
        holder.stdin.close()
    wait_for(lambda: show(name, "ActiveState") == "active", "the start to succeed", 60)
    assert truth(name)[:3] == ({"kind": "serves", "text": "serves, TPM ok", "tpm": "ok"}, 0, 0)
    assert not os.path.exists(f"/run/vtpm/{name}/failed-start")


def test_state_that_is_root_s(instance):
    name = instance()
    systemctl("stop", name)
    path = f"/var/lib/vtpm/{name}/tpm2-00.permall"
    os.chown(path, 0, 0)
    _, _, examined, wrong = truth(name)
    assert (examined != 0, "tpm2-00.permall" in said(wrong)) == (True, True)
    run("systemctl", "start", "--no-block", f"vtpm@{name}.service")
    wait_for(lambda: int(show(name, "NRestarts")) >= 1, "a try", 60)
    condition, exit_status, _, wrong = truth(name)
    assert (condition["kind"], exit_status) == ("restarting", 74)
    assert f"chown -h vtpm:vtpm {path}" in said(wrong)
    run("chown", "-h", "vtpm:vtpm", path)
    wait_for(lambda: show(name, "ActiveState") == "active", "the start to succeed", 60)


@pytest.mark.parametrize("what", ["full", "read-only"])
def test_a_directory_that_cannot_be_written(instance, what):
    name = "broken"
    place = f"/var/lib/vtpm/{name}"
    os.makedirs(place)
    run("mount", "-t", "tmpfs", "-o", "size=64k,mode=0700,uid=vtpm,gid=vtpm", "none", place)
    try:
        run("restorecon", "-R", place)
        with open(f"{place}/filler", "wb", buffering=0) as file:
            os.chown(f"{place}/filler", os.stat(place).st_uid, os.stat(place).st_gid)
            if what == "full":
                try:
                    while True:
                        file.write(bytes(4096))
                except OSError:
                    pass
        if what == "read-only":
            run("mount", "-o", "remount,ro", place)
        instance(start=False)
        run("systemctl", "start", "--no-block", f"vtpm@{name}.service")
        wait_for(lambda: int(show(name, "NRestarts")) >= 1 or show(name, "ActiveState") == "failed", "a try", 60)
        wait_for(lambda: truth(name)[2] == 74, "a moment that is not in the middle of a try", 60)
        condition, exit_status, _, wrong = truth(name)
        assert condition["kind"] in ("restarting", "failed", "starting")
        assert exit_status != 0
        word = "is full" if what == "full" else "is mounted read-only"
        assert f"the file system of {place} {word}" in said(wrong)
    finally:
        systemctl("stop", name, expect=None)
        run("umount", place)


# --- what the TPM says ------------------------------------------------------------------------------------------------


def test_a_tpm_that_nobody_has_started(instance):
    name = instance('[tpm]\nstartup = "none"\n')
    condition, exit_status, examined, _ = truth(name)
    assert (condition["text"], exit_status, examined) == ("serves, TPM not started", 0, 0)
    line = next(one for one in run("vtpmctl", "list").stdout.splitlines() if one.startswith(name))
    assert line.endswith("serves, TPM not started")
    assert "; the TPM: not started" in run("vtpmctl", "doctor", name).stdout


def test_a_tpm_that_is_locked_out(instance):
    name = instance()
    tpm2("tpm2_dictionarylockout", "-s", "-n", "2", "-t", "1000", "-l", "1000", device=name)
    tpm2("tpm2_nvdefine", "-s", "8", "-p", "right", "-a", "authread|authwrite", "0x1500001", device=name)
    assert truth(name)[0]["text"] == "serves, TPM ok"
    for _ in range(2):
        tpm2("tpm2_nvread", "-P", "wrong", "0x1500001", device=name, expect=None)
    condition, exit_status, examined, wrong = truth(name)
    assert condition["text"] == "serves, TPM locked out, 2 of 2 failed authorizations"
    assert (exit_status, examined) == (77, 77)
    assert f"tpm2_dictionarylockout -T device:/dev/{name} --clear-lockout" in said(wrong)
    run("tpm2_dictionarylockout", "-T", f"device:/dev/{name}", "--clear-lockout")
    assert truth(name)[:3] == ({"kind": "serves", "text": "serves, TPM ok", "tpm": "ok"}, 0, 0)


# --- the node ---------------------------------------------------------------------------------------------------------


def test_a_rule_that_decides_otherwise(instance):
    rule = "/etc/udev/rules.d/99-local.rules"
    with open(rule, "w", encoding="ascii") as file:
        file.write('# of an administrator\nKERNEL=="broken", \\\n  SUBSYSTEM=="cuse", MODE="0666"\n')
    run("udevadm", "control", "--reload")
    name = "broken"
    try:
        instance(start=False)
        run("systemctl", "start", "--no-block", f"vtpm@{name}.service")
        wait_for(lambda: os.path.exists(f"/dev/{name}") and os.stat(f"/dev/{name}").st_mode & 0o777 == 0o666, "it", 30)
        _, exit_status, examined, wrong = truth(name)
        assert (exit_status, examined) == (69, 75)
        assert f"{rule}:2 decides that, after our rule" in said(wrong)
    finally:
        os.unlink(rule)
        run("udevadm", "control", "--reload")
    run("udevadm", "trigger", "--settle", f"/dev/{name}")
    wait_for(lambda: show(name, "ActiveState") == "active", "the start to succeed", 60)
    assert truth(name)[1:3] == (0, 0)


def test_a_node_that_was_removed(instance):
    name = instance()
    os.unlink(f"/dev/{name}")
    _, exit_status, examined, wrong = truth(name)
    assert exit_status != 0
    assert examined != 0
    assert f"/dev/{name} was removed" in said(wrong)
    assert f"systemctl stop vtpm@{name}" in said(wrong)
    systemctl("stop", name)
    systemctl("start", name)
    assert truth(name)[1:3] == (0, 0)


def test_a_unit_that_is_masked(instance):
    name = instance()
    systemctl("stop", name)
    run("systemctl", "mask", f"vtpm@{name}.service")
    try:
        condition, exit_status, _, wrong = truth(name)
        assert condition["text"] == f"not started: vtpm@{name}.service is masked: systemd does not start it"
        assert exit_status == 69
        assert f"systemctl unmask vtpm@{name}.service" in said(wrong)
    finally:
        run("systemctl", "unmask", f"vtpm@{name}.service")


def test_names_that_are_others(instance):
    for device, words in (("tpm0", "which is a name for the kernel's own TPMs"), ("null", "which is not ours")):
        name = instance(f'[device]\nname = "{device}"\n', start=False)
        assert words in run("vtpmctl", "check", name, expect=73).stderr
        assert words in said(truth(name)[3])


def test_a_sandbox_that_a_drop_in_breaks(instance, drop_in):
    name = instance(start=False)
    drop_in(name, "PrivateDevices=yes\nFileDescriptorStoreMax=0")
    systemctl("start", name, expect=1)
    condition, _, _, wrong = truth(name)
    assert condition["kind"] in ("failed", "restarting")  # where systemd opens /dev/cuse (OpenFile=) it is tried again
    assert "has PrivateDevices=yes: it hides /dev/cuse" in said(wrong)
    assert "has FileDescriptorStoreMax=0: a restart then takes the device away" in said(wrong)
