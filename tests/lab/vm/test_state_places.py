"""Where the unit's sandbox and SELinux let a TPM have its state and its capture, and how two instances share a state."""

import os
import shutil
import stat

import pytest
from device_clients import Client
from services import journal, run, selinux_type, show, systemctl
from tpm_commands import (
    GET_RANDOM,
    NV_DEFINE_COUNTER,
    NV_INCREMENT,
    NV_READ_COUNTER,
    PCR_EXTEND_16,
    PCR_READ_16,
    counter_of,
    result_of,
)

pytestmark = pytest.mark.needs("systemd", "root", "accounts")

NAME = "placed"
STATE = f"/var/lib/vtpm/{NAME}"
DISK = "/dev/lab/state"
SHARED = "/srv/tpm/shared"
#: What a TPM is sent before its power goes, unless [tpm] disable-auto-shutdown says otherwise.
SHUTDOWN = bytes.fromhex("80010000000c000001450000"), bytes.fromhex("80010000000c000001450001")
#: A section of a capture begins with it (pcapng).
SECTION = bytes.fromhex("0a0d0d0a")


@pytest.fixture(scope="module")
def elsewhere():
    """What vtpm@.service(8) has an administrator do for a state on a disk, and for one in another directory, which two
    instances share here."""
    rule = "/run/udev/rules.d/90-lab.rules"
    os.makedirs(os.path.dirname(rule), exist_ok=True)
    with open(rule, "w", encoding="ascii") as file:
        file.write('KERNEL=="ram0", SYMLINK+="lab/state", OWNER="vtpm", ')
        file.write('SECLABEL{selinux}="system_u:object_r:vtpm_state_device_t:s0"\n')
    os.makedirs(SHARED)
    run("chown", "vtpm:vtpm", SHARED)
    os.chmod(SHARED, 0o700)
    run("chcon", "-R", "-t", "vtpm_var_lib_t", os.path.dirname(SHARED))
    drop_ins = {
        NAME: f"DeviceAllow={DISK} rw",
        "leaving": f"BindPaths={SHARED}",
        "coming": f"BindPaths={SHARED}",
    }
    for name, line in drop_ins.items():
        os.makedirs(drop_in_folder(name))
        with open(f"{drop_in_folder(name)}/lab.conf", "w", encoding="ascii") as file:
            file.write(f"[Service]\n{line}\n")
    run("udevadm", "control", "--reload")
    run("systemctl", "daemon-reload")
    run("modprobe", "brd", "rd_nr=1", "rd_size=64")  # of 64 KiB
    run("udevadm", "settle")
    yield
    systemctl("stop", *drop_ins)
    run("rmmod", "brd")
    os.unlink(rule)
    for folder in (*map(drop_in_folder, drop_ins), os.path.dirname(SHARED)):
        shutil.rmtree(folder)
    run("udevadm", "control", "--reload")
    run("systemctl", "daemon-reload")


def drop_in_folder(name):
    return f"/run/systemd/system/vtpm@{name}.service.d"


def ask(name, *commands):
    """Send these to the device of an instance; the last response."""
    client = Client(f"/dev/{name}")
    try:
        return [client(command) for command in commands][-1]
    finally:
        client.close()


def start_with_a_counter(name):
    systemctl("start", name)
    assert counter_of(ask(name, NV_DEFINE_COUNTER, NV_INCREMENT, NV_READ_COUNTER)) == 1


def content(path):
    with open(path, "rb") as file:
        return file.read()


