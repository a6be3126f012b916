"""Why the newest start of an instance failed, or its service ended: what the daemon left, what systemd says, and, where
these two say nothing, what stands in the journal."""

import json
import os
import re
import signal
import subprocess
from typing import Optional

from swtpm_svc.cli.vtpmctl.asking import Unit
from swtpm_svc.errors import Code, VtpmError, quote
from swtpm_svc.service import failed_start

JOURNAL_TIME_S = 10.0
#: The service's own statuses begin below this, systemd's for what it could not do before it (systemd.exec(5)) at it.
_SYSTEMDS_OWN = 200
_SEE_DROP_INS = "see which line of the unit asks for it: systemctl cat {unit}"
#: systemd's statuses: what it could not do, and what to do about it.
STEPS = {
    200: ("enter its working directory", _SEE_DROP_INS),
    203: ("execute {program}", "reinstall the package python3-swtpm"),
    216: ("become the group that Group= names", "make the accounts: systemd-sysusers vtpm.conf; or " + _SEE_DROP_INS),
    217: ("become the user that User= names", "make the accounts: systemd-sysusers vtpm.conf; or " + _SEE_DROP_INS),
    218: ("drop capabilities", _SEE_DROP_INS),
    219: ("put it into its control group", "see whether /sys/fs/cgroup is mounted and can be written: findmnt -R /sys/fs/cgroup"),
    225: ("make its network namespace", _SEE_DROP_INS),
    226: ("make its sandbox of mounts", "see that each path of BindPaths= and its like exists: systemctl cat {unit}"),
    228: ("apply SystemCallFilter=", _SEE_DROP_INS),
    229: ("enter the SELinux context", _SEE_DROP_INS),
    233: ("make the runtime directory", "see what is in its place, and whether /run is full: df /run; ls -ld /run/vtpm {run}"),
    238: ("make the state directory", "see what is in its place, and whether it can be written: ls -ld /var/lib/vtpm {state}; df /var/lib/vtpm"),
    243: ("read a credential of LoadCredential= or SetCredential=", "put the file in place that it names: systemctl cat {unit}"),
}  # fmt: skip
#: What systemd writes before "Failed at step ...", which only repeats the status.
_FAILED_STEP = re.compile(r"Failed to (?!start\b).*")


def cause(unit: Unit, instance: str, note_path: str) -> Optional[VtpmError]:
    """Why the newest start failed or the service ended; None: it did not.

    It has the service's own code where that is known, else DAEMON_UNREACHABLE.
    """
    known = unit.properties or {}
    told = failed_start.parse(known.get("StatusText", ""))
    if told is not None:
        return told
    note = failed_start.read(note_path)
    if note is not None:
        return note.error
    result = known.get("Result", "success")
    status = _status(known)
    if result == "success" and not status:
        return None
    if status >= _SYSTEMDS_OWN:
        return _not_executed(unit, instance, status)
    if result in _ENDS:
        text, remedy = _ENDS[result]
        signal_name = _signal_name(known)
        return _of(text.format(signal=signal_name), remedy.format(unit=unit.name))
    return _from_journal(unit) or _of(
        f"it ended with status {status}" if status else f"it ended ({result})",
        _read_the_journal(unit.name),
    )


_ENDS = {
    "signal": ("it was ended by signal {signal}", "see who did that: journalctl -u {unit} -k"),
    "core-dump": ("it crashed ({signal})", "report it, with what this says: coredumpctl info {unit}"),
    "watchdog": (
        "it did not answer systemd for the time of WatchdogSec=, and was ended",
        "see what kept it, most often a disk: journalctl -k; vtpmctl doctor",
    ),
    "oom-kill": (
        "it was ended for want of memory",
        "see what took it: journalctl -k; the limit is MemoryMax= of {unit}",
    ),
    "timeout": (
        "it took longer to start or to end than it may",
        "see what kept it, most often a disk: journalctl -u {unit}",
    ),
    "resources": ("systemd could not start a process", "see what is short: journalctl -u {unit}; systemctl status"),
    "protocol": ("it ended without saying that it is ready", "see why: journalctl -u {unit}"),
    "start-limit-hit": ("it was started too often in too short a time", "see why: journalctl -u {unit}"),
}


