"""What vtpmctl doctor finds of drop-ins, rules of udev, configurations, state and history, room by room."""

import os
from types import SimpleNamespace

import pytest
from made_system import ANSWER

from swtpm_svc.cli.vtpmctl.asking import Unit
from swtpm_svc.cli.vtpmctl.condition import Condition, Kind
from swtpm_svc.cli.vtpmctl.doctor import (
    configuration_checks,
    drop_ins,
    holders,
    host_checks,
    instance_checks,
    state_checks,
    udev_rules,
)
from swtpm_svc.cli.vtpmctl.status import Status
from swtpm_svc.config import loading
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.service.privileges import Account

UNIT = "vtpm@vtpm0.service"


def made(text="", *, daemon=None, kind=Kind.NOT_STARTED, installed="0.1.0", **properties):
    """A status of vtpm0, as `gather` would have it."""
    config = loading.parse(text, "/etc/vtpm.d/vtpm0.toml", "vtpm0")
    known = {"LoadState": "loaded", "NRestarts": "0", **properties}
    return Status("vtpm0", config, Unit(UNIT, known), None, daemon, None, [], installed, Condition(kind, kind.value))


def texts(findings):
    return [f"{one.verdict}: {one.text}" for one in findings]


# --- drop-ins --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("PrivateDevices=yes", "has PrivateDevices=yes: it hides /dev/cuse and the node"),
        ("PrivateDevices=no", None),
        ("PrivateUsers=true", "has PrivateUsers=true"),
        ("FileDescriptorStoreMax=0", "a restart then takes the device away"),
        ("FileDescriptorStoreMax=64", None),
        ("DevicePolicy=strict", "has DevicePolicy=strict"),
        ("DeviceAllow=", "has DeviceAllow=: it takes /dev/cuse away"),
        ("DeviceAllow=/dev/x rw", None),
        ("Type=simple", "has Type=simple"),
        ("NotifyAccess=main", "has NotifyAccess=main"),
        ("RuntimeDirectory=", "the sockets have then no place"),
        ("# PrivateDevices=yes", None),
        ("MemoryMax=1G", None),
    ],
)
def test_drop_ins_that_break_the_service(tmp_path, line, words):
    path = tmp_path / "x.conf"
    path.write_text(f"[Service]\n{line}\n")
    found = texts(drop_ins.examine(made(DropInPaths=str(path))))
    assert found == [] if words is None else words in found[0]


def test_ours_is_not_an_administrator_s(tmp_path):
    path = tmp_path / "openfile.conf"
    path.write_text("[Service]\nDeviceAllow=\n")
    assert drop_ins.examine(made(DropInPaths=str(path))) == []


def test_a_unit_that_systemd_has_not_read():
    assert texts(drop_ins.examine(made(NeedDaemonReload="yes"))) == [
        "warn: its unit or a drop-in has changed, and systemd has not read it"
    ]


def test_credentials_that_are_read_at_the_next_start(tmp_path):
    key = tmp_path / "key"
    path = tmp_path / "x.conf"
    path.write_text(f"[Service]\nLoadCredential=\\\nkey:{key}\nLoadCredentialEncrypted=other:relative\n")
    found = drop_ins.examine(made(DropInPaths=str(path)))
    assert [one.problem.code for one in found] == [Code.KEY_UNUSABLE]
    assert "cannot be read (No such file or directory): the next start fails" in found[0].text
    key.write_text("00")
    key.chmod(0o644)
    assert "can be read by everybody" in drop_ins.examine(made(DropInPaths=str(path)))[0].text
    key.chmod(0o600)
    assert drop_ins.examine(made(DropInPaths=str(path))) == []


