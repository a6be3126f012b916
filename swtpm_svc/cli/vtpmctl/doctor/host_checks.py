"""The host as the service needs it: accounts, the kernel's CUSE, systemd, udev, libtpms, Python's modules, the clock."""

import grp
import importlib
import os
import pwd
import stat
import sys
import time

import swtpm_svc
from swtpm_svc.cli.vtpmctl import status
from swtpm_svc.cli.vtpmctl.doctor.findings import FAIL, WARN, Finding, bad, good, run, warn
from swtpm_svc.cli.vtpmctl.status import Status
from swtpm_svc.errors import Code

CUSE = "/dev/cuse"
#: There while the kernel has the driver, loaded or built in.
CUSE_DRIVER = "/sys/class/misc/cuse"
KERNEL_MODULES = "/lib/modules"
SYSTEMD, UDEV = "/run/systemd/system", "/run/udev"
UNIT_PATHS = ("/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
#: In the order in which udev looks: of several files of one name the first counts.
RULE_PATHS = ("/etc/udev/rules.d", "/run/udev/rules.d", "/usr/local/lib/udev/rules.d", "/usr/lib/udev/rules.d")
RULES = "70-vtpm.rules"
#: systemd opens /dev/cuse from this version on (OpenFile=); what is older than the second is not tried.
OPENS_FILES, OLDEST = 253, 252
_DAY_S = 86400.0


def examine(found: "list[Status]") -> "list[Finding]":
    return [
        accounts(),
        cuse(has_devices=not found or any(one.node is not None for one in found)),
        *systemd(),
        *udev(),
        libtpms(),
        *python_modules(found),
        clock(),
    ]


def accounts() -> Finding:
    try:
        pwd.getpwnam("vtpm")
        members = {name: grp.getgrnam(name).gr_mem for name in ("vtpm", "vtpm-admin")}
    except KeyError as error:
        return bad("accounts", str(error.args[0]), "systemd-sysusers vtpm.conf", code=Code.USER_MISSING)
    if "vtpm" not in members["vtpm-admin"]:
        text = "user vtpm is not in group vtpm-admin, so it cannot give that group the control socket"
        return warn("accounts", text, "usermod --append --groups vtpm-admin vtpm")
    return good("accounts", "user vtpm, groups vtpm and vtpm-admin")


def cuse(*, has_devices: bool = True) -> Finding:
    """The node, and what is behind it: a node that systemd made in advance is there without any driver."""
    is_loaded = os.path.exists(CUSE_DRIVER)
    verdict = FAIL if has_devices else WARN
    if not is_loaded and not _has_module():
        text = f"the kernel {os.uname().release} has no CUSE: no device of a TPM can be made"
        remedy = (
            "install the package that has its module (kernel-modules-extra, linux-image), or use sockets: [device] "
        )
        return bad("cuse", text, f"{remedy}enabled = false", code=Code.CUSE_MISSING, verdict=verdict)
    try:
        found = os.stat(CUSE)
    except OSError as error:
        text = f"{CUSE}: {error.strerror}" + ("" if is_loaded else ": the module is not loaded")
        remedy = "modprobe cuse; only instances without a device do without it"
        if is_loaded:
            remedy = "the module is loaded, and something has removed its node: rmmod cuse; modprobe cuse"
        return bad("cuse", text, remedy, code=Code.CUSE_MISSING, verdict=verdict)
    mode = stat.S_IMODE(found.st_mode)
    if (found.st_uid, mode) != (0, 0o600):
        text = f"{CUSE} is {status.user_name(found.st_uid)}'s, {mode:04o}: who can open it can make any device"
        remedy = f"chown -h root {CUSE}; chmod 0600 {CUSE}; and remove the udev rule that changed it"
        return bad("cuse", text, remedy, code=Code.CUSE_DENIED)
    return good(
        "cuse", f"{CUSE} is root's, 0600" + ("" if is_loaded else ", and its module is loaded when it is opened")
    )


def _has_module() -> bool:
    directory = f"{KERNEL_MODULES}/{os.uname().release}"
    for name in ("modules.dep", "modules.builtin"):
        try:
            with open(f"{directory}/{name}", encoding="utf-8", errors="replace") as file:
                if "/cuse.ko" in file.read():
                    return True
        except OSError:
            continue
    return not os.path.isdir(directory)  # a container, or a kernel that keeps its modules elsewhere: not known


def systemd() -> "list[Finding]":
    if not os.path.isdir(SYSTEMD):
        text = "does not run here: instances are started by vtpmd --foreground, or not at all"
        return [good("systemd", text)]
    try:
        words = run("systemctl", "--version").stdout.split()
    except FileNotFoundError:
        words = []
    number = words[1] if len(words) > 1 else "?"
    if not number.isdigit():
        return [warn("systemd", f"its version is not known ({number})", "systemctl --version")]
    version = int(number)
    if version < OLDEST:
        text = f"is of version {version}; what the service needs is there from {OLDEST} on"
        return [warn("systemd", text, "use a newer release of the distribution")]
    has_drop_in = any(os.path.exists(f"{path}/vtpm@.service.d/openfile.conf") for path in UNIT_PATHS)
    if version >= OPENS_FILES and not has_drop_in:
        text = f"is of version {version} and could open {CUSE} itself; openfile.conf is not installed, so daemons start as root"
        return [warn("systemd", text, "reinstall the package python3-swtpm, which has it")]
    if version < OPENS_FILES and has_drop_in:
        text = f"is of version {version}, and openfile.conf, which is for {OPENS_FILES} and later, is installed"
        return [
            bad("systemd", text, "rm /usr/lib/systemd/system/vtpm@.service.d/openfile.conf; systemctl daemon-reload")
        ]
    means = f"opens {CUSE}" if has_drop_in else f"starts daemons as root, which open {CUSE} and leave root"
    return [good("systemd", f"version {version}, which {means}")]


def udev() -> "list[Finding]":
    """Is the rule installed, and is it the package's?"""
    if not os.path.isdir(SYSTEMD) and not os.path.isdir(UDEV):
        return []
    there = [f"{path}/{RULES}" for path in RULE_PATHS if os.path.lexists(f"{path}/{RULES}")]
    if not there:
        remedy = "reinstall the package python3-swtpm, then: udevadm control --reload"
        return [bad("udev", f"there is no {RULES}: devices stay root's, 0600", remedy)]
    if there[0].startswith(("/etc/", "/run/")) and not there[0].startswith(RULE_PATHS[-1]):
        text = f"{there[0]} counts, not the package's: owner and mode of devices are what it says"
        remedy = f"compare it with {RULE_PATHS[-1]}/{RULES}; rm {there[0]}; udevadm control --reload"
        return [warn("udev", text, remedy)]
    return [good("udev", f"{there[0]} is installed")]


def libtpms() -> Finding:
    try:
        from swtpm_svc.tpm import libtpms as binding

        missing = [version for version in ("1.2", "2.0") if not binding.supports(version)]
        version = binding.version()
    except ImportError as error:
        return bad("libtpms", f"cannot be loaded: {error}", "install libtpms (libtpms0) and python3-cffi, or reinstall")
    if missing:
        text = f"version {version} has no TPM {', '.join(missing)}"
        return warn("libtpms", text, "install the distribution's libtpms, which has both")
    return good("libtpms", f"version {version}, TPM 1.2 and 2.0")


def python_modules(found: "list[Status]") -> "list[Finding]":
    """Of others, and what for: those that nothing configured needs are not asked for."""
    configs = [one.config for one in found if one.config is not None]
    wanted = {"systemd.daemon": ("python3-systemd", "the service")}
    if sys.version_info < (3, 11):
        wanted["tomli"] = ("python3-tomli", "configurations")
    if any(one.fuse.enabled for one in configs):
        wanted["pyfuse3"] = ("python3-pyfuse3", "[fuse]")
    if any(one.state.key is not None or (one.provision.enabled and one.provision.certificates) for one in configs):
        wanted["cryptography"] = ("python3-cryptography", "keys, certificates and encrypted state")
    missing = []
    for name, (package, purpose) in wanted.items():
        try:
            importlib.import_module(name)
        except ImportError as error:
            text = f"{name} cannot be imported ({error}): {purpose} need it"
            missing.append(bad("Python", text, f"install {package}, for {sys.executable}"))
    version = ".".join(map(str, sys.version_info[:3]))
    return missing or [good("Python", f"version {version}, with {', '.join(wanted)}")]


def clock() -> Finding:
    now = time.time()
    built = os.stat(swtpm_svc.__file__).st_mtime
    if now < built - _DAY_S:
        shown = time.strftime("%Y-%m-%d", time.localtime(now))
        text = f"it says {shown}, before this program was installed: certificates that are made now are of the past"
        return bad("clock", text, "set it: timedatectl set-time; or see why it is not: timedatectl")
    return good("clock", time.strftime("it says %Y-%m-%d %H:%M", time.localtime(now)))
