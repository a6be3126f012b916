"""vtpm@.service and its drop-in: what systemd's own offline checks say, and the decisions that a later edit could undo.

Exposure, as `systemd-analyze security --offline=yes` of systemd 252 gives it (the limit here is 0.9):
    vtpm@.service as it is, started as root (systemd 252)         0.9
    vtpm@.service with openfile.conf, never root (systemd 253)    0.6
What is left of the 0.9: CAP_SETUID and CAP_SETGID 0.3, the system calls that go with them 0.2, no PrivateDevices= 0.2,
no PrivateUsers= 0.2, and 0.1 each for AF_UNIX, ProcSubset=, DeviceAllow= and no root directory of its own. The overall
figure is not their sum.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from swtpm_svc.cli.vtpmctl import last_start
from swtpm_svc.errors import TABLE, Code
from swtpm_svc.service import failed_start
from swtpm_svc.service.identity import clones

ROOT = Path(__file__).resolve().parents[3]
UNIT = ROOT / "packaging/vtpm@.service"
FAILED = ROOT / "packaging/vtpm-failed@.service"
DROP_IN = ROOT / "packaging/vtpm@.service.d/openfile.conf"
JOURNAL = ROOT / "swtpm_svc/service/systemd/journal.py"
VARIANTS = ("root-then-vtpm", "openfile")

needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")


class Setting(NamedTuple):
    section: str
    key: str
    value: str


def settings(path: Path) -> list[Setting]:
    found, section = [], ""
    for line in path.read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.append(Setting(section, key, value))
    return found


def values(path: Path, key: str) -> list[str]:
    return [setting.value for setting in settings(path) if setting.key == key]


def value(key: str) -> str:
    (found,) = values(UNIT, key)
    return found


def systemd_version() -> int:
    first_line = subprocess.run(["systemctl", "--version"], capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )[0]
    return int(first_line.split()[1])


def lay_out(directory: Path, variant: str) -> Path:
    """The unit as installed, with copies of this tree's launchers; without a key that this systemd does not know."""
    launchers = f"{directory}/libexec/"  # the tree's own path may have a space in it
    shutil.copytree(ROOT / "packaging/libexec", launchers)
    unit = directory / UNIT.name
    unit.write_text(UNIT.read_text().replace("/usr/libexec/vtpm/", launchers))
    if variant == "openfile":
        text = DROP_IN.read_text().replace("/usr/libexec/vtpm/", launchers)
        if systemd_version() < 253:
            text = re.sub(r"^OpenFile=.*\n", "", text, flags=re.MULTILINE)
        drop_in = directory / DROP_IN.parent.name / DROP_IN.name
        drop_in.parent.mkdir()
        drop_in.write_text(text)
    return unit


@needs_systemd
@pytest.mark.parametrize("variant", VARIANTS)
def test_systemd_understands_every_line(tmp_path, variant):
    unit = lay_out(tmp_path, variant)
    # --man=no: the manual pages are not installed where the tests run
    result = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True)
    # it loads the units that ours names as well, and those are the system's
    complaints = [line for line in result.stderr.splitlines() if "vtpm@" in line]
    assert complaints == []
    assert result.returncode == 0


@needs_systemd
def test_verify_would_notice(tmp_path):
    unit = lay_out(tmp_path, "root-then-vtpm")
    unit.write_text(unit.read_text().replace("WatchdogSec=", "WatchDogSec="))
    result = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True)
    assert "WatchDogSec" in result.stderr


@needs_systemd
@pytest.mark.parametrize("variant", VARIANTS)
def test_exposure_is_at_most_0_9(tmp_path, variant):
    unit = lay_out(tmp_path, variant)
    threshold = 9 if systemd_version() < 254 else 15  # later ones count more
    command = ["systemd-analyze", "security", "--offline=yes", f"--threshold={threshold}", "--no-pager", str(unit)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-300:] + result.stderr


@needs_systemd
def test_the_drop_in_takes_away_more_than_it_gives(tmp_path):
    """It is found beside the unit, so the measurement above is of both files, and the better one."""
    (tmp_path / "base").mkdir()
    (tmp_path / "with").mkdir()
    reports = [
        subprocess.run(
            ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(unit)], capture_output=True, text=True
        ).stdout
        for unit in (lay_out(tmp_path / "base", "root-then-vtpm"), lay_out(tmp_path / "with", "openfile"))
    ]
    figures = [float(re.findall(r"exposure level for .*: ([0-9.]+)", report)[0]) for report in reports]
    assert figures[1] < figures[0]


