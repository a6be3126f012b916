"""What a test needs from the machine, said once; and CI's rule that nothing is skipped which could have been had.

`@pytest.mark.needs("cuse", "root")` skips a test, with a reason that names the remedy, where one of these is missing.
With CI=true in the environment every skip is a failure, unless its reason starts with "unobtainable: ".
"""

import ctypes.util
import grp
import importlib.util
import os
import pwd
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Generator
from typing import Callable, NamedTuple, Optional

import pytest

#: A skip for such a reason stays a skip in CI too, as in "unobtainable: libtpms 0.10".
UNOBTAINABLE = "unobtainable: "

ABOUT_TEMPORARY_FILES = pytest.StashKey[str]()

LABS = "run it in a lab: make lab-uml, make lab-vm"

#: What no User-Mode Linux has. Tests that need one of these have the marker `only_qemu`; LAB_MACHINE=uml leaves them
#: out.
ONLY_QEMU = frozenset(("vtpm-proxy", "ima", "distribution's kernel"))


class Capability(NamedTuple):
    """Something that a machine has or lacks: `present` looks, `missing` is the skip's reason."""

    present: Callable[[], bool]
    missing: str


def command(name: str, package: str) -> Capability:
    return Capability(lambda: shutil.which(name) is not None, f"no {name}: apt-get install {package}")


def is_ours(path: str) -> bool:
    """Whether this program is a launcher of ours: of the same name as swtpm's, as python3-swtpm-compat brings them."""
    try:
        with open(path, "rb") as file:
            return b"swtpm_svc" in file.read(4096)
    except OSError:
        return False


def swtpms(name: str, package: str) -> Capability:
    """swtpm's own program of this name, which is what `name` in PATH leads to (see `put_ours_last`)."""
    program = command(name, package)
    return program._replace(present=lambda: program.present() and not is_ours(str(shutil.which(name))))


def systemd_version() -> int:
    said = subprocess.run(["systemctl", "--version"], capture_output=True, text=True, check=False).stdout
    return int(said.split()[1])


def is_char_device(path: str) -> bool:
    try:
        return stat.S_ISCHR(os.stat(path).st_mode)
    except OSError:
        return False


def has_module(name: str) -> bool:
    return subprocess.run(["modprobe", "--dry-run", "--quiet", name], check=False).returncode == 0


def is_user_mode_linux() -> bool:
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        return "User Mode Linux" in file.read()


def has_account(name: str) -> bool:
    try:
        return pwd.getpwnam(name).pw_gid == grp.getgrnam(name).gr_gid
    except KeyError:
        return False


def has_libtpms_binding() -> bool:
    # not find_spec("swtpm_svc.tpm._libtpms"): that imports the package swtpm_svc.tpm, which may be what is broken
    package = importlib.util.find_spec("swtpm_svc")
    folders = list(package.submodule_search_locations or []) if package else []
    return any(
        name.startswith("_libtpms.") and name.endswith(".so")
        for folder in folders
        for name in os.listdir(f"{folder}/tpm")
    )


def is_swtpm_0_7() -> bool:
    if not CAPABILITIES["swtpm"].present():
        return False
    told = subprocess.run(["swtpm", "--version"], capture_output=True, text=True, check=False).stdout
    return told.startswith("TPM emulator version 0.7.")


def has_profiles() -> bool:
    if not has_libtpms_binding():
        return False
    from swtpm_svc.tpm import libtpms

    return libtpms.has_profiles()


