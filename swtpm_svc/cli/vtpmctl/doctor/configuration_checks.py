"""/etc/vtpm.d as a whole: who may write what root's udev and the services believe, what there is that nobody reads, and
what is left of instances that have no file any more."""

import glob
import os
import stat
from typing import Optional

from swtpm_svc.cli.vtpmctl.doctor.findings import Finding, bad, good, warn
from swtpm_svc.cli.vtpmctl.doctor.host_checks import UNIT_PATHS
from swtpm_svc.cli.vtpmctl.host import Places
from swtpm_svc.cli.vtpmctl.status import Status, user_name
from swtpm_svc.config import loading
from swtpm_svc.config.schema import NAME_PATTERN
from swtpm_svc.errors import Code, VtpmError, quote

CHECK = "configuration"
#: What else may be there: the host's key of IMA (docs/ima.md).
_KNOWN = ("ima",)
_NAMED_MAX = 8


def examine(found: "list[Status]", places: Places) -> "list[Finding]":
    """Of the directory, once for all instances. `found`: those that there are."""
    findings = writable(places.config)
    ignored = ignored_files(places.config)
    if ignored:
        text = f"{places.config} has what nobody reads: {_listed(ignored)}; a file counts if it is NAME.toml"
        remedy = f"rename what is meant to count, move away the rest: ls -l {quote(places.config)}"
        findings.append(warn(CHECK, text, remedy, code=Code.CONFIG_INVALID))
    try:
        names = loading.instances(places.config)
    except VtpmError:
        return findings  # that there is no such directory is said elsewhere
    findings += _without_file(names, [one.config.state.place for one in found if one.config is not None])
    return findings or [good(CHECK, f"{places.config} and its files are root's alone to write")]


def writable(directory: str) -> "list[Finding]":
    """Files that others than root may write: what stands in one decides which device root's udev gives to whom."""
    findings = []
    for path in (directory, *sorted(glob.glob(f"{glob.escape(directory)}/*.toml"))):
        try:
            found = os.stat(path)
        except OSError:
            continue
        who = []
        if found.st_uid != 0:
            who.append(f"user {user_name(found.st_uid)}")
        if found.st_mode & stat.S_IWGRP and found.st_gid != 0:
            who.append("its group")
        if found.st_mode & stat.S_IWOTH:
            who.append("everybody")
        if who:
            text = f"{path} can be written by {' and '.join(who)}, and decides what root's udev and the service do"
            remedy = f"see what is in it; then: chown -h root:root {quote(path)}; chmod go-w {quote(path)}"
            findings.append(bad(CHECK, text, remedy, code=Code.CONFIG_INVALID))
    return findings


def ignored_files(directory: str) -> "list[str]":
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    return sorted(name for name in names if not _counts(name) and name not in _KNOWN)


def _counts(name: str) -> bool:
    return name.endswith(".toml") and bool(NAME_PATTERN.fullmatch(name[: -len(".toml")]))


def _without_file(names: "list[str]", states: "list[str]") -> "list[Finding]":
    findings = []
    kept = [path for path in _states() if os.path.basename(path) not in names and path not in states]
    if kept:
        text = f"there is state of instances that have no file: {_listed(kept)}"
        remedy = f"make the file anew, an empty one for the defaults: touch /etc/vtpm.d/{quote(os.path.basename(kept[0]))}.toml; or keep it elsewhere"
        findings.append(warn(CHECK, text, remedy, code=Code.CONFIG_MISSING))
    for link in wanted_links():
        instance = os.path.basename(link).removeprefix("vtpm@").removesuffix(".service")
        if instance and instance not in names:
            text = f"vtpm@{instance} is enabled, and has no file: it fails at each boot"
            remedy = f"systemctl disable {quote(f'vtpm@{instance}.service')}; or make the file: vtpmctl create {quote(instance)}"
            findings.append(bad(CHECK, text, remedy, code=Code.CONFIG_MISSING))
    return findings


def _states() -> "list[str]":
    """Directories that have a TPM in them, as far as they may be looked at."""
    paths = glob.glob(f"{loading.STATE_DIRECTORY}/*/tpm*-00.permall")
    return sorted({os.path.dirname(path) for path in paths})


def wanted_links(name: str = "*") -> "list[str]":
    """The links by which systemd starts instances at a boot."""
    return sorted(link for path in UNIT_PATHS for link in glob.glob(f"{path}/*.wants/vtpm@{name}.service"))


def is_enabled(instance: str) -> Optional[str]:
    """The link by which it is started at a boot; None: there is none."""
    return next(iter(wanted_links(glob.escape(instance))), None)


def _listed(names: "list[str]") -> str:
    shown = ", ".join(names[:_NAMED_MAX])
    return f"{shown} and {len(names) - _NAMED_MAX} more" if len(names) > _NAMED_MAX else shown
