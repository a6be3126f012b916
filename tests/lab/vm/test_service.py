"""The installed service under a real systemd, udev and journal: what an administrator and a client see of it."""

import errno
import grp
import hashlib
import json
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest
from device_clients import Client, Load, wait_for
from services import SYSTEMD, journal, run, show, status, systemctl, tpm2
from tpm_commands import (
    GET_RANDOM,
    NV_DEFINE_COUNTER,
    NV_INCREMENT,
    NV_READ_COUNTER,
    PCR_EXTEND_16,
    PCR_READ_16,
    TPM12_GET_MANUFACTURER,
    TPM12_PCR_EXTEND_10,
    TPM12_PCR_READ_10,
    counter_of,
)

pytestmark = pytest.mark.needs("systemd", "root", "accounts")


def test_start_gives_two_devices_for_the_group_without_a_chmod(both):
    for name in both:
        assert show(name, "ActiveState") == "active"
        found = os.stat(f"/dev/{name}")
        assert stat.S_ISCHR(found.st_mode)
        assert (found.st_uid, grp.getgrgid(found.st_gid).gr_name, stat.S_IMODE(found.st_mode)) == (0, "vtpm", 0o660)
        wait_for(
            lambda name=name: run("systemctl", "is-active", f"dev-{name}.device", expect=None).returncode == 0,
            "the device unit",
        )
    assert show("vtpm0", "StatusText") == "TPM 1.2 at /dev/vtpm0, running"
    assert show("vtpm1", "StatusText") == "TPM 2.0 at /dev/vtpm1, running"
    assert "TPM 2.0 at /dev/vtpm1, running" in systemctl("status", "vtpm1").stdout


def test_the_process_is_vtpms_and_has_no_capability(both):
    with open(f"/proc/{show('vtpm1', 'MainPID')}/status", encoding="ascii") as file:
        lines = {name: value.split() for name, _, value in (line.partition(":") for line in file)}
    uid = str(os.stat("/var/lib/vtpm/vtpm1").st_uid)
    assert lines["Uid"] == [uid] * 4
    assert uid != "0"
    assert lines["CapEff"] == lines["CapPrm"] == ["0000000000000000"]
    assert lines["NoNewPrivs"] == ["1"]
    if SYSTEMD >= 253:
        assert lines["CapBnd"] == ["0000000000000000"]
    assert stat.S_IMODE(os.stat("/var/lib/vtpm/vtpm1").st_mode) == 0o700


def test_members_of_the_group_use_the_tpm_and_others_do_not(both):
    assert len(bytes.fromhex(tpm2("tpm2_getrandom", "--hex", "8", user="lab-member").stdout)) == 8
    tpm2("tpm2_createprimary", "-Q", "-C", "o", "-G", "ecc", "-c", "/tmp/member.ctx", user="lab-member")
    refused = tpm2("tpm2_getrandom", "--hex", "8", user="lab-outsider", expect=None)
    assert refused.returncode != 0
    assert "Permission denied" in refused.stderr
    refused = run("swtpm_ioctl", "-i", "/dev/vtpm1", user="lab-member", expect=None)
    assert "Operation not permitted" in refused.stderr
    run("swtpm_ioctl", "-l", "0", "/dev/vtpm1", user="lab-operator")


def test_two_tpms_have_different_endorsement_keys(both, configure, tmp_path):
    configure("vtpm2", '[tpm]\nstartup = "clear"\n')
    systemctl("start", "vtpm2")
    keys = set()
    for name in ("vtpm1", "vtpm2"):
        tpm2(
            "tpm2_createek",
            "-Q",
            "-G",
            "ecc",
            "-c",
            str(tmp_path / f"{name}.ctx"),
            "-u",
            str(tmp_path / name),
            device=name,
        )
        keys.add((tmp_path / name).read_bytes())
    assert len(keys) == 2


