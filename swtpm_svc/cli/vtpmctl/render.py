"""What vtpmctl prints: the text for a person, and the values for --json. Values in, text out.

A daemon's answer is shown as far as it is understood, and never trusted to be printable.
"""

import re
import time
from typing import TYPE_CHECKING, Any, Optional

from swtpm_svc.cli.output import error_values
from swtpm_svc.cli.vtpmctl.asking import Unit
from swtpm_svc.cli.vtpmctl.condition import Condition, Kind
from swtpm_svc.cli.vtpmctl.status import Node, Status, describe_access, user_name
from swtpm_svc.config.loading import SCHEMA, Config
from swtpm_svc.errors import VtpmError

if TYPE_CHECKING:
    from swtpm_svc.cli.vtpmctl.doctor.findings import Finding
    from swtpm_svc.cli.vtpmctl.inventory import Entry


#: Of what list, status and doctor print with --json: the next number when a member goes, or means something else.
JSON_SCHEMA = 1


def config_values(config: Config) -> "dict[str, Any]":
    """Tables and keys as they are in the file, defaults included."""
    return {
        table.name: {
            key.name: _written(key.field, getattr(getattr(config, table.field), key.field)) for key in table.keys
        }
        for table in SCHEMA
    }


def config_text(config: Config, notes: "list[str]") -> str:
    """The configuration as TOML, every default filled in."""
    lines = [f"# {config.path} is good; these values are in force, defaults included"]
    lines += [f"# note: {note}" for note in notes]
    for table, values in config_values(config).items():
        lines.append(f"[{table}]")
        lines += [f"{key} = {_toml(value)}" for key, value in values.items()]
    return "\n".join(lines)


def _toml(value: "str | int") -> str:
    if isinstance(value, int):
        return str(value).lower()  # a bool is an int too
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _written(field: str, value: Any) -> Any:
    if isinstance(value, tuple):
        return ",".join(value)
    return f"{value:04o}" if field == "mode" else value


def list_values(entries: "list[Entry]") -> "dict[str, Any]":
    instances = [
        {
            "instance": entry.instance,
            "version": entry.config.tpm.version if entry.config else None,
            "device": entry.config.device.node if entry.config and entry.config.device.enabled else None,
            "active": entry.active,
            "power": entry.power,
            "condition": condition_values(entry.condition),
            "error": error_values(entry.error) if entry.error else None,
        }
        for entry in entries
    ]
    return {"schema": JSON_SCHEMA, "instances": instances}


def condition_values(condition: Condition) -> "dict[str, Any]":
    return {"kind": condition.kind.value, "text": condition.text, "tpm": condition.tpm or None}


