"""The state of an instance: whose it is, whether it can be written, how much room there is, who holds it."""

import os
import stat
import time
from typing import Optional

from swtpm_svc.cli.vtpmctl.condition import Kind
from swtpm_svc.cli.vtpmctl.doctor import drop_ins
from swtpm_svc.cli.vtpmctl.doctor.findings import FAIL, Finding, bad, good, warn
from swtpm_svc.cli.vtpmctl.status import Status, user_name
from swtpm_svc.config import loading
from swtpm_svc.errors import Code, VtpmError, quote
from swtpm_svc.frontends.fuse import mounts
from swtpm_svc.service.privileges import Account, find_account
from swtpm_svc.state import lock, state_directory

#: Less than this, and a TPM that stores keys soon cannot; less than the first, and it cannot now.
NO_ROOM_BYTES, LITTLE_ROOM_BYTES = 128 * 1024, 4 * 1024 * 1024
_NAMED_MAX = 8


def examine(found: Status) -> "list[Finding]":
    """Of a directory; a file or a disk in its place is looked at as far as that is the same."""
    if found.config is None:
        return []
    state, name = found.config.state, found.instance
    place = state.place
    folder = os.path.dirname(place) if state.is_file else place
    if mounts.has_on_it(place):
        return []
    findings = _outside(found, folder)
    try:
        there = os.stat(folder)
    except FileNotFoundError:
        return [*findings, *_missing(found, folder)]
    except OSError as error:
        return [*findings, warn(name, f"{folder} cannot be looked at ({error.strerror})", "run this as root")]
    if not stat.S_ISDIR(there.st_mode):
        return findings  # told by what `check` finds
    findings += _file_system(name, folder)
    try:
        account = find_account("vtpm")
    except VtpmError:
        return findings  # told of the host
    findings += [] if state.is_file else _ownership(name, folder, there, account)
    if found.daemon is None and not state.is_file:
        findings += _holder(found, folder)
    if any(one.verdict == FAIL for one in findings):
        return findings
    return [*findings, good(name, _described(found, folder))]


def _outside(found: Status, folder: str) -> "list[Finding]":
    """A place that the unit's sandbox does not have."""
    known = found.unit.properties or {}
    own = f"{loading.STATE_DIRECTORY}/{found.instance}"
    if known.get("LoadState") != "loaded" or _is_within(folder, own):
        return []
    lines = [
        line for path in known.get("DropInPaths", "").split() for line in drop_ins.read(path)
    ]  # fmt: skip
    given = [
        word.lstrip("-+").split(":")[0]
        for line in lines
        if line.key in ("BindPaths", "ReadWritePaths")
        for word in line.value.split()
    ]
    if any(_is_within(folder, path) for path in given):
        return []
    text = f"{folder} is outside of the sandbox of {found.unit.name}: it cannot be written there"
    return [bad(found.instance, text, bind_remedy(found.instance, folder), code=Code.STATE_UNWRITABLE)]


def bind_remedy(instance: str, folder: str) -> str:
    directory = quote(f"/etc/systemd/system/vtpm@{instance}.service.d")
    line = quote(f"[Service]\\nBindPaths={folder}\\n")
    return (
        f"give it to the unit: mkdir -p {directory}; printf {line} >{directory}/state.conf; systemctl daemon-reload; "
        f"systemctl restart vtpm@{quote(instance)}"
    )


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _missing(found: Status, folder: str) -> "list[Finding]":
    if folder == f"{loading.STATE_DIRECTORY}/{found.instance}":
        return []  # systemd makes it at the first start
    text = f"{folder} does not exist"
    remedy = f"mount what belongs there, or make it: install -d -m 0700 -o vtpm -g vtpm {quote(folder)}"
    return [bad(found.instance, text, remedy, code=Code.STATE_MISSING)]


