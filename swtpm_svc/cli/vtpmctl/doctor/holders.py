"""Who has the name or the number of a device that an instance wanted: another instance, or a program of others."""

import os
from typing import Optional

from swtpm_svc.cli.vtpmctl.status import Status
from swtpm_svc.errors import Code, VtpmError

PROC = "/proc"
SYSFS = "/sys"


def name(problem: VtpmError, found: Status) -> None:
    """Put the holder into the problem, where it can be found: only root sees whose /dev/cuse is open where."""
    assert found.config is not None
    device = found.config.device
    if problem.code is Code.DEVICE_NAME_TAKEN:
        subsystem = _subsystem(f"/dev/{device.name}")
    else:
        subsystem = _link(f"{SYSFS}/dev/char/{device.major}:{device.minor}/subsystem")
    if subsystem and subsystem != "cuse":
        problem.message += f"; it is a device of the kernel ({subsystem})"
        return
    holding = [f"process {pid} ({command})" for pid, command in cuse_holders()]
    if holding:
        problem.message += f"; devices of CUSE are served by {', '.join(holding[:4])}"


def _subsystem(node: str) -> Optional[str]:
    try:
        number = os.stat(node).st_rdev
    except OSError:
        return None
    return _link(f"{SYSFS}/dev/char/{os.major(number)}:{os.minor(number)}/subsystem") if number else None


def _link(path: str) -> Optional[str]:
    try:
        return os.path.basename(os.readlink(path))
    except OSError:
        return None


def cuse_holders() -> "list[tuple[str, str]]":
    """The processes that serve a device of CUSE, as far as this user may look."""
    found = []
    for pid in filter(str.isdigit, os.listdir(PROC)):
        try:
            links = {os.readlink(f"{PROC}/{pid}/fd/{fd}") for fd in os.listdir(f"{PROC}/{pid}/fd")}
            if "/dev/cuse" in links and pid != "1":
                with open(f"{PROC}/{pid}/comm", encoding="utf-8", errors="replace") as file:
                    found.append((pid, file.read().strip()))
        except OSError:
            continue
    return found