@pytest.mark.parametrize("path", [UNIT, DROP_IN], ids=["unit", "drop-in"])
def test_comments_have_lines_of_their_own(path):
    """systemd takes a # behind a value as part of the value."""
    assert [setting for setting in settings(path) if "#" in setting.value] == []


@pytest.mark.parametrize("path", [UNIT, DROP_IN], ids=["unit", "drop-in"])
def test_only_lists_are_written_twice(path):
    """Anything else written twice: the first is not what the service gets."""
    keys = [setting.key for setting in settings(path)]
    assert {key for key in keys if keys.count(key) > 1} <= {"SystemCallFilter", "ExecStart", "DeviceAllow"}


def test_an_error_that_stays_is_not_tried_again():
    """What the daemon can fail with at its start, and whether the next start could go better by itself."""
    lasting = {
        Code.USAGE,
        Code.CONFIG_MISSING,
        Code.CONFIG_UNREADABLE,
        Code.CONFIG_INVALID,
        Code.USER_MISSING,
        Code.CUSE_MISSING,
        Code.CUSE_DENIED,
        Code.DEVICE_NAME_TAKEN,
        Code.DEVICE_NUMBER_TAKEN,
        Code.DEVICE_REJECTED,
        Code.STATE_MISSING,
        Code.STATE_CORRUPT,
        Code.STATE_FOREIGN,
        Code.NOT_PERMITTED,
    }
    passing = {
        Code.DEVICE_NOT_READY,
        Code.STATE_LOCKED,
        Code.STATE_FULL,
        Code.STATE_UNWRITABLE,
        Code.LIBTPMS,
        Code.INTERNAL,
    }
    prevented = {int(status) for status in value("RestartPreventExitStatus").split()}
    assert {status for status in prevented if status < 200} == {TABLE[code].exit_status for code in lasting}
    assert {status for status in prevented if status < 200} == failed_start.FINAL
    assert prevented.isdisjoint(TABLE[code].exit_status for code in passing)


def test_what_systemd_cannot_do_for_good_is_not_tried_again():
    """Each of these statuses has words and a remedy; what may be short for a while (processes, memory, control groups) is
    tried again."""
    prevented = {int(status) for status in value("RestartPreventExitStatus").split()}
    own = {status for status in prevented if status >= 200}
    assert own <= set(last_start.STEPS)
    assert {203, 216, 217, 226, 238, 243} <= own
    assert own.isdisjoint({202, 204, 219})
    # of the status of this one systemd would not ask: the main process has to end with it
    assert value("ExecStartPre").startswith("-+")


def test_a_start_that_is_tried_again_can_be_for_hours():
    """With the longest pause, the limit of starts is never reached; and the pause ends before the start must."""
    interval_s, burst = 5 * 60, int(value("StartLimitBurst"))
    assert (value("StartLimitIntervalSec"), value("TimeoutStartSec")) == ("5min", "90s")
    pauses, starts = 0.0, 0
    while pauses < interval_s:
        starts += 1
        pauses += failed_start.pause_s(starts)
    assert starts < burst / 2
    assert failed_start.pause_s(10**6) == failed_start.MAX_PAUSE_S < 30


def test_a_failure_for_good_ends_the_sockets():
    assert value("OnFailure") == "vtpm-failed@%i.service"
    assert values(FAILED, "ExecStart") == ["/usr/libexec/vtpm/vtpm-end-sockets %i"]
    assert os.access(ROOT / "packaging/libexec/vtpm-end-sockets", os.X_OK)


