"""What SELinux has denied our domains since the boot: what concerns what runs now, apart from what is over."""

import json
import os
import re
import time
from typing import NamedTuple, Optional

from swtpm_svc.cli.vtpmctl.doctor.findings import Finding, bad, good, run, warn
from swtpm_svc.cli.vtpmctl.status import Status
from swtpm_svc.errors import Code

#: A denial that is no older may be of a start that has failed, whose processes nobody knows any more.
RECENT_S = 600.0
_OURS = re.compile(r":vtpm(_\w+)?_t:")
_EXPLAIN = "ausearch -m avc -ts boot | audit2allow -w explains them; please report those that a correct setup causes"


class Denial(NamedTuple):
    """`time`: seconds since 1970, 0 where the record does not say."""

    time: float
    pid: Optional[str]
    record: str


def examine(found: "list[Status]") -> "list[Finding]":
    if os.geteuid() != 0:
        return [warn("denials", "cannot be looked at", "run this as root")]
    denied = _denied()
    if denied is None:
        return [warn("denials", "there is neither ausearch nor journalctl", "install audit")]
    if not denied:
        return [good("denials", "none since the boot")]
    now, running = time.time(), _processes(found)
    current = [one for one in denied if one.pid in running or now - one.time < RECENT_S]
    findings = []
    if current:
        text = f"{len(current)} that concern what runs now, the last one: {describe_denial(current[-1].record)}"
        findings.append(bad("denials", text, _EXPLAIN, code=Code.NOT_PERMITTED))
    over = [one for one in denied if one not in current]
    if over:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(over[-1].time))
        text = f"{len(over)} of processes that have ended, the last one at {when}: {describe_denial(over[-1].record)}"
        findings.append(warn("denials", text, _EXPLAIN, code=Code.NOT_PERMITTED))
    return findings


def _processes(found: "list[Status]") -> "set[str]":
    """Those of the instances' newest starts."""
    properties = [one.unit.properties or {} for one in found]
    pids = {known.get(name, "0") for known in properties for name in ("MainPID", "ExecMainPID")}
    pids |= {str((one.daemon or {}).get("pid")) for one in found}
    return pids - {"0", "None"}


def _denied() -> "Optional[list[Denial]]":
    """None: there is nothing to ask."""
    try:
        records = run("ausearch", "--input-logs", "--raw", "-m", "AVC,USER_AVC,SELINUX_ERR", "-ts", "boot").stdout
        entries = [(_audit_time(line), line) for line in records.splitlines()]
    except FileNotFoundError:
        try:
            done = run("journalctl", "--boot", "--output=json", "_TRANSPORT=audit")
        except FileNotFoundError:
            return None
        entries = [_of_journal(line) for line in done.stdout.splitlines()]
    return [
        Denial(when, _pid(record), record)
        for when, record in entries
        if re.search(r"denied|SELINUX_ERR", record) and _OURS.search(record)
    ]


def _audit_time(record: str) -> float:
    found = re.search(r"msg=audit\(([0-9]+\.[0-9]+):", record)
    return float(found[1]) if found else 0.0


def _of_journal(line: str) -> "tuple[float, str]":
    try:
        entry = json.loads(line)
        return int(entry.get("__REALTIME_TIMESTAMP", 0)) / 1e6, str(entry.get("MESSAGE", ""))
    except (ValueError, TypeError, AttributeError):
        return 0.0, ""


def _pid(record: str) -> Optional[str]:
    found = re.search(r"\bpid=([0-9]+)", record)
    return found[1] if found else None


def describe_denial(record: str) -> str:
    """`vtpm_t was denied { read } on shadow_t (file)`; of another form, the record as it is."""
    match = re.search(r"denied\s+\{ ([^}]*) \}.*scontext=(\S+) tcontext=(\S+) tclass=(\S+)", record)
    if not match:
        return record
    permissions, source, target, kind = match.groups()
    return f"{type_of(source)} was denied {permissions} on {type_of(target)} ({kind})"


def type_of(context: str) -> str:
    parts = context.split(":")
    return parts[2] if len(parts) > 2 else context
