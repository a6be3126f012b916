"""Where SELinux is in use: its mode, our policy module, the domains of what runs, the labels of what is installed."""

import bz2
import glob
import os
import re
from typing import Optional

import swtpm_svc
from swtpm_svc.cli.vtpmctl.doctor import denials
from swtpm_svc.cli.vtpmctl.doctor.denials import type_of
from swtpm_svc.cli.vtpmctl.doctor.findings import WARN, Finding, bad, good, run
from swtpm_svc.cli.vtpmctl.status import Status
from swtpm_svc.errors import quote

#: The version in packaging/swtpm.te.
POLICY_VERSION = "1.0.0"
DOMAIN = "vtpm_t"

SELINUX_FS = "/sys/fs/selinux"
#: Where semodule keeps the modules of a policy; the last three parts are the priority, the module and its compiled
#: form.
MODULE_STORE = "/var/lib/selinux/*/active/modules/*/vtpm/hll"
PROC = "/proc"
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

#: Not at once: whoever switched it off may have had reasons, and what is denied to a login is in nobody's power any
#: more.
_ENFORCE = "see what all of the host would be denied: ausearch -m avc -ts boot; when that is nothing: setenforce 1"


def examine(found: "list[Status]") -> "list[Finding]":
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
        findings += [_domain(one) for one in found if _pid_of(one)]
        findings += _labels(found)
    findings += denials.examine(found)
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


def _pid_of(found: Status) -> str:
    """Of the daemon; empty: there is none."""
    pid = (found.unit.properties or {}).get("MainPID", "0")
    return pid if pid != "0" else str((found.daemon or {}).get("pid") or "")


def _domain(found: Status) -> Finding:
    pid = _pid_of(found)
    try:
        with open(f"{PROC}/{pid}/attr/current", encoding="utf-8") as file:
            context = file.read().rstrip("\0\n")
    except OSError as error:
        text = f"the domain of process {pid} cannot be read ({error.strerror})"
        remedy = (
            "run this as root" if os.geteuid() else f"see whether it runs still: systemctl status vtpm@{found.instance}"
        )
        return bad(found.instance, text, remedy, verdict=WARN)
    if type_of(context) != DOMAIN:
        remedy = f"restorecon -R -v /usr/libexec/vtpm; systemctl restart vtpm@{found.instance}"
        return bad(found.instance, f"process {pid} runs as {type_of(context)}, not as {DOMAIN}", remedy)
    return good(found.instance, f"process {pid} runs as {DOMAIN}")


def _labels(found: "list[Status]") -> "list[Finding]":
    paths = {path for pattern in LABELLED for path in glob.glob(pattern, recursive=True)}
    paths |= {one.node.path for one in found if one.node is not None and one.node.exists}
    ordered = sorted(paths)
    try:
        # -n: no paths in the output, so a path of any shape is one line of it
        wanted = run("matchpathcon", "-n", *ordered).stdout.splitlines()
    except FileNotFoundError:
        remedy = "install matchpathcon (libselinux-utils, selinux-utils)"
        return [bad("labels", "cannot be compared with the policy", remedy, verdict=WARN)]
    findings = []
    for path, context in zip(ordered, wanted):
        label = _label(path)
        if label and context != "<<none>>" and type_of(label) != type_of(context):
            text = f"{path} is {type_of(label)}, the policy says {type_of(context)}"
            findings.append(bad("labels", text, f"restorecon -v {quote(path)}"))
    return findings or [good("labels", f"{len(ordered)} files and devices are labelled as the policy says")]


def _label(path: str) -> str:
    try:
        return os.getxattr(path, "security.selinux", follow_symlinks=False).rstrip(b"\0").decode("utf-8", "replace")
    except OSError:
        return ""  # gone meanwhile, or not to be looked at
