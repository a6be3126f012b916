"""Drop-ins of an administrator's that take away what the service lives on, and what they load."""

import os
import re
from typing import Callable, NamedTuple, Optional

from swtpm_svc.cli.vtpmctl.doctor.findings import Finding, bad, warn
from swtpm_svc.cli.vtpmctl.status import Status
from swtpm_svc.errors import Code, quote

_TRUE = ("1", "yes", "y", "true", "t", "on")


class Line(NamedTuple):
    """An assignment in a unit's file."""

    path: str
    key: str
    value: str


def _is_true(value: str) -> bool:
    return value.lower() in _TRUE


def _is_few(value: str) -> bool:
    return value.isdigit() and int(value) < 8


#: What of a drop-in breaks the service, when, and how.
_BREAKS: "tuple[tuple[str, Callable[[str], bool], str], ...]" = (
    ("PrivateDevices", _is_true, "it hides /dev/cuse and the node from the service"),
    ("PrivateUsers", _is_true, "the kernel then refuses each client whose user is not known there"),
    ("FileDescriptorStoreMax", _is_few, "a restart then takes the device away from its clients"),
    ("DevicePolicy", lambda value: value == "strict", "the device that clients open is then refused to the service"),
    ("DeviceAllow", lambda value: not value, "it takes /dev/cuse away"),
    ("Type", lambda value: value not in ("notify", "notify-reload"), "systemd then does not know when it is ready"),
    ("NotifyAccess", lambda value: value in ("none", "main"), "what root makes for the service is then lost"),
    ("StateDirectory", lambda value: not value, "the state's directory is then not made and not the service's"),
    ("RuntimeDirectory", lambda value: not value, "the sockets have then no place"),
)  # fmt: skip


def examine(found: Status) -> "list[Finding]":
    known = found.unit.properties or {}
    lines = [line for path in known.get("DropInPaths", "").split() for line in read(path)]
    findings = [
        bad(
            found.instance,
            f"{line.path} has {line.key}={line.value}: {how}",
            f"take the line out: systemctl edit {found.unit.name}; then: systemctl restart {found.unit.name}",
            code=Code.CONFIG_INVALID,
        )
        for line in lines
        for key, breaks, how in _BREAKS
        if line.key == key and breaks(line.value) and "openfile.conf" not in line.path
    ]
    if known.get("NeedDaemonReload") == "yes" and known.get("LoadState") == "loaded":
        text = "its unit or a drop-in has changed, and systemd has not read it"
        findings.append(warn(found.instance, text, "systemctl daemon-reload", code=Code.CONFIG_INVALID))
    return findings + _credentials(found, lines)


def _credentials(found: Status, lines: "list[Line]") -> "list[Finding]":
    """Files that systemd reads for the service at its next start."""
    findings = []
    for line in lines:
        path = line.value.partition(":")[2]
        if not line.key.startswith("LoadCredential") or not path.startswith("/"):
            continue
        missing = _why_not(path)
        if missing is not None:
            text = f"{path}, which {line.path} has in {line.key}=, {missing}: the next start fails"
            remedy = f"put it back, as root's and 0600: ls -l {quote(path)}"
            findings.append(bad(found.instance, text, remedy, code=Code.KEY_UNUSABLE))
    return findings


def _why_not(path: str) -> Optional[str]:
    try:
        mode = os.stat(path).st_mode
    except PermissionError:
        return None  # not to be seen by this user
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "can be read by everybody" if mode & 0o004 else None


def read(path: str) -> "list[Line]":
    """The assignments of a file of a unit; none where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError:
        return []
    text = re.sub(r"\\\n", " ", text)
    pairs = (line.strip().partition("=") for line in text.splitlines() if not line.lstrip().startswith(("#", ";", "[")))
    return [Line(path, key.strip(), value.strip()) for key, is_assigned, value in pairs if is_assigned]