def _status(known: "dict[str, str]") -> int:
    """The exit status of the process that ended the start: the main one's, or that of ExecStartPre=."""
    number = known.get("ExecMainStatus", "0")
    if known.get("ExecMainCode") == "1" and number not in ("", "0"):
        return int(number)
    found = re.search(r"; code=exited ; status=([0-9]+)", known.get("ExecStartPre", ""))
    return int(found[1]) if found else 0


def _signal_name(known: "dict[str, str]") -> str:
    try:
        return signal.Signals(int(known.get("ExecMainStatus", ""))).name
    except ValueError:
        return "?"


def _not_executed(unit: Unit, instance: str, status: int) -> VtpmError:
    known = unit.properties or {}
    what, remedy = STEPS.get(status, (f"do what status {status} stands for in systemd.exec(5)", _SEE_DROP_INS))
    names = {
        "unit": unit.name,
        "program": _program(known),
        "run": f"/run/vtpm/{instance}",
        "state": f"/var/lib/vtpm/{instance}",
    }
    detail = _failed_step(unit)
    text = f"systemd could not {what.format(**names)}"
    return _of(f"{text}: {detail}" if detail else text, remedy.format(**names))


def _program(known: "dict[str, str]") -> str:
    found = re.search(r"path=(\S+)", known.get("ExecStart", ""))
    return quote(found[1]) if found else "the program"


def _failed_step(unit: Unit) -> str:
    """What systemd wrote of it; empty where the journal may not be read."""
    for entry in reversed(_entries(unit)):
        found = _FAILED_STEP.search(str(entry.get("MESSAGE", "")))
        if found:
            return found[0]
    return ""


def _from_journal(unit: Unit) -> Optional[VtpmError]:
    """The daemon's own last words of that start: an entry with a code, or what a launcher wrote to standard error."""
    entries = _entries(unit)
    codes = {code.value for code in Code}
    for entry in reversed(entries):
        code, message = entry.get("VTPM_ERROR"), entry.get("MESSAGE")
        if code in codes and isinstance(message, str):
            text, _, remedy = message.partition("; remedy: ")
            return VtpmError(Code(code), text, remedy=remedy or None)
    lines = [str(entry.get("MESSAGE")) for entry in entries if entry.get("_TRANSPORT") == "stdout"]
    for text, after in zip(reversed(lines[:-1]), reversed(lines[1:])):
        if after.startswith("  remedy: "):
            return _of(text.partition(": ")[2] or text, after.partition(": ")[2], Code.INSTALLATION)
    return None


def _entries(unit: Unit) -> "list[dict[str, object]]":
    """Of the newest start, as far as this user may read them."""
    invocation = (unit.properties or {}).get("InvocationID", "")
    if not re.fullmatch("[0-9a-f]{32}", invocation):
        return []
    command = ["journalctl", "--quiet", "--no-pager", "--output=json", "--lines=50", "--boot"]
    command += [f"_SYSTEMD_INVOCATION_ID={invocation}", "+", f"INVOCATION_ID={invocation}"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=JOURNAL_TIME_S, check=False
        )
        return [json.loads(line) for line in done.stdout.decode("utf-8", "replace").splitlines()]
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return []


def _read_the_journal(unit: str) -> str:
    who = "" if os.geteuid() == 0 else "as root, "
    return f"see why, {who}in its journal: journalctl -u {unit}"


def _of(message: str, remedy: str, code: Code = Code.DAEMON_UNREACHABLE) -> VtpmError:
    return VtpmError(code, message, remedy=remedy)