# --- udev ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "numbers"),
    [
        ('KERNEL=="vtpm*", MODE="0666"', [2]),
        ('KERNEL=="vtpm0|x", GROUP:="users"', [2]),
        ('SUBSYSTEM=="cuse", OWNER="me"', [2]),
        ('SUBSYSTEM=="cuse", KERNEL=="other", MODE="0666"', []),
        ('SUBSYSTEM=="tpm", MODE="0666"', []),
        ('KERNEL=="vtpm0", SYMLINK+="x"', []),
        ('KERNEL=="vtpm0", RUN+="/bin/chmod 666 $devnode"', [2]),
        ('MODE="0666"', []),
        ('# KERNEL=="vtpm0", MODE="0666"', []),
        ('KERNEL=="vtpm0", \\\nMODE="0666"\nKERNEL=="vtpm0", OWNER="me"', [2, 4]),
    ],
)
def test_the_rule_that_decides(tmp_path, monkeypatch, rule, numbers):
    etc, usr = tmp_path / "etc", tmp_path / "usr"
    for directory in (etc, usr):
        directory.mkdir()
    monkeypatch.setattr(udev_rules, "RULE_PATHS", (str(etc), str(tmp_path / "none"), str(usr)))
    (usr / "70-vtpm.rules").write_text('KERNEL=="vtpm*", MODE="0660"\n')
    (usr / "99-local.rules").write_text('KERNEL=="vtpm0", MODE="0600"\n')
    (etc / "99-local.rules").write_text(f"# hides the one of its name\n{rule}\n")
    assert udev_rules.who_decides("vtpm0") == [f"{etc}/99-local.rules:{number}" for number in numbers]


def test_a_rule_of_an_administrator_in_place_of_ours(tmp_path, monkeypatch):
    monkeypatch.setattr(host_checks, "UDEV", str(tmp_path))
    paths = tuple(f"/{name}/udev-of-the-test" for name in ("etc", "run", "usr"))
    monkeypatch.setattr(host_checks, "RULE_PATHS", paths)
    there = set()
    monkeypatch.setattr(os.path, "lexists", lambda path: path in there)
    assert texts(host_checks.udev())[0].startswith("fail: there is no 70-vtpm.rules")
    there.add(f"{paths[2]}/70-vtpm.rules")
    assert texts(host_checks.udev()) == [f"ok: {paths[2]}/70-vtpm.rules is installed"]
    there.add(f"{paths[0]}/70-vtpm.rules")
    assert texts(host_checks.udev())[0].startswith(f"warn: {paths[0]}/70-vtpm.rules counts, not the package's")


# --- systemd, the clock ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "has_drop_in", "said"),
    [
        ("252", False, "ok: version 252, which starts daemons as root, which open /dev/cuse and leave root"),
        ("257", True, "ok: version 257, which opens /dev/cuse"),
        ("257", False, "warn: is of version 257 and could open /dev/cuse itself; openfile.conf is not installed"),
        ("252", True, "fail: is of version 252, and openfile.conf, which is for 253 and later"),
        ("249", False, "warn: is of version 249; what the service needs is there from 252 on"),
        ("x", False, "warn: its version is not known (x)"),
    ],
)
def test_what_a_version_of_systemd_means(tmp_path, monkeypatch, version, has_drop_in, said):
    monkeypatch.setattr(host_checks, "SYSTEMD", str(tmp_path))
    monkeypatch.setattr(host_checks, "UNIT_PATHS", (str(tmp_path),))
    monkeypatch.setattr(host_checks, "run", lambda *_words: SimpleNamespace(stdout=f"systemd {version} (x)\n+PAM\n"))
    if has_drop_in:
        (tmp_path / "vtpm@.service.d").mkdir()
        (tmp_path / "vtpm@.service.d/openfile.conf").touch()
    (found,) = texts(host_checks.systemd())
    assert found.startswith(said)


def test_a_clock_that_is_behind(monkeypatch):
    assert host_checks.clock().verdict == "ok"
    monkeypatch.setattr(host_checks.time, "time", lambda: 1e6)
    assert texts([host_checks.clock()])[0].startswith("fail: it says 1970-01-")


# --- configurations --------------------------------------------------------------------------------------------------


@pytest.fixture
def directory(tmp_path, monkeypatch):
    made = tmp_path / "vtpm.d"
    made.mkdir(0o755)
    monkeypatch.setattr(configuration_checks, "UNIT_PATHS", (str(tmp_path),))
    monkeypatch.setattr(loading, "STATE_DIRECTORY", str(tmp_path / "state"))
    return made


def configured(directory):
    places = SimpleNamespace(config=str(directory))
    return configuration_checks.examine([], places)


@pytest.mark.needs("root")
def test_files_that_others_may_write(directory):
    file = directory / "vtpm0.toml"
    file.touch(0o644)
    assert [one.verdict for one in configured(directory)] == ["ok"]
    file.chmod(0o666)
    assert texts(configured(directory))[0].startswith(f"fail: {file} can be written by everybody, and decides")
    file.chmod(0o664)
    os.chown(file, 0, 4242)
    assert "can be written by its group" in configured(directory)[0].text
    os.chown(file, 4242, 0)
    assert "can be written by user 4242, and" in configured(directory)[0].text
    os.chown(directory, 4242, 0)
    assert len(configured(directory)) == 2