def permissions(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def messages(name):
    return [entry["MESSAGE"] for entry in journal(name)]


def test_all_of_a_tpm_in_one_file_of_the_instances_directory(configure):
    text = '[tpm]\nstartup = "clear"\nbuffer-size = 3500\ndisable-auto-shutdown = true\n'
    text += f'[state]\nfile = "{STATE}/whole.tpm"\nmode = "0640"\nfsync = false\n'
    configure(NAME, f'{text}[log]\npcap = "/run/vtpm/{NAME}/traffic.pcapng"\n')
    start_with_a_counter(NAME)
    assert " 3500 bytes " in run("vtpmctl", "buffer-size", NAME).stdout
    run("vtpmctl", "power", "off", NAME)
    captured = content(f"/run/vtpm/{NAME}/traffic.pcapng")
    assert NV_INCREMENT in captured
    assert not any(command in captured for command in SHUTDOWN)
    systemctl("stop", NAME)
    assert os.listdir(STATE) == ["whole.tpm"]
    assert (permissions(f"{STATE}/whole.tpm"), selinux_type(f"{STATE}/whole.tpm")) == (0o640, "vtpm_var_lib_t")
    systemctl("start", NAME)
    assert counter_of(ask(NAME, NV_READ_COUNTER)) == 1


@pytest.mark.usefixtures("elsewhere")
def test_all_of_a_tpm_on_a_disk_and_a_capture_that_the_sandbox_refuses(configure):
    text = f'[tpm]\nstartup = "clear"\n[state]\nfile = "{DISK}"\n'
    configure(NAME, f'{text}[log]\npcap = "/var/traffic.pcapng"\n')
    start_with_a_counter(NAME)
    told = "[log] pcap: nothing is captured: /var/traffic.pcapng: Read-only file system"
    assert any(told in message for message in messages(NAME))
    systemctl("stop", NAME)
    assert os.listdir(STATE) == []
    run("udevadm", "trigger", "--settle", "--action=change", DISK)  # udev opens what it has labelled
    systemctl("start", NAME)
    assert counter_of(ask(NAME, NV_READ_COUNTER)) == 1
    assert selinux_type(os.path.realpath(DISK)) == "vtpm_state_device_t"


def test_a_start_goes_back_to_the_backup_and_the_capture_beside_it_goes_on(configure):
    text = '[tpm]\nstartup = "clear"\n[state]\nbackup = true\nlock = false\n'
    configure(NAME, f'{text}[log]\npcap = "{STATE}/traffic.pcapng"\n')
    start_with_a_counter(NAME)
    systemctl("stop", NAME)
    assert sorted(os.listdir(STATE)) == ["tpm2-00.permall", "tpm2-00.permall.bak", "traffic.pcapng"]
    captured = content(f"{STATE}/traffic.pcapng")
    assert captured.count(SECTION) == 1
    assert any(command in captured for command in SHUTDOWN)
    with open(f"{STATE}/tpm2-00.permall", "r+b") as file:
        file.truncate(300)
    systemctl("start", NAME)
    assert counter_of(ask(NAME, NV_READ_COUNTER)) == 1
    assert any("tpm2-00.permall.bak" in message for message in messages(NAME))
    captured = content(f"{STATE}/traffic.pcapng")
    assert captured.count(SECTION) == 2
    assert NV_READ_COUNTER in captured[captured.rindex(SECTION) :]
    found = permissions(f"{STATE}/traffic.pcapng"), selinux_type(f"{STATE}/traffic.pcapng")
    assert found == (0o640, "vtpm_var_lib_t")


def test_a_profile_is_read_from_a_file_beside_the_configurations(configure):
    profile = "/etc/vtpm.d/lab-profile.json"
    with open(profile, "w", encoding="ascii") as file:
        file.write('{"Name": "custom", "Description": "of the lab"}')
    os.chmod(profile, 0o644)
    try:
        configure(NAME, f'[tpm]\nprofile = "{profile}"\n')
        systemctl("start", NAME, expect=None)
        if show(NAME, "ActiveState") == "active":
            assert "of the lab" in run("vtpmctl", "info", NAME, "--flags", "active-profile").stdout
        else:
            assert any("has no profiles" in message for message in messages(NAME)), "it was read before that"
    finally:
        os.unlink(profile)


@pytest.mark.usefixtures("elsewhere")
def test_a_tpm_moves_between_two_instances_with_one_directory(configure, tmp_path):
    text = f'[tpm]\nstartup = "clear"\n[state]\ndirectory = "{SHARED}"\n[migration]\n'
    configure("leaving", f"{text}release-lock = true\n")
    configure("coming", f"{text}incoming = true\n")
    start_with_a_counter("leaving")
    pcr = ask("leaving", PCR_EXTEND_16, PCR_READ_16)
    systemctl("start", "coming")
    assert result_of(ask("coming", GET_RANDOM)) != 0, "the other one has the lock"
    run("vtpmctl", "power", "off", "coming")
    for kind in ("permanent", "volatile"):
        run("vtpmctl", "save", "leaving", kind, str(tmp_path / kind))
    run("vtpmctl", "save", "leaving", "savestate", str(tmp_path / "savestate"), expect=None)  # a TPM 2.0 has none
    assert any(f"has given up, for another host, the lock of {SHARED}" in message for message in messages("leaving"))
    for kind in ("permanent", "volatile"):
        run("vtpmctl", "load", "coming", kind, str(tmp_path / kind))
    assert any(f"has taken the lock of {SHARED}" in message for message in messages("coming"))
    run("vtpmctl", "init", "coming")
    assert ask("coming", PCR_READ_16) == pcr
    assert counter_of(ask("coming", NV_INCREMENT, NV_READ_COUNTER)) == 2
    assert result_of(ask("leaving", GET_RANDOM)) != 0
    systemctl("stop", "leaving")
    systemctl("restart", "coming")
    assert counter_of(ask("coming", NV_READ_COUNTER)) == 2