def test_every_operation_of_swtpm_ioctl_on_a_tpm_1_2(both, tmp_path):
    def ioctl(*words):
        done = run("swtpm_ioctl", *words, "--tpm-device", "/dev/vtpm0")
        return done.stdout + done.stderr

    client = Client("/dev/vtpm0")
    assert "0x16fff" in ioctl("-c")
    ioctl("-i")  # and the service sends TPM_Startup(ST_CLEAR), as is configured
    assert "is 0" in ioctl("-e")
    ioctl("-l", "4")
    ioctl("-l", "0")
    ioctl("-h", "abcd")
    pcr17 = client(bytes.fromhex("00c10000000e0000001500000011"))[-20:]
    assert pcr17 == hashlib.sha1(bytes(20) + hashlib.sha1(b"abcd").digest()).digest()
    assert "is 1" in ioctl("-e")
    ioctl("-r", "3")
    assert "is 0" in ioctl("-e")
    client(TPM12_PCR_EXTEND_10)
    extended = client(TPM12_PCR_READ_10)
    ioctl("-v")
    ioctl("-C")
    ioctl("-g")
    for blob in ("permanent", "volatile"):
        ioctl("--save", blob, str(tmp_path / blob))
    assert client(bytes.fromhex("00c10000000a00000098"))[6:10] == bytes(4)  # TPM_SaveState
    ioctl("--save", "savestate", str(tmp_path / "savestate"))
    assert "TPMSpecification" in ioctl("--info", "1")
    ioctl("--stop")
    for blob in ("permanent", "volatile"):
        ioctl("--load", blob, str(tmp_path / blob))
    ioctl("-i")
    assert client(TPM12_PCR_READ_10) == extended
    client.close()
    ioctl("-s")
    wait_for(lambda: show("vtpm0", "ActiveState") == "inactive", "the service to end")
    assert not os.path.exists("/dev/vtpm0")
    assert show("vtpm0", "Result") == "success"
    systemctl("start", "vtpm0")
    assert Client("/dev/vtpm0")(TPM12_GET_MANUFACTURER)[-4:] == b"IBM\0"


def test_vtpmctl_on_a_name_and_on_a_device(both, tmp_path):
    assert "vtpm0" in run("vtpmctl", "list").stdout
    run("vtpmctl", "check", "vtpm0")
    for target in ("vtpm1", "/dev/vtpm1"):
        assert "INIT" in run("vtpmctl", "capabilities", target).stdout.upper()
        assert json.loads(run("vtpmctl", "--json", "buffer-size", target).stdout)
        run("vtpmctl", "established", target)
        run("vtpmctl", "info", target)
    client = Client("/dev/vtpm1")
    client(PCR_EXTEND_16)
    extended = client(PCR_READ_16)
    (tmp_path / "data").write_bytes(b"measured")
    for words in (
        ("hash", "vtpm1", str(tmp_path / "data")),
        ("established", "vtpm1", "--reset"),
        ("locality", "vtpm1", "3"),
        ("locality", "vtpm1", "0"),
        ("cancel", "vtpm1"),
        ("config", "vtpm1"),
        ("store-volatile", "vtpm1"),
        ("save", "vtpm1", "permanent", str(tmp_path / "permanent")),
        ("save", "vtpm1", "volatile", str(tmp_path / "volatile")),
        ("power", "off", "vtpm1"),
        ("load", "vtpm1", "permanent", str(tmp_path / "permanent")),
        ("load", "vtpm1", "volatile", str(tmp_path / "volatile")),
        ("init", "vtpm1"),
    ):
        run("vtpmctl", *words)
    assert client(PCR_READ_16)[-32:] == extended[-32:]
    client.close()
    told = run("vtpmctl", "status", "vtpm1").stdout
    for word in ("2.0", "/dev/vtpm1", "running", "sha256", "active"):
        assert word in told, told


