"""`vtpmctl doctor`: is the host as the service needs it? One finding for each question, with a remedy where it is not.

What is asked: accounts, /dev/cuse, each instance's node and process, the CA, and where SELinux is in use its mode, our
policy module, the labels of what is installed, and denials since the boot. A question that cannot be answered, most
often for want of root, is a warning, not a failure.
"""

import bz2
import glob
import grp
import os
import pwd
import re
import stat
import subprocess
from typing import NamedTuple, Optional

import swtpm_svc
from swtpm_svc.cli.vtpmctl import status
from swtpm_svc.cli.vtpmctl.host import Places
from swtpm_svc.cli.vtpmctl.status import Status
from swtpm_svc.config import loading
from swtpm_svc.errors import Code, VtpmError, quote
from swtpm_svc.frontends.fuse import mounts
from swtpm_svc.service.identity import clones
from swtpm_svc.state import state_directory

#: The version in packaging/swtpm.te.
POLICY_VERSION = "1.0.0"
DOMAIN = "vtpm_t"

SELINUX_FS = "/sys/fs/selinux"
#: Where semodule keeps the modules of a policy; the last three parts are the priority, the module and its compiled
#: form.
MODULE_STORE = "/var/lib/selinux/*/active/modules/*/vtpm/hll"
CUSE = "/dev/cuse"
PROC = "/proc"
COMMAND_TIME_S = 60
MODULES = os.path.dirname(swtpm_svc.__file__)

#: What the policy has a label for, beside the nodes of the instances.
LABELLED = (
    "/usr/libexec/vtpm/*",
    "/usr/bin/vtpmd",
    "/usr/lib/systemd/system/vtpm@*",
    MODULES,
    f"{MODULES}/**/*.py",
    f"{MODULES}/**/*.so",
    "/etc/vtpm.d",
    "/etc/vtpm.d/*.toml",
    "/etc/vtpm.d/ima",
    "/etc/vtpm.d/ima/*",
    "/var/lib/vtpm",
    "/var/lib/vtpm/*",
    "/var/lib/vtpm/*/*",
    "/var/lib/vtpm-identity",
    "/var/lib/vtpm-identity/*",
    "/var/lib/vtpm-identity/*/*",
    "/var/lib/vtpm-ca",
    "/var/lib/vtpm-ca/*",
    "/var/lib/vtpm-ca/*/*",
    "/run/vtpm",
    "/run/vtpm/*",
    "/run/vtpm/*/*.sock",
    "/run/vtpm/*/status",
    "/run/vtpmkeys",
    "/run/vtpmkeys/*",
    "/dev/cuse",
    "/dev/vtpmx",
    "/dev/vtpm[0-9]*",
)

OK, WARN, FAIL = "ok", "warn", "fail"

#: Not at once: whoever switched it off may have had reasons, and what is denied to a login is in nobody's power any
#: more.
_ENFORCE = "see what all of the host would be denied: ausearch -m avc -ts boot; when that is nothing: setenforce 1"


class Finding(NamedTuple):
    """The answer to one question; `problem` is what to tell about a `warn` or a `fail`."""

    verdict: str
    check: str
    text: str
    problem: Optional[VtpmError] = None


def good(check: str, text: str) -> Finding:
    return Finding(OK, check, text)


def bad(check: str, text: str, remedy: str, *, code: Code = Code.INSTALLATION, verdict: str = FAIL) -> Finding:
    return Finding(verdict, check, text, VtpmError(code, f"{check}: {text}", remedy=remedy))


def examine(instance: Optional[str], places: Places) -> "list[Finding]":
    """All findings about the host and one instance, or all instances that are configured.

    Raises:
        VtpmError USAGE: that is not a name for an instance.
    """
    findings, found = [_accounts(), _cuse()], []
    try:
        # no configurations, or not the one that was asked for: that is found of the host, which is examined all the
        # same
        for name in [instance] if instance is not None else loading.instances(places.config):
            found.append(status.gather(name, places))
            findings += _instance(found[-1])
    except VtpmError as error:
        if error.code is Code.USAGE:
            raise
        findings.append(Finding(FAIL, instance or "instances", error.message, error))
    return findings + _clones() + _authorities(found) + _selinux(found)


# --- the host
# ----------------------------------------------------------------------------------------------------------


def _accounts() -> Finding:
    try:
        pwd.getpwnam("vtpm")
        members = {name: grp.getgrnam(name).gr_mem for name in ("vtpm", "vtpm-admin")}
    except KeyError as error:
        return bad("accounts", str(error.args[0]), "systemd-sysusers vtpm.conf", code=Code.USER_MISSING)
    if "vtpm" not in members["vtpm-admin"]:
        text = "user vtpm is not in group vtpm-admin, so it cannot give that group the control socket"
        return bad("accounts", text, "usermod --append --groups vtpm-admin vtpm", verdict=WARN)
    return good("accounts", "user vtpm, groups vtpm and vtpm-admin")


