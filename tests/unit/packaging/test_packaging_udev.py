"""70-vtpm.rules: its syntax by a parser of our own, its effect by udev itself.

udev is asked about a device that does not exist: in a mount namespace of its own, with a /sys of our own making, the
one rule file that there is, and an answering machine in the place of vtpm-udev-properties.
"""

import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple, Optional

import pytest

ROOT = Path(__file__).resolve().parents[3]
RULES = ROOT / "packaging/udev/70-vtpm.rules"
HELPER = "/usr/libexec/vtpm/vtpm-udev-properties"

PAIR = re.compile(r'\s*([A-Z]+)(?:\{([^}]*)\})?\s*(==|!=|\+=|-=|:=|=)\s*"((?:[^"\\]|\\.)*)"\s*(?:,|$)')
# udev(7): what may only be compared, and what may only be assigned
MATCHES = {"ACTION", "DEVPATH", "KERNEL", "SUBSYSTEM", "DRIVER", "ATTR", "TEST", "PROGRAM", "RESULT"}
ASSIGNMENTS = {"OWNER", "GROUP", "MODE", "RUN", "LABEL", "GOTO", "OPTIONS"}


class Pair(NamedTuple):
    key: str
    attribute: Optional[str]
    operator: str
    value: str


class Result(NamedTuple):
    """What udev would do to the node."""

    owner: Optional[str]
    group: Optional[str]
    mode: Optional[str]
    tags: set[str]
    #: The programs that it would run afterwards.
    programs: tuple[str, ...] = ()


def parse(text: str) -> list[list[Pair]]:
    """One list for each rule. Raises ValueError: that is not a rule file."""
    rules = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        position, pairs = 0, []
        while position < len(line):
            found = PAIR.match(line, position)
            if not found:
                raise ValueError(line[position:])
            pairs.append(Pair(*found.groups()))
            position = found.end()
        rules.append(pairs)
    return rules


@pytest.mark.parametrize("line", ['KERNEL="a" GROUP', "KERNEL==vtpm", 'KERNEL=="vtpm', 'GROUP = "a"; MODE="1"'])
def test_the_parser_refuses(line):
    with pytest.raises(ValueError, match=r"."):
        parse(line)


def test_every_line_is_a_rule():
    for rule in parse(RULES.read_text()):
        for pair in rule:
            compares = pair.operator in ("==", "!=")
            assert not (pair.key in MATCHES and not compares), pair
            assert not (pair.key in ASSIGNMENTS and compares), pair


def test_every_goto_goes_forward_to_a_label():
    rules = parse(RULES.read_text())
    labels = {pair.value: number for number, rule in enumerate(rules) for pair in rule if pair.key == "LABEL"}
    jumps = [(number, pair.value) for number, rule in enumerate(rules) for pair in rule if pair.key == "GOTO"]
    assert jumps
    assert all(labels[label] > number for number, label in jumps)


def test_dev_cuse_itself_is_given_to_nobody():
    """/dev/cuse is of the subsystem misc. Whoever can open it can make any device."""
    rules = parse(RULES.read_text())
    assert rules[1:3] == [
        [
            Pair("SUBSYSTEM", None, "==", "tpm|tpmrm"),
            Pair("DEVPATH", None, "==", "/devices/virtual/*"),
            Pair("GOTO", None, "=", "vtpm_kernel"),
        ],
        [Pair("SUBSYSTEM", None, "!=", "cuse"), Pair("GOTO", None, "=", "vtpm_end")],
    ]
    assert [pair.key for pair in rules[0]] == ["ACTION", "GOTO"]


SCRIPT = r"""
set -e
mount -t tmpfs tmpfs /sys
mkdir -p /sys/devices/virtual/{subsystem}/{name} /sys/class/{subsystem}
ln -s ../../../../class/{subsystem} /sys/devices/virtual/{subsystem}/{name}/subsystem
printf 'MAJOR=240\nMINOR=0\nDEVNAME={name}\n' > /sys/devices/virtual/{subsystem}/{name}/uevent
echo 240:0 > /sys/devices/virtual/{subsystem}/{name}/dev
ln -s ../../devices/virtual/{subsystem}/{name} /sys/class/{subsystem}/{name}
# udev leaves links and files about the device in these two
mount -t tmpfs tmpfs /run
touch {directory}/null
mount --bind /dev/null {directory}/null
mount -t tmpfs tmpfs /dev
touch /dev/null
mount --bind {directory}/null /dev/null
mount --bind {directory}/group /etc/group
mount -t tmpfs tmpfs "$(dirname "$(realpath /usr/lib/udev/rules.d)")/rules.d"
cp {directory}/70-vtpm.rules /usr/lib/udev/rules.d/
SYSTEMD_DEVICE_VERIFY_SYSFS=0 udevadm test --action={action} /sys/devices/virtual/{subsystem}/{name} 2>&1
"""


