"""Which rule of udev gives a device its owner, group and mode, when that is not ours."""

import fnmatch
import os
import re

from swtpm_svc.cli.vtpmctl.doctor.host_checks import RULE_PATHS, RULES

_CONDITION = re.compile(r'\b(KERNEL|SUBSYSTEM)\s*==\s*"([^"]*)"')
_SETS = re.compile(r'\b(OWNER|GROUP|MODE)\s*:?=\s*"|\bRUN(?:\{\w+\})?\s*\+?:?=\s*"[^"]*\bch(?:own|mod|grp)\b')


def who_decides(device_name: str) -> "list[str]":
    """Where rules of others set owner, group or mode of this device: FILE:LINE, in the order of udev."""
    files = {}
    for directory in reversed(RULE_PATHS):
        try:
            names = os.listdir(directory)
        except OSError:
            continue
        files.update({name: f"{directory}/{name}" for name in names if name.endswith(".rules")})
    ours = f"{RULE_PATHS[-1]}/{RULES}"
    return [
        f"{path}:{number}"
        for _, path in sorted(files.items())
        if path != ours
        for number in _lines_about(path, device_name)
    ]


def _lines_about(path: str, device_name: str) -> "list[int]":
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return []
    found, whole, begin = [], "", 1
    for number, line in enumerate(lines, 1):
        whole += line.rstrip("\\")
        if line.endswith("\\"):
            continue
        if not whole.lstrip().startswith("#") and _SETS.search(whole) and _is_about(whole, device_name):
            found.append(begin)
        whole, begin = "", number + 1
    return found


def _is_about(rule: str, device_name: str) -> bool:
    """It names the device, or the devices of CUSE; one that names neither is not looked into."""
    conditions = _CONDITION.findall(rule)
    values = {"KERNEL": device_name, "SUBSYSTEM": "cuse"}
    return bool(conditions) and all(
        any(fnmatch.fnmatchcase(values[key], pattern) for pattern in text.split("|")) for key, text in conditions
    )