def _cuse() -> Finding:
    try:
        found = os.stat(CUSE)
    except OSError as error:
        text = f"{CUSE}: {error.strerror}"
        return bad("cuse", text, "modprobe cuse; only instances without a device do without it", code=Code.CUSE_MISSING)
    mode = stat.S_IMODE(found.st_mode)
    if (found.st_uid, mode) != (0, 0o600):
        text = f"{CUSE} is {status.user_name(found.st_uid)}'s, {mode:04o}: who can open it can make any device"
        remedy = f"chown -h root {CUSE}; chmod 0600 {CUSE}; and remove the udev rule that changed it"
        return bad("cuse", text, remedy, code=Code.CUSE_DENIED)
    return good("cuse", f"{CUSE} is root's, 0600")


def _instance(found: Status) -> "list[Finding]":
    name = found.instance
    state = (found.unit.properties or {}).get("ActiveState")
    if found.daemon is None and state != "failed":
        problems = [one for one in found.problems if one.code is not Code.DAEMON_UNREACHABLE]
        findings = [good(name, "is not started")] if not problems else []
    else:
        problems = found.problems
        findings = [good(name, _served(found))] if not problems else []
    # systemd fails such a unit before its daemon can say why (238/STATE_DIRECTORY)
    directory = found.config.state.directory if found.config is not None and not found.config.state.is_file else None
    misplaced = (
        state_directory.wrong_place(directory) if directory is not None and not mounts.has_on_it(directory) else None
    )
    problems = [*problems, misplaced] if misplaced is not None else problems
    return findings + [Finding(FAIL, name, one.message, one.of(name)) for one in problems]


def _served(found: Status) -> str:
    node = found.node
    if node is None:
        return "is served, without a device"
    return f"is served: {node.path} {status.describe_access(node.owner, node.group, node.mode)}, as configured"


def _clones() -> "list[Finding]":
    """Instances that are served with one TPM: the state of all but one is a copy."""
    return [
        bad(
            "copies",
            f"{', '.join(names)} have the same TPM: one state is a copy of the other",
            f"vtpmctl identity {names[0]} shows its keys; stop the copy, move its state away, and make it a TPM of its "
            "own",
            code=Code.ALREADY_PROVISIONED,
        )
        for names in clones.shared()
    ]


def _authorities(found: "list[Status]") -> "list[Finding]":
    """Of the CAs that there are: would anybody accept what they sign?"""
    places = {one.config.provision.ca for one in found if one.config is not None and one.config.provision.certificates}
    return [_authority(place) for place in sorted(places) if os.path.lexists(place)]


def _authority(place: str) -> Finding:
    try:
        from swtpm_svc.provision import ca

        complaint = ca.load(place).complaint()
    except ImportError as error:
        return bad("CA", f"{place} cannot be looked at ({error})", "install python3-cryptography", verdict=WARN)
    except VtpmError as error:
        if error.code is Code.STATE_MISSING:
            return good("CA", f"there is none in {place} yet")
        verdict = WARN if error.code is Code.STATE_UNREADABLE else FAIL
        return Finding(verdict, "CA", error.message, error)
    if complaint is not None:
        return Finding(FAIL, "CA", complaint.message, complaint)
    return good("CA", f"{place} can sign, and its certificates are valid")


# --- SELinux
# -----------------------------------------------------------------------------------------------------------


def _selinux(found: "list[Status]") -> "list[Finding]":
    try:
        with open(f"{SELINUX_FS}/enforce", encoding="ascii") as file:
            enforcing = file.read().strip() == "1"
    except OSError:
        return [good("SELinux", "is not in use")]
    if enforcing:
        findings = [good("SELinux", "is enforcing")]
    else:
        findings = [bad("SELinux", "is permissive: what would be denied is only logged", _ENFORCE, verdict=WARN)]
    if not _is_type(DOMAIN):
        remedy = "install python3-swtpm-selinux, or build the module with make selinux and: semodule -i vtpm.pp"
        findings.append(
            bad("policy", "the module vtpm is not loaded: the daemons run in a domain of the system", remedy)
        )
    else:
        findings.append(_version())
        findings += [_domain(one) for one in found if one.daemon is not None]
        findings += _labels(found)
    findings.append(_denials())
    return findings


def _is_type(name: str) -> bool:
    """The kernel takes a context with it for valid."""
    try:
        with open(f"{SELINUX_FS}/context", "r+b", buffering=0) as file:
            file.write(f"system_u:system_r:{name}:s0".encode())
        return True
    except OSError:
        return False


def _version() -> Finding:
    stored = sorted(glob.glob(MODULE_STORE), key=lambda path: int(path.split("/")[-3]))  # the highest priority counts
    try:
        with open(stored[-1], "rb") as file:
            data = file.read()
    except (OSError, IndexError):
        remedy = "run this as root" if os.geteuid() else "semodule --list=full says which modules the policy has"
        return bad("policy", "the module vtpm is loaded, its version is not known", remedy, verdict=WARN)
    version = module_version(data)
    if version != POLICY_VERSION:
        text = f"the module vtpm is of version {version}, this program of {POLICY_VERSION}"
        return bad("policy", text, "install the python3-swtpm-selinux of the same release", verdict=WARN)
    return good("policy", f"the module vtpm {version} is loaded")