def test_files_that_nobody_reads(directory):
    for name in ("vtpm0.toml", "vtpm1.toml.rpmsave", "two words.toml", "README", "ima"):
        (directory / name).touch()
    found = [one for one in configured(directory) if "nobody reads" in one.text]
    assert texts(found)[0].startswith(
        f"warn: {directory} has what nobody reads: README, two words.toml, vtpm1.toml.rpm"
    )


@pytest.mark.needs("root")  # whose the files are to be
def test_what_is_left_of_instances_that_have_no_file(directory, tmp_path):
    (directory / "vtpm0.toml").touch()
    for name in ("vtpm0", "lost"):
        (tmp_path / "state" / name).mkdir(parents=True)
        (tmp_path / "state" / name / "tpm2-00.permall").touch()
    (tmp_path / "multi-user.target.wants").mkdir()
    for name in ("vtpm0", "gone"):
        (tmp_path / f"multi-user.target.wants/vtpm@{name}.service").symlink_to("/dev/null")
    found = texts(configured(directory))
    assert f"warn: there is state of instances that have no file: {tmp_path}/state/lost" in found
    assert "fail: vtpm@gone is enabled, and has no file: it fails at each boot" in found
    assert len([one for one in found if "vtpm0" in one]) == 0
    assert configuration_checks.is_enabled("vtpm0")
    assert configuration_checks.is_enabled("vtpm1") is None


# --- state -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def state(tmp_path, monkeypatch):
    path = tmp_path / "state/vtpm0"
    path.mkdir(parents=True, mode=0o700)
    monkeypatch.setattr(loading, "STATE_DIRECTORY", str(tmp_path / "state"))
    monkeypatch.setattr(state_checks, "find_account", lambda _name: Account("vtpm", os.geteuid(), os.getegid()))
    return path


def examined(path, **properties):
    return texts(state_checks.examine(made(f'[state]\ndirectory = "{path}"\n', **properties)))


def room(monkeypatch, **values):
    there = {"f_flag": 0, "f_bavail": 10**6, "f_frsize": 4096, "f_files": 10**6, "f_favail": 10**6, **values}
    monkeypatch.setattr(os, "statvfs", lambda _path: SimpleNamespace(**there))


def test_a_state_that_is_well(state, monkeypatch):
    room(monkeypatch)
    assert examined(state) == [f"ok: its state in {state} can be written"]
    previous = state / "tpm2-00.permall.previous"
    previous.touch()
    os.utime(previous, (1700000000, 1700000000))
    assert "the generation before is of 2023-11-14 " in examined(state)[0]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"f_flag": os.ST_RDONLY}, "is mounted read-only"),
        ({"f_bavail": 10}, "is full, 40 KiB left"),
        ({"f_favail": 0}, "is full, no name for another file left"),
        ({"f_bavail": 500}, "has 2000 KiB left"),
        ({"f_files": 0, "f_favail": 0}, None),
    ],
)
def test_the_file_system_of_a_state(state, monkeypatch, values, words):
    room(monkeypatch, **values)
    found = examined(state)[0]
    assert words in found if words else found.startswith("ok")


def test_a_state_that_others_can_look_at_or_nobody(state, monkeypatch):
    room(monkeypatch)
    state.chmod(0o755)
    assert examined(state)[0] == f"warn: {state} has mode 0755: others can look at the TPM's keys"
    state.chmod(0o500)
    assert examined(state)[0] == f"fail: {state} has mode 0500: its owner cannot use it"
    state.chmod(0o700)


@pytest.mark.needs("root")
def test_a_state_of_others(state, monkeypatch):
    room(monkeypatch)
    (state / "tpm2-00.permall").touch()
    os.chown(state / "tpm2-00.permall", 4242, 4242)
    found = state_checks.examine(made(f'[state]\ndirectory = "{state}"\n'))
    assert texts(found) == [f"fail: 1 files in {state} are not vtpm's: tpm2-00.permall"]
    assert found[0].problem.remedy.endswith(f"chown -h vtpm:vtpm {state}/tpm2-00.permall")
    os.chown(state, 4242, 4242)
    assert examined(state)[0] == f"fail: {state} is 4242's, not vtpm's"