CAPABILITIES = {
    "root": Capability(lambda: os.geteuid() == 0, f"needs root: {LABS}"),
    "cuse": Capability(lambda: is_char_device("/dev/cuse"), f"no /dev/cuse: modprobe cuse, or {LABS}"),
    "fuse": Capability(lambda: is_char_device("/dev/fuse"), f"no /dev/fuse: modprobe fuse, or {LABS}"),
    "pyfuse3": Capability(
        lambda: importlib.util.find_spec("pyfuse3") is not None, "no pyfuse3: pip install -e .[test]"
    ),
    "fusermount3": command("fusermount3", "fuse3"),
    "loop": Capability(
        lambda: os.geteuid() == 0 and os.path.exists("/dev/loop-control") and shutil.which("losetup") is not None,
        f"no loop devices, which take root: {LABS}",
    ),
    "vtpm-proxy": Capability(
        lambda: has_module("tpm_vtpm_proxy"), "no tpm_vtpm_proxy in this kernel: make lab-vm LAB_MACHINE=qemu"
    ),
    "ima": Capability(
        lambda: os.path.isdir("/sys/kernel/security/ima"), "no IMA in this kernel: make lab-rpm LAB_MACHINE=qemu"
    ),
    "distribution's kernel": Capability(
        lambda: not is_user_mode_linux(), "User-Mode Linux: make lab-vm LAB_MACHINE=qemu"
    ),
    "udev": Capability(lambda: os.path.exists("/run/udev/control"), f"no systemd-udevd runs: {LABS}"),
    "systemd": Capability(lambda: os.path.isdir("/run/systemd/system"), "systemd is not process 1: make lab-vm"),
    "systemd 253": Capability(
        lambda: systemd_version() >= 253,
        UNOBTAINABLE + "systemd 253: 252 stops answering after units that tests have made are removed",
    ),
    "accounts": Capability(
        lambda: all(has_account(name) for name in ("vtpm", "lab-member", "lab-operator", "lab-outsider")),
        f"no users vtpm, lab-member, lab-operator, lab-outsider: {LABS}",
    ),
    "libtpms": Capability(
        lambda: ctypes.util.find_library("tpms") is not None, "no libtpms: apt-get install libtpms-dev"
    ),
    "binding": Capability(has_libtpms_binding, "the libtpms binding is not built: make"),
    "profiles": Capability(
        has_profiles, f"{UNOBTAINABLE}a libtpms with profiles, 0.10 or later, such as SUITE=sid has"
    ),
    "user-mode-linux": Capability(
        lambda: all(map(shutil.which, ("linux.uml", "mmdebstrap", "patchelf"))),
        "no User-Mode Linux lab: apt-get install user-mode-linux mmdebstrap patchelf",
    ),
    "qemu": command("qemu-system-x86_64", "qemu-system-x86 seabios"),
    "qemu-img": command("qemu-img", "qemu-utils"),
    "ovmf": Capability(
        lambda: os.path.exists("/usr/share/OVMF/OVMF_CODE_4M.fd"), "no UEFI for QEMU: apt-get install ovmf"
    ),
    "busybox": command("busybox", "busybox-static"),
    "libvirt": Capability(
        lambda: bool(shutil.which("libvirtd") and shutil.which("virsh")),
        "no libvirt: apt-get install libvirt-daemon-system libvirt-daemon-driver-qemu libvirt-clients",
    ),
    "swtpm": swtpms("swtpm", "swtpm"),
    "swtpm 0.7": Capability(
        is_swtpm_0_7, f"{UNOBTAINABLE}swtpm 0.7, which answers are compared with; newer ones differ"
    ),
    "evmctl": command("evmctl", "ima-evm-utils"),
    "zsh": command("zsh", "zsh"),
    "fish": command("fish", "fish"),
    "git": command("git", "git"),
    "faketime": command("faketime", "faketime"),
    "swtpm_ioctl": swtpms("swtpm_ioctl", "swtpm-tools"),
    "tpm2-tools": command("tpm2_getrandom", "tpm2-tools"),
    "tpm2-pytss": Capability(
        lambda: os.path.isdir("/usr/lib/python3/dist-packages/tpm2_pytss"),
        "no tpm2_pytss for /usr/bin/python3: apt-get install python3-tpm2-pytss",
    ),
    "tpm-tools": command("tpm_version", "tpm-tools"),
    "tcsd": command("tcsd", "trousers"),
    "strace": command("strace", "strace"),
    "setpriv": command("setpriv", "util-linux"),
    "openssl": command("openssl", "openssl"),
    "certtool": command("certtool", "gnutls-bin"),
    "swtpm_cert": swtpms("swtpm_cert", "swtpm-tools"),
    "swtpm_setup": swtpms("swtpm_setup", "swtpm-tools"),
    "softhsm2": command("softhsm2-util", "softhsm2"),
    "pkcs11-tool": command("pkcs11-tool", "opensc"),
    "systemd-analyze": command("systemd-analyze", "systemd"),
    "udevadm": command("udevadm", "udev"),
}


if importlib.util.find_spec("hypothesis"):
    from hypothesis import settings

    # how long an example may take says something about the load of the machine only
    settings.register_profile("any-machine", deadline=None)
    settings.load_profile("any-machine")


def in_ci() -> bool:
    return os.environ.get("CI", "").lower() in ("1", "true", "yes")