def module_version(data: bytes) -> Optional[str]:
    """From a policy package, as it is or bzip2: the name and the version follow each other, each after its length."""
    try:
        data = bz2.decompress(data) if data.startswith(b"BZh") else data
    except (OSError, ValueError):
        return None
    match = re.search(rb"\x04\0\0\0vtpm[\x01-\x20]\0\0\0([0-9][0-9.]*)", data)
    return match[1].decode() if match else None


def _domain(found: Status) -> Finding:
    pid = (found.unit.properties or {}).get("MainPID") or str((found.daemon or {}).get("pid"))
    try:
        with open(f"{PROC}/{pid}/attr/current", encoding="utf-8") as file:
            context = file.read().rstrip("\0\n")
    except OSError as error:
        text = f"the domain of process {pid} cannot be read ({error.strerror})"
        remedy = (
            "run this as root" if os.geteuid() else f"see whether it runs still: systemctl status vtpm@{found.instance}"
        )
        return bad(found.instance, text, remedy, verdict=WARN)
    if _type(context) != DOMAIN:
        remedy = f"restorecon -R -v /usr/libexec/vtpm; systemctl restart vtpm@{found.instance}"
        return bad(found.instance, f"process {pid} runs as {_type(context)}, not as {DOMAIN}", remedy)
    return good(found.instance, f"process {pid} runs as {DOMAIN}")


def _labels(found: "list[Status]") -> "list[Finding]":
    paths = {path for pattern in LABELLED for path in glob.glob(pattern, recursive=True)}
    paths |= {one.node.path for one in found if one.node is not None and one.node.exists}
    ordered = sorted(paths)
    try:
        # -n: no paths in the output, so a path of any shape is one line of it
        wanted = _run("matchpathcon", "-n", *ordered).stdout.splitlines()
    except FileNotFoundError:
        remedy = "install matchpathcon (libselinux-utils, selinux-utils)"
        return [bad("labels", "cannot be compared with the policy", remedy, verdict=WARN)]
    findings = []
    for path, context in zip(ordered, wanted):
        label = _label(path)
        if label and context != "<<none>>" and _type(label) != _type(context):
            text = f"{path} is {_type(label)}, the policy says {_type(context)}"
            findings.append(bad("labels", text, f"restorecon -v {quote(path)}"))
    return findings or [good("labels", f"{len(ordered)} files and devices are labelled as the policy says")]


def _label(path: str) -> str:
    try:
        return os.getxattr(path, "security.selinux", follow_symlinks=False).rstrip(b"\0").decode("utf-8", "replace")
    except OSError:
        return ""  # gone meanwhile, or not to be looked at


def _type(context: str) -> str:
    parts = context.split(":")
    return parts[2] if len(parts) > 2 else context


def _denials() -> Finding:
    if os.geteuid() != 0:
        return bad("denials", "cannot be looked at", "run this as root", verdict=WARN)
    try:
        records = _run("ausearch", "--input-logs", "--raw", "-m", "AVC,USER_AVC,SELINUX_ERR", "-ts", "boot").stdout
    except FileNotFoundError:
        try:
            records = _run("journalctl", "--boot", "--output=cat", "_TRANSPORT=audit").stdout
        except FileNotFoundError:
            return bad("denials", "there is neither ausearch nor journalctl", "install audit", verdict=WARN)
    ours = re.compile(r":vtpm(_\w+)?_t:")
    denied = [line for line in records.splitlines() if re.search(r"denied|SELINUX_ERR", line) and ours.search(line)]
    if not denied:
        return good("denials", "none since the boot")
    remedy = "ausearch -m avc -ts boot | audit2allow -w explains them; please report those that a correct setup causes"
    return bad(
        "denials",
        f"{len(denied)} since the boot, the last one: {describe_denial(denied[-1])}",
        remedy,
        code=Code.NOT_PERMITTED,
    )


def describe_denial(record: str) -> str:
    """`vtpm_t was denied { read } on shadow_t (file)`; of another form, the record as it is."""
    match = re.search(r"denied\s+\{ ([^}]*) \}.*scontext=(\S+) tcontext=(\S+) tclass=(\S+)", record)
    if not match:
        return record
    permissions, source, target, kind = match.groups()
    return f"{_type(source)} was denied {permissions} on {_type(target)} ({kind})"


def _run(*words: str) -> "subprocess.CompletedProcess[str]":
    """
    Raises:
        FileNotFoundError: there is no such program.
    """
    try:
        return subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=COMMAND_TIME_S,
            check=False,
            encoding="utf-8",
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(words, 1, "", "")