def can_have_a_namespace() -> bool:
    if not (shutil.which("unshare") and shutil.which("udevadm") and Path("/usr/lib/udev/rules.d").is_dir()):
        return False
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/sys"]
    return subprocess.run(command, capture_output=True).returncode == 0


needs_udev = pytest.mark.skipif(not can_have_a_namespace(), reason="needs udevadm and a mount namespace")


def ask_udev(directory: Path, name: str, answer: str, *, subsystem: str = "cuse", action: str = "add") -> Result:
    """`answer`: what the helper program prints; empty: it fails."""
    helper = directory / "helper"
    helper.write_text(f"#!/bin/sh\n[ \"$*\" = '{name}' ] || exit 2\nprintf '{answer}' | grep .\n")
    helper.chmod(0o755)
    (directory / "70-vtpm.rules").write_text(RULES.read_text().replace(HELPER, str(helper)))
    (directory / "group").write_text("root:x:0:\nvtpm:x:998:\n")
    script = SCRIPT.format(directory=directory, name=name, subsystem=subsystem, action=action)
    result = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "nvalid" not in result.stdout
    said = []
    for key in ("OWNER", "GROUP", "MODE"):
        assigned = re.findall(rf"70-vtpm\.rules:\d+ {key} (?:\S+\()?([0-9]+)", result.stdout)
        said.append(assigned[-1] if assigned else None)
    tags = re.findall(r"^TAGS=(.*)$", result.stdout, flags=re.MULTILINE)
    programs = tuple(line.strip(" '") for line in re.findall(r"^run: (.*)$", result.stdout, flags=re.MULTILINE))
    return Result(said[0], said[1], said[2], {tag for line in tags for tag in line.split(":") if tag}, programs)


@needs_udev
def test_a_vtpm_gets_its_group_without_any_configuration(tmp_path):
    assert ask_udev(tmp_path, "vtpm0", "") == Result(None, "998", "0660", {"systemd"})


@needs_udev
def test_the_configuration_s_owner_group_and_mode_win(tmp_path):
    answer = r"VTPM_INSTANCE=vtpm0\nVTPM_OWNER=1\nVTPM_GROUP=1000660000\nVTPM_MODE=0640\n"
    chown = ("/bin/chown -h 1:1000660000 /dev/vtpm0",)
    assert ask_udev(tmp_path, "vtpm0", answer) == Result(None, None, "0640", {"systemd"}, chown)


@needs_udev
def test_a_device_of_another_name_is_ours_if_the_configuration_says_so(tmp_path):
    answer = r"VTPM_INSTANCE=signer\nVTPM_OWNER=0\nVTPM_GROUP=998\nVTPM_MODE=0600\n"
    chown = ("/bin/chown -h 0:998 /dev/signer",)
    assert ask_udev(tmp_path, "signer", answer) == Result(None, None, "0600", {"systemd"}, chown)


@needs_udev
def test_an_account_that_does_not_exist_is_given_nothing(tmp_path):
    answer = r"VTPM_INSTANCE=signer\nVTPM_OWNER=0\nVTPM_MODE=0600\n"
    assert ask_udev(tmp_path, "signer", answer) == Result(None, None, "0600", {"systemd"})


@needs_udev
def test_somebody_else_s_cuse_device_is_left_alone(tmp_path):
    assert ask_udev(tmp_path, "dsp", "") == Result(None, None, None, set())


@needs_udev
def test_a_vtpm_that_is_no_cuse_device_is_left_alone(tmp_path):
    assert ask_udev(tmp_path, "vtpmx", "", subsystem="misc") == Result(None, None, None, set())


@needs_udev
def test_a_removal_asks_nothing(tmp_path):
    assert ask_udev(tmp_path, "vtpm0", r"VTPM_INSTANCE=vtpm0\n", action="remove") == Result(None, None, None, set())