@pytest.mark.parametrize("sockets", [(), ("vtpm@vm1.socket",), ("vtpm@vm1.socket", "vm1-data.socket")])
def test_sockets_that_take_connections_are_ended_and_the_reason_is_told(tmp_path, sockets):
    """systemctl and logger are played: the real ones are in tests/lab/vm/test_socket_units.py."""
    programs = {
        "systemctl": f"""
            case "$1 $2" in
            'show --property=TriggeredBy') echo "{" ".join(sockets)} idle.socket" ;;
            'show '*) printf 'Result=exit-code\nExecMainStatus=73\n' ;;
            'is-active '*) [ "$3" != idle.socket ] ;;
            'stop '*) echo "stop $2" >>{tmp_path}/said ;;
            esac""",
        "logger": f"[ $1 = --journald ] && grep -E '^(MESSAGE|OBJECT)' >>{tmp_path}/said",
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    words = [ROOT / "packaging/libexec/vtpm-end-sockets", "vm1"]
    subprocess.run(words, env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=True)
    said = (tmp_path / "said").read_text() if sockets else ""
    assert re.findall("^stop (.*)", said, flags=re.MULTILINE) == list(sockets)
    for socket in sockets:
        assert (
            f"MESSAGE={socket} ends: vtpm@vm1.service has failed for good (Result=exit-code ExecMainStatus=73)" in said
        )
        assert f"OBJECT_SYSTEMD_UNIT={socket}\nOBJECT_SYSTEMD_UNIT=vtpm@vm1.service\n" in said
    assert not (tmp_path / "said").exists() or sockets


def test_a_manual_page_that_is_named_exists():
    for page in re.findall(r"man:(\S+)\((\d)\)", value("Documentation")):
        assert (ROOT / "docs/man" / ".".join(page)).exists(), page


def test_a_wrong_configuration_is_reported_and_not_skipped():
    keys = {setting.key for setting in settings(UNIT)}
    assert not {key for key in keys if key.startswith(("Condition", "Assert"))}


def test_what_a_restart_leaves_in_place():
    assert value("FileDescriptorStoreMax") == "16"
    assert value("RuntimeDirectoryPreserve") == "restart"
    assert value("Restart") == "on-failure"
    # twenty restarts by hand within ten seconds are systemd's default limit and our own test
    assert int(value("StartLimitBurst")) > 100


def test_readiness_and_watchdog_are_the_main_process_s():
    assert value("Type") == "notify"
    assert value("NotifyAccess") == "exec"
    assert value("WatchdogSec") == "30s"


def test_a_line_on_standard_error_has_the_same_name_as_an_entry():
    assert f"SYSLOG_IDENTIFIER={value('SyslogIdentifier').replace('%i', '{instance}')}" in JOURNAL.read_text()


def test_state_is_the_service_user_s_alone():
    assert value("StateDirectory") == "vtpm/%i vtpm-identity/%i"
    assert value("StateDirectoryMode") == "0700"
    assert value("UMask") == "0077"
    assert value("LimitCORE") == "0"


def test_instances_do_not_see_each_other_s_directories():
    """Each directory of an instance is in one that is hidden, and is put back alone; but for that which is for others
    to see."""
    runtime = value("RuntimeDirectory").split()
    assert f"/run/{runtime.pop().replace('/%i', '')}" == clones.DIRECTORY
    own = [f"/var/lib/{name}" for name in value("StateDirectory").split()] + [f"/run/{name}" for name in runtime]
    assert value("ProtectSystem") == "strict", "what is not the instance's own is read-only"
    assert value("BindPaths").split() == own
    assert value("TemporaryFileSystem").split() == [f"{path[: -len('/%i')]}:ro" for path in own]


def test_instances_share_no_memory_and_have_bounds():
    assert value("InaccessiblePaths") == "-/dev/shm"
    assert value("MemoryMax") == "512M"
    assert value("LimitNOFILE") == "1024"


def test_no_system_call_is_left_that_is_only_for_other_processes():
    """What is for the process itself as well is refused by its arguments: tests/integration/tpm/test_confinement.py."""
    refused = {word for line in values(UNIT, "SystemCallFilter") if line.startswith("~") for word in line[1:].split()}
    whole = {
        "pidfd_send_signal",
        "process_vm_readv",
        "process_vm_writev",
        "rt_sigqueueinfo",
        "rt_tgsigqueueinfo",
        "tkill",
    }
    assert whole <= refused
    assert not refused & {"kill", "tgkill", "prlimit64", "fcntl", "ioctl"}


def test_what_would_break_the_service_is_not_hardened_away():
    """Each of these looks like an oversight, but is not one; the unit's comments say why."""
    keys = {setting.key for setting in settings(UNIT) + settings(DROP_IN)}
    assert not keys & {"PrivateDevices", "PrivateUsers", "ProcSubset", "DynamicUser", "RootDirectory"}


def test_root_only_until_the_channel_is_open():
    """systemd 252: the ! starts as root in spite of User=, with what it takes to become that user and nothing else."""
    assert value("ExecStart") == "!/usr/libexec/vtpm/vtpmd %i"
    assert (value("User"), value("Group")) == ("vtpm", "vtpm")
    assert value("CapabilityBoundingSet").split() == ["CAP_SETUID", "CAP_SETGID"]
    assert values(UNIT, "SystemCallFilter")[-1] == "@setuid @chown"


def test_never_root_where_systemd_opens_the_channel():
    assert values(DROP_IN, "ExecStart") == ["", "/usr/libexec/vtpm/vtpmd %i"]
    assert values(DROP_IN, "OpenFile") == ["/dev/cuse:cuse:graceful"]
    assert values(DROP_IN, "CapabilityBoundingSet") == [""]
    assert values(DROP_IN, "DeviceAllow") == []  # or systemd itself could not open it