def _file_system(name: str, folder: str) -> "list[Finding]":
    try:
        there = os.statvfs(folder)
    except OSError as error:
        remedy = f"see what the kernel says of its disk: journalctl -k; findmnt -T {quote(folder)}"
        return [
            bad(
                name,
                f"the file system of {folder} does not answer ({error.strerror})",
                remedy,
                code=Code.STATE_UNREADABLE,
            )
        ]
    if there.f_flag & os.ST_RDONLY:
        remedy = (
            f"see which it is: findmnt -T {quote(folder)}; and whether the kernel did it, for a failing disk: "
            "journalctl -k; if not, mount it read-write"
        )
        return [bad(name, f"the file system of {folder} is mounted read-only", remedy, code=Code.STATE_UNWRITABLE)]
    free = there.f_bavail * there.f_frsize
    has_names = there.f_files == 0 or there.f_favail > 8
    if free < NO_ROOM_BYTES or not has_names:
        what = f"{free // 1024} KiB" if has_names else "no name for another file"
        remedy = f"make room there: df {quote(folder)}; df -i {quote(folder)}"
        return [bad(name, f"the file system of {folder} is full, {what} left", remedy, code=Code.STATE_FULL)]
    if free < LITTLE_ROOM_BYTES:
        remedy = f"make room there: df {quote(folder)}"
        return [warn(name, f"the file system of {folder} has {free // 1024} KiB left", remedy, code=Code.STATE_FULL)]
    return []


def _ownership(name: str, folder: str, there: os.stat_result, account: Account) -> "list[Finding]":
    findings = []
    if there.st_uid != account.uid:
        text = f"{folder} is {user_name(there.st_uid)}'s, not vtpm's"
        remedy = f"chown -h vtpm:vtpm {quote(folder)}"
        findings.append(bad(name, text, remedy, code=Code.STATE_UNWRITABLE))
    elif there.st_mode & 0o077:
        text = f"{folder} has mode {stat.S_IMODE(there.st_mode):04o}: others can look at the TPM's keys"
        findings.append(warn(name, text, f"chmod 0700 {quote(folder)}", code=Code.STATE_UNREADABLE))
    elif there.st_mode & 0o700 != 0o700:
        text = f"{folder} has mode {stat.S_IMODE(there.st_mode):04o}: its owner cannot use it"
        findings.append(bad(name, text, f"chmod 0700 {quote(folder)}", code=Code.STATE_UNWRITABLE))
    try:
        entries = [(entry.path, entry.stat(follow_symlinks=False).st_uid) for entry in os.scandir(folder)]
    except OSError:
        return findings  # of another user's, and this is not root
    strangers = sorted(path for path, uid in entries if uid != account.uid and not path.endswith("/lost+found"))
    if strangers:
        shown = " ".join(map(quote, strangers[:_NAMED_MAX]))
        text = f"{len(strangers)} files in {folder} are not vtpm's: {os.path.basename(strangers[0])}"
        remedy = f"see whose they are, ls -l {quote(folder)}; if they belong to this TPM: chown -h vtpm:vtpm {shown}"
        findings.append(bad(name, text, remedy, code=Code.STATE_UNWRITABLE))
    return findings


def _holder(found: Status, folder: str) -> "list[Finding]":
    """Who holds the state of an instance that is not served by its own daemon."""
    if found.condition.kind is Kind.SILENT:
        return []  # that one itself
    try:
        lock.refuse_held(folder)
    except VtpmError as error:
        return [] if found.unit.name in error.message else [Finding(FAIL, found.instance, error.message, error)]
    return []


def _described(found: Status, folder: str) -> str:
    config = found.config
    assert config is not None
    text = f"its state in {config.state.place} can be written"
    previous = None if config.state.is_file else _previous(folder, config.tpm.version)
    if previous is not None:
        text += time.strftime(", the generation before is of %Y-%m-%d %H:%M", time.localtime(previous))
    return text


def _previous(folder: str, version: str) -> Optional[float]:
    name = state_directory.file_name(version, "permall") + state_directory.PREVIOUS
    try:
        return os.stat(f"{folder}/{name}").st_mtime
    except OSError:
        return None