def test_state_survives_stop_and_start_and_pcrs_do_not(both, tmp_path):
    tpm2("tpm2_flushcontext", "-t")
    tpm2("tpm2_nvdefine", "-Q", "-C", "o", "-s", "5", "-a", "ownerread|ownerwrite", "0x1500001")
    run(
        "sh",
        "-c",
        "printf hello | tpm2_nvwrite -Q -C o -i - 0x1500001",
        env=dict(os.environ, TPM2TOOLS_TCTI="device:/dev/vtpm1"),
    )
    tpm2("tpm2_createprimary", "-Q", "-C", "o", "-G", "ecc", "-c", str(tmp_path / "p"))
    tpm2("tpm2_evictcontrol", "-Q", "-C", "o", "-c", str(tmp_path / "p"), "0x81000010")
    client = Client("/dev/vtpm1")
    fresh = client(PCR_READ_16)
    client(PCR_EXTEND_16)
    extended = client(PCR_READ_16)
    assert extended != fresh
    client.close()
    systemctl("stop", "vtpm1")
    assert not os.path.exists("/dev/vtpm1")
    systemctl("start", "vtpm1")
    assert Client("/dev/vtpm1")(PCR_READ_16)[-32:] == bytes(32)
    assert tpm2("tpm2_nvread", "-C", "o", "-s", "5", "0x1500001").stdout == "hello"
    assert "0x81000010" in tpm2("tpm2_getcap", "handles-persistent").stdout.lower()
    client = Client("/dev/vtpm1")
    client(PCR_EXTEND_16)
    extended = client(PCR_READ_16)[-32:]
    client.close()
    run("vtpmctl", "store-volatile", "vtpm1")
    systemctl("stop", "vtpm1")
    systemctl("start", "vtpm1")
    assert Client("/dev/vtpm1")(PCR_READ_16)[-32:] == extended


def test_a_client_in_a_loop_sees_nothing_of_twenty_restarts(both):
    client = Client("/dev/vtpm1")
    client(PCR_EXTEND_16)
    extended = client(PCR_READ_16)
    # a pause, since the machine has one emulated processor and is to start Python ten times beside
    load, other = Load("/dev/vtpm1", GET_RANDOM, pause_s=0.05), Load("/dev/vtpm0", TPM12_GET_MANUFACTURER, pause_s=0.05)
    load.start()
    other.start()
    for _ in range(10):  # of two services
        load.proceeds()
        other.proceeds()
        systemctl("restart", "vtpm1", "vtpm0")
    load.proceeds()
    other.proceeds()
    load.finish()
    other.finish()
    assert (load.errors, load.wrong, other.errors, other.wrong) == ([], [], [], [])
    assert client(PCR_READ_16)[-32:] == extended[-32:]
    client.close()


def test_sigkill_under_load_costs_at_most_one_eio_each_and_loses_nothing(both):
    client = Client("/dev/vtpm1")
    client(NV_DEFINE_COUNTER)
    assert client(NV_INCREMENT)[6:10] == bytes(4)
    before = counter_of(client(NV_READ_COUNTER))
    load = Load("/dev/vtpm1", NV_INCREMENT, pause_s=0.05)
    load.start()
    kills = 5
    for _ in range(kills):
        load.proceeds()
        os.kill(int(show("vtpm1", "MainPID")), signal.SIGKILL)
        load.proceeds()
    load.finish()
    assert set(load.errors) <= {errno.EIO}
    assert len(load.errors) <= kills
    assert load.wrong == []
    value = counter_of(client(NV_READ_COUNTER))
    assert load.answered <= value - before <= load.answered + len(load.errors)
    assert int(show("vtpm1", "NRestarts")) >= kills
    client.close()


def test_the_watchdog_replaces_a_daemon_that_hangs(configure):
    configure("vtpm3", '[tpm]\nstartup = "clear"\n')
    os.makedirs("/run/systemd/system/vtpm@vtpm3.service.d", exist_ok=True)
    with open("/run/systemd/system/vtpm@vtpm3.service.d/quick.conf", "w", encoding="ascii") as file:
        file.write("[Service]\nWatchdogSec=4s\nTimeoutAbortSec=2s\n")
    run("systemctl", "daemon-reload")
    systemctl("start", "vtpm3")
    client = Client("/dev/vtpm3")
    time.sleep(6)  # longer than the limit: it is alive, and says so
    assert show("vtpm3", "NRestarts") == "0"
    os.kill(int(show("vtpm3", "MainPID")), signal.SIGSTOP)
    wait_for(lambda: show("vtpm3", "NRestarts") == "1" and show("vtpm3", "ActiveState") == "active", "the successor")
    assert len(client(GET_RANDOM)) == 20
    client.close()
    shutil.rmtree("/run/systemd/system/vtpm@vtpm3.service.d")
    run("systemctl", "daemon-reload")