def list_text(entries: "list[Entry]") -> str:
    rows = [("NAME", "TPM", "DEVICE", "STATE")]
    for entry in entries:
        version, node = ("?", "?")
        if entry.config:
            version, node = entry.config.tpm.version, entry.config.device.node if entry.config.device.enabled else "-"
        rows.append((entry.instance, version, node, _short(entry)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    lines += [entry.error.report(entry.instance) for entry in entries if entry.error]
    return "\n".join(lines)


def _short(entry: "Entry") -> str:
    """Without the cause, which has a line of its own below."""
    text = entry.condition.text
    return clean(text if entry.condition.kind is Kind.SERVES else text.partition(":")[0])


def doctor_values(findings: "list[Finding]", exit_status: int) -> "dict[str, Any]":
    found = [
        {
            "verdict": finding.verdict,
            "check": finding.check,
            "text": finding.text,
            "remedy": finding.problem.remedy if finding.problem else None,
            "code": finding.problem.code.value if finding.problem else None,
        }
        for finding in findings
    ]
    return {"schema": JSON_SCHEMA, "exit_status": exit_status, "findings": found}


def doctor_text(findings: "list[Finding]") -> str:
    lines = []
    for finding in findings:
        lines.append(clean(f"{finding.verdict:<4}  {finding.check}: {finding.text}"))
        if finding.problem is not None and finding.problem.remedy:
            lines.append(clean(f"        remedy: {finding.problem.remedy}"))
    return "\n".join(lines)


def status_values(status: Status) -> "dict[str, Any]":
    return {
        "schema": JSON_SCHEMA,
        "instance": status.instance,
        "condition": condition_values(status.condition),
        "config": {"path": status.config.path, **config_values(status.config)} if status.config else None,
        "unit": {"name": status.unit.name, "properties": status.unit.properties, "reason": status.unit.reason or None},
        "device": _node_values(status.node) if status.node else None,
        "daemon": status.daemon,
        "installed": status.installed,
        "restart_pending": status.restart_pending,
        "files": status.files._asdict() if status.files else None,
        "problems": [error_values(problem) for problem in status.problems],
    }


def _node_values(node: Node) -> "dict[str, Any]":
    values = {**node._asdict(), "mode": f"{node.mode:04o}"}
    return values if node.exists else {name: values[name] for name in ("path", "exists", "served")}


def status_text(status: Status) -> str:
    daemon = status.daemon or {}
    lines = [clean(f"{status.instance}: {status.condition.text}"), _row("unit", _unit_text(status.unit))]
    if status.node is not None:
        lines.append(_row("device", _node_text(status.node)))
    lines += _place_lines(daemon)
    lines += _tpm_lines(status, _table(daemon, "tpm"))
    lines += _state_lines(status, _table(daemon, "state"))
    lines += _daemon_lines(daemon)
    lines += _installed_lines(status)
    lines += [_row("problem", problem.message) + _remedy(problem) for problem in status.problems]
    return "\n".join(lines)


def _row(label: str, text: str) -> str:
    return f"  {label:<10} {text}"


def _remedy(problem: VtpmError) -> str:
    return "\n" + _row("  remedy", problem.remedy) if problem.remedy else ""


def _unit_text(unit: Unit) -> str:
    if unit.properties is None:
        return f"{unit.name}: not known ({clean(unit.reason)})"
    known = unit.properties
    text = f"{unit.name}: {known.get('ActiveState')} ({known.get('SubState')})"
    if known.get("LoadState") not in ("loaded", None):
        text = f"{unit.name}: {known.get('LoadState')}"
    if known.get("ActiveState") == "failed":
        text += f", result {known.get('Result')}"
    if known.get("NRestarts", "0") not in ("", "0"):
        text += f", restarted {known['NRestarts']} times"
    if known.get("StatusText") and known.get("MainPID", "0") != "0":  # what a dead process said is over
        text += f": {known['StatusText']}"
    return clean(text)


def _node_text(node: Node) -> str:
    if not node.exists:
        return f"{node.path}: no such device" + (", though the kernel has one of this name" if node.served else "")
    return f"{node.path} {describe_access(node.owner, node.group, node.mode)}, number {node.major}:{node.minor}"


def _place_lines(daemon: "dict[str, Any]") -> "list[str]":
    """Where else clients find the TPM."""
    lines = []
    if daemon.get("kernel_tpm"):
        lines.append(_row("kernel", clean(str(daemon["kernel_tpm"]))))
    files = _table(daemon, "fuse")
    if files:
        lines.append(_row("files", clean(f"{files.get('path')}: {files.get('openers', 0)} openers")))
    listening = daemon.get("listening")
    if isinstance(listening, list) and listening:
        text = f"{', '.join(map(str, listening))}: {daemon.get('connections', 0)} connections"
        lines.append(_row("sockets", clean(text)))
    return lines


def _tpm_lines(status: Status, tpm: "dict[str, Any]") -> "list[str]":
    version = tpm.get("version") or (status.config.tpm.version if status.config else "of unknown version")
    if not tpm:
        return [_row("TPM", f"{version}, not served")]
    text = f"{version}, power {tpm.get('power')}, locality {tpm.get('locality')}, buffer {tpm.get('buffer_size')} bytes"
    if tpm.get("healed"):
        text += f", has failed and gone on {tpm['healed']} times"
    banks = tpm.get("pcr_banks")
    lines = [_row("TPM", clean(text))]
    if isinstance(banks, list) and banks:
        lines.append(_row("PCR banks", clean(", ".join(str(bank) for bank in banks))))
    return lines


def _state_lines(status: Status, state: "dict[str, Any]") -> "list[str]":
    directory = state.get("directory") or (status.config.state.place if status.config else None)
    if not directory:
        return []
    text = str(directory)
    sizes = _table(state, "bytes") or (status.files.sizes if status.files else None)
    generation = state.get("generation") or (status.files.generation if status.files else None)
    if sizes is None:
        text += ", sizes not known (run this as root)"
    elif not sizes:
        text += ": no state yet"
    else:
        text += ": " + ", ".join(f"{name} {size} bytes" for name, size in sorted(sizes.items()))
        text += f", generation of {_moment(generation)}"
    if state.get("stalled"):
        text += "; the storage does not answer"
    if state.get("encryption"):
        text += f", encrypted with {state['encryption']}"
    return [_row("state", clean(text))]


def _daemon_lines(daemon: "dict[str, Any]") -> "list[str]":
    if not daemon:
        return []
    text = f"vtpmd {daemon.get('version')}, process {daemon.get('pid')}, since {_moment(daemon.get('started'))}"
    text += f", {daemon.get('commands', 0)} commands, {daemon.get('restarts', 0)} restarts unseen by clients"
    lines = [_row("daemon", clean(text))]
    openers = daemon.get("openers")
    if isinstance(openers, list):
        shown = [_opener_text(opener) for opener in openers]
        count = daemon.get("opener_count")
        if isinstance(count, int) and count > len(shown):
            shown.append(f"and {count - len(shown)} more")
        lines.append(_row("openers", clean(", ".join(shown)) or "none"))
    last = _table(daemon, "last_error")
    if last:
        lines.append(
            _row("last error", clean(f"{_moment(last.get('time'))} {last.get('code')}: {last.get('message')}"))
        )
    return lines


def _installed_lines(status: Status) -> "list[str]":
    """Only where it is news: what an upgrade has installed and the daemon does not run yet."""
    if not status.restart_pending or status.running is None:
        return []
    kind = "a newer version" if _numbers(status.installed) > _numbers(status.running) else "another version"
    text = f"{status.installed}, {kind} than the one that runs: systemctl restart {status.unit.name} takes it over"
    return [_row("installed", clean(text))]


def _numbers(version: str) -> "list[int]":
    return [int(number) for number in re.findall(r"[0-9]{1,9}", version)]


def _opener_text(opener: Any) -> str:
    if not isinstance(opener, dict):
        return "?"
    uid = opener.get("uid")
    text = f"process {opener.get('pid')} of {user_name(uid) if isinstance(uid, int) else '?'}"
    return text + " (a response waits)" if opener.get("pending") else text


def _moment(value: Any) -> str:
    """Seconds since 1970, a number or the text of one, as local time; "?" for anything else."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(value)))
    except (TypeError, ValueError, OverflowError, OSError):
        return "?"


def _table(values: "dict[str, Any]", name: str) -> "dict[str, Any]":
    found: Optional[Any] = values.get(name)
    return found if isinstance(found, dict) else {}


def clean(text: str) -> str:
    """No control characters: a terminal acts on them."""
    return text if text.isprintable() else "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