def refusal(reason: str) -> Optional[str]:
    """Why this skip is a failure here, or None."""
    if not in_ci() or reason.startswith(UNOBTAINABLE):
        return None
    return (
        f"skipped, but CI skips nothing that can be had (a reason that starts with {UNOBTAINABLE!r} may stay): {reason}"
    )


def skip_reason(longrepr: object) -> str:
    # pytest gives (file, line, "Skipped: REASON") for a skip
    text = str(longrepr[2] if isinstance(longrepr, tuple) else longrepr)
    return text[len("Skipped: ") :] if text.startswith("Skipped: ") else text


#: Longer, and the path of a socket in a test's folder below it has more than 107 bytes (unix(7)).
TMPDIR_MAX = 20


def misfit(path: str) -> Optional[str]:
    """What keeps the tests from working in this folder, or None."""
    if len(path) > TMPDIR_MAX:
        return "its path is too long for a socket's"
    if not re.fullmatch(r"[A-Za-z0-9/._-]+", path):
        return "programs that the tests ask (udevadm, systemd-analyze, evmctl) do not take such a path"
    try:
        folders = ["/".join(path.split("/")[:depth]) or "/" for depth in range(1, path.rstrip("/").count("/") + 2)]
        if not all(os.stat(folder).st_mode & stat.S_IXOTH for folder in folders):
            return "only its owner can enter it, and some tests are other users too"
    except OSError as error:
        return str(error.strerror)
    return None


def choose_temporary_folder() -> str:
    """Have the tests' files where TMPDIR says, or else where they can be. What is said about it."""
    wanted = tempfile.gettempdir()
    why = misfit(wanted)
    if why is None:
        return ""
    tempfile.tempdir = next(folder for folder in ("/tmp", "/var/tmp") if misfit(folder) is None)
    os.environ["TMPDIR"] = tempfile.tempdir
    return f"temporary files: in {tempfile.tempdir}, not in {wanted}: {why}"


def put_ours_last() -> None:
    """Have `swtpm` in PATH be swtpm's, where there is one: a package's %check has the folder of what it has built before
    all others, and a peer that is ourselves proves nothing."""
    folders = os.get_exec_path()
    ours = [folder for folder in folders if is_ours(f"{folder}/swtpm")]
    os.environ["PATH"] = os.pathsep.join([folder for folder in folders if folder not in ours] + ours)


def pytest_report_header(config: pytest.Config) -> "list[str]":
    return [config.stash[ABOUT_TEMPORARY_FILES]] if config.stash[ABOUT_TEMPORARY_FILES] else []


def pytest_configure(config: pytest.Config) -> None:
    os.umask(0o022)  # what another one does to the product is asked by tests that set it
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        del os.environ[name]  # of a hook or a rebase that runs the tests: theirs would be the developer's repository
    put_ours_last()
    config.stash[ABOUT_TEMPORARY_FILES] = choose_temporary_folder()
    config.addinivalue_line(
        "markers", f"needs(*capabilities): what the machine must have, of {', '.join(CAPABILITIES)}"
    )
    config.addinivalue_line(
        "markers", "beside_swtpm: compares our commands with swtpm's own, whose words another release may have changed"
    )
    config.addinivalue_line("markers", f"only_qemu: needs one of {', '.join(sorted(ONLY_QEMU))}")


def pytest_collection_modifyitems(config: pytest.Config, items: "list[pytest.Item]") -> None:
    there, elsewhere = [], []
    for item in items:
        if any(ONLY_QEMU.intersection(mark.args) for mark in item.iter_markers("needs")):
            item.add_marker("only_qemu")
            (elsewhere if os.environ.get("LAB_MACHINE") == "uml" else there).append(item)
        else:
            there.append(item)
    if elsewhere:
        config.hook.pytest_deselected(items=elsewhere)
        items[:] = there


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        for name in mark.args:
            assert name in CAPABILITIES, f"{name} is not a capability; there are: {', '.join(CAPABILITIES)}"
            capability = CAPABILITIES[name]
            if not capability.present():
                pytest.skip(capability.missing)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, None, None]:
    outcome = yield
    fail_a_skip(outcome.get_result())  # type: ignore[attr-defined]


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report() -> Generator[None, None, None]:
    outcome = yield
    fail_a_skip(outcome.get_result())  # type: ignore[attr-defined]


def fail_a_skip(report: "pytest.TestReport | pytest.CollectReport") -> None:
    if report.outcome != "skipped" or hasattr(report, "wasxfail"):
        return
    why = refusal(skip_reason(report.longrepr))
    if why is not None:
        report.outcome = "failed"
        report.longrepr = why