def test_a_state_outside_of_the_sandbox(tmp_path, state, monkeypatch):
    room(monkeypatch)
    other = tmp_path / "elsewhere"
    other.mkdir(0o700)
    found = state_checks.examine(made(f'[state]\ndirectory = "{other}"\n'))
    assert texts(found) == [f"fail: {other} is outside of the sandbox of {UNIT}: it cannot be written there"]
    assert rf"printf '[Service]\nBindPaths={other}\n' >/etc/systemd/system/vtpm@vtpm0.service.d/state.conf" in (
        found[0].problem.remedy
    )
    path = tmp_path / "x.conf"
    path.write_text(f"[Service]\nBindPaths=-{tmp_path}\n")
    assert examined(other, DropInPaths=str(path))[0].startswith("ok")
    path.write_text(f"[Service]\nReadWritePaths=/other {other}\n")
    assert examined(other, DropInPaths=str(path))[0].startswith("ok")


def test_a_state_that_is_not_there(tmp_path, state):
    state.rmdir()
    assert examined(state) == []
    (found,) = (one for one in examined(tmp_path / "none") if "sandbox" not in one)
    assert found == f"fail: {tmp_path}/none does not exist"


# --- what became of it -----------------------------------------------------------------------------------------------


def test_crashes_another_tpm_and_a_version_that_waits():
    daemon = {**ANSWER, "version": "0.1.0", "identity": {"change": {"time": 1700000000}}}
    found = instance_checks._history(made(daemon=daemon, kind=Kind.SERVES, installed="0.2.0", NRestarts="3"))
    assert [one.verdict for one in found] == ["warn"] * 3
    assert "started it again 3 times, as it ended by itself" in found[0].text
    assert "has another TPM than before, since 2023-11-14" in found[1].text
    assert found[2].text == "runs version 0.1.0, and 0.2.0 is installed"
    assert (
        instance_checks._history(made(daemon={**ANSWER, "identity": {}}, kind=Kind.SERVES, installed=ANSWER["version"]))
        == []
    )


def test_the_control_socket(tmp_path):
    path = tmp_path / "ctrl.sock"
    text = f'[socket]\ncontrol = "{path}"\n'
    assert texts(instance_checks._sockets(made(text, daemon=ANSWER))) == [
        f"fail: {path} is gone, though the service runs"
    ]
    path.touch(0o660)
    path.chmod(0o660)
    assert instance_checks._sockets(made(text, daemon=ANSWER)) == []
    path.chmod(0o666)
    assert texts(instance_checks._sockets(made(text, daemon=ANSWER))) == [
        f"fail: {path} has mode 0666, the configuration says 0660"
    ]
    assert instance_checks._sockets(made(text)) == []


def test_who_has_a_name(tmp_path, monkeypatch):
    monkeypatch.setattr(holders, "PROC", str(tmp_path))
    monkeypatch.setattr(holders, "SYSFS", str(tmp_path / "sys"))
    (tmp_path / "sys/dev/char/1:3").mkdir(parents=True)
    (tmp_path / "sys/dev/char/1:3/subsystem").symlink_to("../../../../class/mem")
    (tmp_path / "812/fd").mkdir(parents=True)
    (tmp_path / "812/fd/3").symlink_to("/dev/cuse")
    (tmp_path / "812/comm").write_text("swtpm_cuse\n")
    (tmp_path / "813").mkdir()
    problem = VtpmError(Code.DEVICE_NAME_TAKEN, "/dev/vtpm0 exists already")
    holders.name(problem, made('[device]\nname = "no-such"\n'))
    assert problem.message == "/dev/vtpm0 exists already; devices of CUSE are served by process 812 (swtpm_cuse)"
    problem = VtpmError(Code.DEVICE_NAME_TAKEN, "/dev/null exists already")
    holders.name(problem, made('[device]\nname = "null"\n'))
    assert problem.message == "/dev/null exists already; it is a device of the kernel (mem)"
    problem = VtpmError(Code.DEVICE_NUMBER_TAKEN, "1:3 exists already")
    holders.name(problem, made("[device]\nmajor = 1\nminor = 3\n"))
    assert problem.message.endswith("(mem)")