def test_the_journal_has_the_fields(configure):
    configure("vtpm4", '[tpm]\nstartup = "clear"\n[log]\nlevel = "debug"\n')
    systemctl("start", "vtpm4")
    tpm2("tpm2_getrandom", "--hex", "4", device="vtpm4", user="lab-member")
    run("swtpm_ioctl", "-i", "/dev/vtpm4", user="lab-member", expect=None)
    entries = journal("vtpm4")
    assert all(entry.get("VTPM_INSTANCE") == "vtpm4" for entry in entries if "VTPM_TPM_VERSION" in entry)
    command = next(entry for entry in entries if entry.get("TPM_CC") == "0x17b")
    assert command["TPM_RC"] == "0x0"
    assert command["CLIENT_UID"] == "9001" or command["CLIENT_UID"].isdigit()
    assert int(command["CLIENT_PID"]) > 1
    assert command["VTPM_TPM_VERSION"] == "2.0"
    refusal = next(entry for entry in entries if entry.get("VTPM_ERROR") == "not-permitted")
    assert refusal["PRIORITY"] == "4"
    assert "remedy" in refusal["MESSAGE"]
    assert "INIT needs the rights of the control group: refused to lab-member (" in refusal["MESSAGE"]
    assert any("MESSAGE_ID" in entry and "ready" in entry["MESSAGE"] for entry in entries)
    explained = run("journalctl", "-b", "-x", "-u", "vtpm@vtpm4.service").stdout
    assert "control" in explained
    assert "-- Subject:" in explained or "Subject:" in explained
    verbose = run("journalctl", "-b", "-o", "verbose", "-u", "vtpm@vtpm4.service").stdout
    for field in (
        "VTPM_INSTANCE=",
        "VTPM_TPM_VERSION=",
        "TPM_CC=",
        "TPM_RC=",
        "CLIENT_PID=",
        "CLIENT_UID=",
        "MESSAGE_ID=",
    ):
        assert field in verbose


def test_reload_takes_over_what_it_can(configure):
    configure("vtpm5", '[tpm]\nstartup = "clear"\n')
    systemctl("start", "vtpm5")
    pid = show("vtpm5", "MainPID")
    with open("/etc/vtpm.d/vtpm5.toml", "w", encoding="ascii") as file:
        file.write('[tpm]\nversion = "1.2"\nstartup = "clear"\n[control]\ngroup = "lab-member"\n')
    systemctl("reload", "vtpm5")
    wait_for(lambda: any("configuration reloaded" in entry["MESSAGE"] for entry in journal("vtpm5")), "the reload")
    assert any("[tpm] version has changed: not before a restart" in entry["MESSAGE"] for entry in journal("vtpm5"))
    run("swtpm_ioctl", "-l", "1", "/dev/vtpm5", user="lab-member")
    assert show("vtpm5", "MainPID") == pid
    assert show("vtpm5", "ActiveState") == "active"


def test_a_damaged_state_fails_the_unit_once_with_cause_and_remedy(configure):
    configure("vtpm6", "")
    systemctl("start", "vtpm6")
    systemctl("stop", "vtpm6")
    path = "/var/lib/vtpm/vtpm6/tpm2-00.permall"
    with open(path, "r+b") as file:
        file.seek(300)
        byte = file.read(1)
        file.seek(300)
        file.write(bytes([byte[0] ^ 0x10]))
    with open(path, "rb") as file:
        damaged = file.read()
    systemctl("start", "vtpm6", expect=None)
    assert show("vtpm6", "ActiveState") == "failed"
    assert show("vtpm6", "ExecMainStatus") == "65"
    assert show("vtpm6", "NRestarts") == "0"
    entry = next(entry for entry in journal("vtpm6") if entry.get("VTPM_ERROR") == "state-corrupt")
    assert path in entry["MESSAGE"]
    assert "remedy" in entry["MESSAGE"]
    with open(path, "rb") as file:
        assert file.read() == damaged
    assert not os.path.exists("/dev/vtpm6")
    assert "damaged" in show("vtpm6", "StatusText")


