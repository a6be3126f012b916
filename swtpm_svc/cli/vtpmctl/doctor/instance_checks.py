"""An instance: what it is (condition.py), what its file says, its node, its sockets, and what became of it."""

import os
import stat
import time
from typing import Any, Optional

from swtpm_svc.cli.vtpmctl import inventory, status
from swtpm_svc.cli.vtpmctl.condition import Kind
from swtpm_svc.cli.vtpmctl.doctor import configuration_checks, drop_ins, holders, state_checks, udev_rules
from swtpm_svc.cli.vtpmctl.doctor.findings import FAIL, WARN, Finding, bad, good, warn
from swtpm_svc.cli.vtpmctl.host import Places
from swtpm_svc.cli.vtpmctl.status import Status
from swtpm_svc.config.addresses import parse_address
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.frontends.fuse import mounts
from swtpm_svc.state import state_directory

#: What the newest start has failed with, and what somebody else holds then.
_TAKEN = (Code.DEVICE_NAME_TAKEN, Code.DEVICE_NUMBER_TAKEN)


def examine(found: Status, others: "list[inventory.Neighbour]", places: Places) -> "list[Finding]":
    """`others`: all that are examined, this one too."""
    findings = [*_problems(found), *_configuration(found, others, places)]
    misplaced = _misplaced(found)
    if misplaced is not None:
        findings.append(Finding(FAIL, found.instance, misplaced.message, misplaced.of(found.instance)))
    findings += [*drop_ins.examine(found), *state_checks.examine(found), *_sockets(found), *_history(found)]
    return _once([*_condition(found, findings), *findings])


def _once(findings: "list[Finding]") -> "list[Finding]":
    """What several have found is one finding."""
    return list({(one.check, one.text): one for one in findings}.values())


def _condition(found: Status, findings: "list[Finding]") -> "list[Finding]":
    """The first line of an instance, unless what is wrong has one of its own already."""
    name, condition = found.instance, found.condition
    if condition.kind is Kind.SERVES:
        if condition.problem is not None:
            return []  # among the problems
        node = [one for one in found.problems if one.code in (Code.DEVICE_NOT_READY, Code.DEVICE_REJECTED)]
        return [] if node else [good(name, _served(found))]
    if condition.kind is Kind.NOT_STARTED:
        return [_not_started(found)]
    return []


def _not_started(found: Status) -> Finding:
    name, problem = found.instance, found.condition.problem
    known = found.unit.properties or {}
    load = known.get("LoadState")
    if problem is not None and load == "masked":
        return Finding(WARN, name, problem.message, problem.of(name))
    if problem is not None and known and load not in ("loaded", None):
        return Finding(FAIL, name, problem.message, problem.of(name))
    is_enabled = configuration_checks.is_enabled(name) is not None
    return good(name, "is not started" + (", and enabled: the next boot starts it" if is_enabled else ""))


def _served(found: Status) -> str:
    node, tpm = found.node, found.condition.tpm
    where = (
        "without a device"
        if node is None
        else f"at {node.path} {status.describe_access(node.owner, node.group, node.mode)}, as configured"
    )
    return f"is served {where}" + (f"; the TPM: {tpm}" if tpm else "")


def _problems(found: Status) -> "list[Finding]":
    """What `status` finds wrong. That it is not started is not wrong."""
    is_down = found.condition.kind is Kind.NOT_STARTED
    problems = [one for one in found.problems if not (is_down and one is found.condition.problem)]
    findings = []
    for problem in problems:
        verdict = FAIL
        if problem is found.condition.problem and found.condition.kind in (Kind.STARTING, Kind.UNKNOWN):
            verdict = WARN
        if problem.code in _TAKEN and found.config is not None:
            holders.name(problem, found)
        if problem.code is Code.DEVICE_NOT_READY and found.node is not None:
            _name_rule(problem, found.node.path)
        findings.append(Finding(verdict, found.instance, problem.message, problem))
    return findings


def _name_rule(problem: VtpmError, path: str) -> None:
    """Which rule of udev has given the node another owner or mode."""
    deciding = udev_rules.who_decides(os.path.basename(path))
    if deciding:
        problem.message += f"; {deciding[-1]} decides that, after our rule"
        problem.remedy = (
            f"take the device out of that rule; then: udevadm control --reload; udevadm trigger --settle {path}"
        )


def _configuration(found: Status, others: "list[inventory.Neighbour]", places: Places) -> "list[Finding]":
    """What `vtpmctl check` says."""
    if found.config is None:
        return []
    is_served = found.daemon is not None
    try:
        notes = inventory.examine(found.config, others, places, is_served=is_served)
    except VtpmError as error:
        return [Finding(FAIL, found.instance, error.message, error.of(found.instance))]
    return [Finding(WARN, found.instance, note, VtpmError(Code.CONFIG_INVALID, note, remedy=None)) for note in notes]


def _misplaced(found: Status) -> Optional[VtpmError]:
    """systemd fails such a unit before its daemon can say why (238/STATE_DIRECTORY)."""
    if found.config is None or found.config.state.is_file:
        return None
    directory = found.config.state.directory
    return None if mounts.has_on_it(directory) else state_directory.wrong_place(directory)


def _sockets(found: Status) -> "list[Finding]":
    """The control socket, whose group may do everything but read secrets."""
    if found.config is None or found.daemon is None:
        return []
    address = parse_address(found.config.socket.control)
    if address is None or not address.path:
        return []
    try:
        there = os.stat(address.path)
    except OSError:
        text = f"{address.path} is gone, though the service runs"
        remedy = f"have it made anew; clients of the device do not notice: systemctl restart vtpm@{found.instance}"
        return [bad(found.instance, text, remedy, code=Code.SOCKET_UNAVAILABLE)]
    if stat.S_IMODE(there.st_mode) & ~found.config.socket.mode:
        wanted = f"{found.config.socket.mode:04o}"
        text = f"{address.path} has mode {stat.S_IMODE(there.st_mode):04o}, the configuration says {wanted}"
        return [bad(found.instance, text, f"chmod {wanted} {address.path}", code=Code.NOT_PERMITTED)]
    return []


def _history(found: Status) -> "list[Finding]":
    """What has become of it: crashes, another TPM, a version that waits for a restart."""
    findings, known, name = [], found.unit.properties or {}, found.instance
    restarts = known.get("NRestarts", "0")
    if found.condition.kind is Kind.SERVES and restarts not in ("", "0"):
        text = f"systemd has started it again {restarts} times, as it ended by itself"
        remedy = f"see why: journalctl -b -u {found.unit.name} -g exited; reset the count: systemctl reset-failed {found.unit.name}"
        findings.append(warn(name, text, remedy, code=Code.DAEMON_UNREACHABLE))
    change = _table(_table(found.daemon or {}, "identity"), "change")
    if change:
        text = f"has another TPM than before, since {_moment(change.get('time'))}: what was sealed to the old one is lost to it"
        remedy = f"see its keys: vtpmctl identity {name}; if that was not wanted, restore its state from a backup"
        findings.append(warn(name, text, remedy, code=Code.ALREADY_PROVISIONED))
    if found.restart_pending:
        text = f"runs version {found.running}, and {found.installed} is installed"
        remedy = f"take it over, clients do not notice: systemctl restart {found.unit.name}"
        findings.append(warn(name, text, remedy))
    return findings


def _moment(seconds: object) -> str:
    if not isinstance(seconds, (int, float)):
        return "?"
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _table(values: "dict[str, Any]", name: str) -> "dict[str, Any]":
    found = values.get(name)
    return found if isinstance(found, dict) else {}