def test_a_missing_configuration_and_a_state_in_use_are_named(both, configure):
    systemctl("start", "nonesuch", expect=None)
    assert show("nonesuch", "ExecMainStatus") == "78"
    assert any("/etc/vtpm.d/nonesuch.toml" in entry["MESSAGE"] for entry in journal("nonesuch"))
    systemctl("reset-failed", "nonesuch")
    configure("thief", '[state]\ndirectory = "/var/lib/vtpm/vtpm1"\n')
    os.makedirs("/run/systemd/system/vtpm@thief.service.d", exist_ok=True)
    with open("/run/systemd/system/vtpm@thief.service.d/paths.conf", "w", encoding="ascii") as file:
        file.write("[Service]\nBindPaths=/var/lib/vtpm/vtpm1\nRestart=no\n")
    run("systemctl", "daemon-reload")
    systemctl("start", "thief", expect=None)
    assert show("thief", "ExecMainStatus") == "75"
    entry = next(entry for entry in journal("thief") if entry.get("VTPM_ERROR") == "state-locked")
    assert f"process {show('vtpm1', 'MainPID')}" in entry["MESSAGE"]
    assert "systemctl stop vtpm@vtpm1.service" in entry["MESSAGE"]
    shutil.rmtree("/run/systemd/system/vtpm@thief.service.d")
    run("systemctl", "daemon-reload")


def test_owner_group_and_mode_of_the_configuration_take_effect(configure):
    text = '[device]\nname = "tpm-of-lab"\nowner = "lab-member"\ngroup = "lab-operator"\nmode = "0640"\n'
    configure("work", text)
    systemctl("start", "work")
    found = os.stat("/dev/tpm-of-lab")
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (
        pwd.getpwnam("lab-member").pw_uid,
        grp.getgrnam("lab-operator").gr_gid,
        0o640,
    )


def test_a_group_of_people_gets_the_device(configure):
    """No system account, and none that has a name: OWNER and GROUP of udev 258 and later are not for them."""
    configure("work", "[device]\nowner = '1000660000'\ngroup = 'lab-people'\nmode = '0640'\n")
    run("groupadd", "--gid", "54321", "lab-people")
    try:
        systemctl("start", "work")
        found = os.stat("/dev/work")
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1000660000, 54321, 0o640)
        run("udevadm", "trigger", "--settle", "--action=change", "/dev/work")
        assert (os.stat("/dev/work").st_uid, os.stat("/dev/work").st_gid) == (1000660000, 54321)
    finally:
        systemctl("stop", "work")
        run("groupdel", "lab-people")


def test_an_instance_with_the_name_of_a_machine(configure):
    name = "3f1c1c5e-6a0b-4a57-9c22-7d8a41f0a8d3"
    configure(name, '[tpm]\nstartup = "clear"\n')
    systemctl("start", name)
    tpm2("tpm2_getrandom", "--hex", "4", device=name)
    systemctl("restart", name)
    assert status(name)["daemon"]["restarts"] == 1
    assert stat.S_ISSOCK(os.stat(f"/run/vtpm/{name}/ctrl.sock").st_mode)


def test_a_copied_state_is_noticed(configure):
    configure("work", '[tpm]\nstartup = "clear"\n')
    configure("copied", '[tpm]\nstartup = "clear"\n')
    systemctl("start", "work")
    systemctl("stop", "work")
    assert not os.path.exists("/run/vtpmkeys/work")
    run("cp", "-a", "/var/lib/vtpm/work", "/var/lib/vtpm/copied")
    systemctl("start", "work", "copied")
    assert os.stat("/run/vtpmkeys/work").st_uid == pwd.getpwnam("vtpm").pw_uid
    messages = [entry["MESSAGE"] for name in ("work", "copied") for entry in journal(name)]
    told = [message for message in messages if "one state is a copy of the other" in message]
    assert told
    assert re.match("this TPM is that of (work|copied), too: ", told[0])
    assert "copied, work have the same TPM" in run("vtpmctl", "doctor", expect=None).stdout
    assert json.loads(run("vtpmctl", "--json", "identity", "work").stdout)["served_as"] == ["copied", "work"]


def test_a_directory_of_swtpm_moves_in_and_out(configure, tmp_path):
    configure("moved", '[tpm]\nstartup = "clear"\n')
    state = "/var/lib/vtpm/moved"
    os.makedirs(state)
    swtpm(state, lambda tcti: nv(tcti, "define"))
    shutil.chown(state, "vtpm", "vtpm")
    for name in os.listdir(state):
        shutil.chown(f"{state}/{name}", "vtpm", "vtpm")
    systemctl("start", "moved")
    assert nv("device:/dev/moved", "read") == "from swtpm"
    tpm2("tpm2_nvdefine", "-Q", "-C", "o", "-s", "4", "0x1500003", device="moved")
    systemctl("stop", "moved")
    swtpm(state, lambda tcti: nv(tcti, "read 3"))


def nv(tcti, what):
    environment = dict(os.environ, TPM2TOOLS_TCTI=tcti)
    if what == "define":
        run("tpm2_nvdefine", "-Q", "-C", "o", "-s", "10", "0x1500002", env=environment)
        run("sh", "-c", "printf 'from swtpm' | tpm2_nvwrite -Q -C o -i - 0x1500002", env=environment)
        return None
    if what == "read":
        return run("tpm2_nvread", "-C", "o", "-s", "10", "0x1500002", env=environment).stdout
    return run("tpm2_nvreadpublic", "0x1500003", env=environment).stdout


def swtpm(state, work):
    """Run the distribution's swtpm on a state directory for `work`."""
    words = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--flags", "not-need-init,startup-clear"]
    words += ["--server", "type=tcp,port=2521", "--ctrl", "type=tcp,port=2522"]
    process = subprocess.Popen(words)
    try:
        time.sleep(2)
        work("swtpm:host=127.0.0.1,port=2521")
    finally:
        run("swtpm_ioctl", "--tcp", ":2522", "-s", expect=None)
        process.wait(30)


def test_systemd_counts_the_exposure_as_low(both):
    done = run("systemd-analyze", "security", "--no-pager", "vtpm@vtpm1.service")
    overall = next(line for line in done.stdout.splitlines() if "Overall exposure level" in line)
    assert float(overall.split(":")[1].split()[0]) <= 1.5, overall


def test_stop_takes_everything_away(both):
    client = Client("/dev/vtpm1")
    systemctl("stop", "vtpm0", "vtpm1")
    for name in both:
        assert not os.path.exists(f"/dev/{name}")
        assert show(name, "ActiveState") == "inactive"
        assert show(name, "NFileDescriptorStore") == "0"
        assert not os.path.exists(f"/run/vtpm/{name}/status")
    with pytest.raises(OSError, match=r"."):
        client(GET_RANDOM)


@pytest.mark.parametrize("more", ["", "[provision]\nenabled = false\n# or vtpm-proxy\n"], ids=["plain", "by Python"])
def test_what_root_has_noted_of_a_kernel_s_tpm_goes_with_the_configuration(configure, more):
    """The directory is not there in the unit's own mount namespace, and vtpm-attach removes the note all the same."""
    configure("plain", f'[tpm]\nstartup = "clear"\n[device]\nenabled = false\n{more}')
    note = Path("/run/vtpm/.kernel-tpm/plain")
    note.parent.mkdir(mode=0o755, exist_ok=True)
    note.write_text("tpm7 2.0 1\n")
    systemctl("start", "plain")
    assert not note.exists()
