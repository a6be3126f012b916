"""vtpmctl doctor on a system of the test's own: what is well, what is not, what cannot be known, and the remedies.

The programs that it asks are scripts on the PATH, the kernel's files are files. The real ones are in tests/lab/vm.
"""

import bz2
import grp
import json
import os
import pwd
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from swtpm_svc.cli.vtpmctl import entry
from swtpm_svc.cli.vtpmctl.doctor import configuration_checks, denials, host_checks, selinux_checks
from swtpm_svc.cli.vtpmctl.host import Places
from swtpm_svc.errors import Code, VtpmError, selinux_remedy
from swtpm_svc.service.identity import clones

pytestmark = pytest.mark.needs("root")  # /dev/cuse and what is installed are root's

MODULE = (
    b"\x8f\xff\x7c\xf9SE Linux Module"
    + b"\x04\0\0\0vtpm"
    + b"\x05\0\0\0"
    + selinux_checks.POLICY_VERSION.encode()
    + b"\0rest"
)
NOW_S = int(time.time())
AVC = (
    'type=AVC msg=audit({at}.2:3): avc:  denied  {{ read }} for  pid=9 comm="vtpmd" name="shadow" dev="nvme0n1" ino=7 '
    "scontext=system_u:system_r:{source}:s0 tcontext=system_u:object_r:shadow_t:s0 tclass=file permissive=0"
)


class System:
    """A host that is as it should be; a test spoils something."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.places = Places(str(root / "config"), str(root / "run"), str(root / "sys"))
        for directory in (*self.places, root / "bin", root / "selinux"):
            os.mkdir(directory)
        (root / "selinux/enforce").write_text("1")
        (root / "selinux/context").write_text("")
        self.cuse = root / "cuse"
        self.cuse.touch(0o600)
        (root / "200/vtpm").mkdir(parents=True)
        (root / "200/vtpm/hll").write_bytes(bz2.compress(MODULE))
        self.groups = {"vtpm": [], "vtpm-admin": ["vtpm"]}
        self.labels: dict[str, str] = {}
        monkeypatch.setenv("PATH", f"{root}/bin:{os.environ['PATH']}")
        for name, value in {
            "SELINUX_FS": str(root / "selinux"),
            "MODULE_STORE": str(root / "*/vtpm/hll"),
            "LABELLED": (str(self.cuse),),
            "PROC": str(root),
            "_label": lambda path: self.labels.get(path, "system_u:object_r:vtpm_cuse_device_t:s0"),
        }.items():
            monkeypatch.setattr(selinux_checks, name, value)
        for name, value in {
            "CUSE": str(self.cuse),
            "CUSE_DRIVER": str(root / "cuse-driver"),
            "KERNEL_MODULES": str(root / "modules"),
            "SYSTEMD": str(root / "systemd"),
            "UDEV": str(root / "udev"),
            "RULE_PATHS": (str(root / "etc-rules"), str(root / "rules")),
        }.items():
            monkeypatch.setattr(host_checks, name, value)
        (root / "cuse-driver").mkdir()
        monkeypatch.setattr(configuration_checks, "UNIT_PATHS", (str(root / "units"),))
        monkeypatch.setattr(clones, "DIRECTORY", str(root / "keys"))
        monkeypatch.setattr(pwd, "getpwnam", lambda name: SimpleNamespace(pw_name=name, pw_uid=0, pw_gid=0))
        monkeypatch.setattr(grp, "getgrnam", lambda name: SimpleNamespace(gr_gid=0, gr_mem=self.groups[name]))
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        self.program(
            "matchpathcon", "for path; do [ $path = -n ] || echo system_u:object_r:vtpm_cuse_device_t:s0; done"
        )
        self.program("ausearch", "exit 1")
        self.program("systemctl", "exit 1")

    def program(self, name: str, script: str) -> None:
        file = self.root / "bin" / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)


@pytest.fixture
def system(tmp_path, monkeypatch):
    return System(tmp_path, monkeypatch)


@pytest.fixture
def run(system, capsys):
    def run(*arguments: str) -> "tuple[int, str]":
        result = entry.main(["doctor", *arguments], system.places)
        return result, capsys.readouterr().out

    return run


def lines(text: str, *checks: str) -> "list[str]":
    """Those of these questions."""
    return [line for line in text.splitlines() if line[6:].partition(":")[0] in checks]


HOST = ("accounts", "cuse", "systemd", "udev", "libtpms", "Python", "clock", "configuration")


def test_a_host_that_is_well(system, run):
    (Path(system.places.config) / "vtpm0.toml").write_text(
        f'[provision]\nca = "{system.root}/ca"\n[device]\nname = "vtpm-none"\n'
    )  # not what this host has
    result, out = run()
    assert result == 0
    assert {line[:6] for line in out.splitlines()} == {"ok    "}
    assert [line[6:].partition(":")[0] for line in out.splitlines()] == [
        *(name for name in HOST if name != "udev"),
        "vtpm0",
        "SELinux",
        "policy",
        "labels",
        "denials",
    ]
    assert lines(out, "accounts", "cuse", "configuration", "vtpm0", "SELinux", "policy", "labels", "denials") == [
        "ok    accounts: user vtpm, groups vtpm and vtpm-admin",
        f"ok    cuse: {system.cuse} is root's, 0600",
        f"ok    configuration: {system.places.config} and its files are root's alone to write",
        "ok    vtpm0: is not started",
        "ok    SELinux: is enforcing",
        f"ok    policy: the module vtpm {selinux_checks.POLICY_VERSION} is loaded",
        "ok    labels: 1 files and devices are labelled as the policy says",
        "ok    denials: none since the boot",
    ]


def test_fifty_instances_in_under_a_second(system, run):
    for number in range(50):
        Path(system.places.config, f"vtpm{number}.toml").touch()
    system.program("systemctl", 'for word; do printf "LoadState=loaded\\nActiveState=inactive\\n\\n"; done')
    run()  # what is imported by then is imported
    begin = time.monotonic()
    _, out = run()
    assert time.monotonic() - begin < 1
    assert out.count("is not started") == 50


def test_the_same_as_json(run):
    result, out = run("--json")
    assert result == 0
    found = json.loads(out)
    assert (found["schema"], found["exit_status"]) == (1, 0)
    assert next(one for one in found["findings"] if one["check"] == "SELinux") == {
        "verdict": "ok",
        "check": "SELinux",
        "text": "is enforcing",
        "remedy": None,
        "code": None,
    }


def test_a_host_without_configurations_is_examined_all_the_same(system, run):
    """Of a broken host that may be what is broken; it was all that was said."""
    os.rmdir(system.places.config)
    os.unlink(system.root / "selinux/enforce")
    result, out = run()
    assert result == 78
    assert (
        f"fail  instances: {system.places.config} does not exist\n"
        f"        remedy: make it, and a TPM in it: install -d -m 0755 {system.places.config}; then vtpmctl create "
        "vtpm0\n"
        "ok    SELinux: is not in use\n"
    ) in out
    assert lines(out, "accounts", "cuse") == [
        "ok    accounts: user vtpm, groups vtpm and vtpm-admin",
        f"ok    cuse: {system.cuse} is root's, 0600",
    ]


def test_nor_does_an_instance_that_there_is_not(system, run):
    result, out = run("vtpm7")
    assert result == 78
    assert len(lines(out, *HOST, "vtpm7", "SELinux", "policy", "labels", "denials")) == 12
    assert f"fail  vtpm7: {system.places.config}/vtpm7.toml does not exist\n" in out
    assert run("a b")[0] == 64


def test_no_selinux_no_questions_about_it(system, run):
    os.unlink(system.root / "selinux/enforce")
    result, out = run()
    assert result == 0
    assert out.endswith("ok    SELinux: is not in use\n")


def test_permissive_is_a_warning(system, run):
    (system.root / "selinux/enforce").write_text("0")
    result, out = run()
    assert result == 0
    assert "warn  SELinux: is permissive: what would be denied is only logged\n" in out
    assert "        remedy: see what all of the host would be denied: ausearch " in out


def test_no_accounts(system, run, monkeypatch):
    def missing(name):
        raise KeyError(f"getpwnam(): name not found: '{name}'")

    monkeypatch.setattr(pwd, "getpwnam", missing)
    result, out = run()
    assert result == 67
    assert "fail  accounts: getpwnam(): name not found: 'vtpm'\n        remedy: systemd-sysusers vtpm.conf\n" in out


def test_a_daemon_that_cannot_give_its_socket_away(system, run):
    system.groups["vtpm-admin"] = []
    result, out = run()
    assert result == 0
    assert "remedy: usermod --append --groups vtpm-admin vtpm\n" in out


def test_a_cuse_device_that_others_can_open(system, run):
    system.cuse.chmod(0o666)
    result, out = run()
    assert result == 77
    assert f"fail  cuse: {system.cuse} is root's, 0666: who can open it can make any device\n" in out


def test_no_cuse_device(system, run):
    system.cuse.unlink()
    os.rmdir(system.root / "cuse-driver")
    result, out = run()
    assert result == 69
    assert "the module is not loaded\n        remedy: modprobe cuse" in out


def test_a_node_of_cuse_that_was_removed(system, run):
    system.cuse.unlink()
    result, out = run()
    assert result == 69
    assert "remedy: the module is loaded, and something has removed its node: rmmod cuse; modprobe cuse\n" in out


def test_a_node_without_a_module_behind_it(system, run):
    """systemd makes the node in advance, for a module that may not be there."""
    os.rmdir(system.root / "cuse-driver")
    directory = system.root / "modules" / os.uname().release
    directory.mkdir(parents=True)
    (directory / "modules.dep").write_text("kernel/fs/fuse/fuse.ko.xz:\n")
    result, out = run()
    assert result == 69
    assert f"fail  cuse: the kernel {os.uname().release} has no CUSE: no device of a TPM can be made\n" in out
    (directory / "modules.dep").write_text("kernel/fs/fuse/cuse.ko: kernel/fs/fuse/fuse.ko\n")
    assert run()[0] == 0
    # and instances that have no device do without it
    (directory / "modules.dep").write_text("")
    (Path(system.places.config) / "vtpm0.toml").write_text("[device]\nenabled = false\n")
    result, out = run()
    assert result == 0
    assert "warn  cuse: " in out


def test_the_module_is_not_loaded(system, run, monkeypatch):
    monkeypatch.setattr(selinux_checks, "_is_type", lambda name: False)
    result, out = run()
    assert result == 69
    assert "fail  policy: the module vtpm is not loaded: the daemons run in a domain of the system\n" in out
    assert "labels" not in out


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        (MODULE.replace(selinux_checks.POLICY_VERSION.encode(), b"0.9.9"), "is of version 0.9.9, this program of"),
        (b"BZh broken", "is of version None, this program of"),
        (b"", "is of version None, this program of"),
        (None, "its version is not known"),
    ],
)
def test_the_version_of_the_module(system, run, stored, said):
    path = system.root / "200/vtpm/hll"
    path.unlink() if stored is None else path.write_bytes(stored)
    result, out = run()
    assert result == 0
    assert "warn  policy: the module vtpm " in out
    assert said in out


def test_a_wrong_label(system, run):
    system.labels[str(system.cuse)] = "system_u:object_r:device_t:s0"
    result, out = run()
    assert result == 69
    text = f"fail  labels: {system.cuse} is device_t, the policy says vtpm_cuse_device_t\n"
    assert f"{text}        remedy: restorecon -v {system.cuse}\n" in out


def test_no_program_to_compare_labels_with(system, run, monkeypatch):
    os.unlink(system.root / "bin/matchpathcon")
    monkeypatch.setenv("PATH", str(system.root / "bin"))
    result, out = run()
    assert result == 0
    assert "warn  labels: cannot be compared with the policy\n" in out


def test_denials(system, run):
    (system.root / "log").write_text(
        f"{AVC.format(at=NOW_S, source='sshd_t')}\n{AVC.format(at=NOW_S, source='vtpm_t')}\n"
    )
    system.program("ausearch", f"cat {system.root}/log")
    result, out = run()
    assert result == 77
    assert (
        "fail  denials: 1 that concern what runs now, the last one: vtpm_t was denied read on shadow_t (file)\n" in out
    )


def test_denials_of_the_journal_where_there_is_no_audit(system, run, monkeypatch):
    os.unlink(system.root / "bin/ausearch")
    monkeypatch.setenv("PATH", str(system.root / "bin"))
    entry_of_now = {
        "__REALTIME_TIMESTAMP": str(int(time.time() * 1e6)),
        "MESSAGE": AVC.format(at=NOW_S, source="vtpm_attach_t"),
    }
    (system.root / "log").write_text(json.dumps(entry_of_now) + "\n[]\n{\n")
    system.program("journalctl", f'while read -r line; do echo "$line"; done <{system.root}/log')
    result, out = run()
    assert result == 77
    assert "vtpm_attach_t was denied read on shadow_t (file)" in out


def test_who_is_not_root_cannot_see_denials(run, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    result, out = run()
    assert result == 0
    assert "warn  denials: cannot be looked at\n        remedy: run this as root\n" in out


def test_denials_of_processes_that_have_ended_fail_nothing(system, run):
    """Those of last week would otherwise be there until the next boot."""
    old = AVC.format(at=1700000000, source="vtpm_t")
    (system.root / "log").write_text(f"{old}\n{old}\n")
    system.program("ausearch", f"cat {system.root}/log")
    result, out = run()
    assert result == 0
    assert "warn  denials: 2 of processes that have ended, the last one at 2023-11-" in out
    # but those of a process that runs count, however old they are
    (system.root / "config/vtpm0.toml").touch()
    system.program("systemctl", "printf 'LoadState=loaded\\nActiveState=active\\nMainPID=9\\n'")
    assert "fail  denials: 2 that concern what runs now" in run()[1]


@pytest.mark.parametrize("record", ["", "denied", "avc: denied { x } scontext=a tcontext=b tclass=c"])
def test_a_record_of_another_form_is_shown_as_it_is(record):
    assert denials.describe_denial(record) in (record, "a was denied x on b (c)")


def test_a_failed_service(system, run):
    (Path(system.places.config) / "vtpm0.toml").write_text("[provision]\ncertificates = false\n")
    properties = "LoadState=loaded ActiveState=failed SubState=failed Result=exit-code"
    system.program("systemctl", f"printf '%s\\n' {properties}")
    result, out = run("vtpm0")
    assert result == 69
    assert "fail  vtpm0: vtpm@vtpm0.service failed: it ended (exit-code)\n" in out


def test_a_file_of_swtpm_s_other_back_end_is_named(system, run):
    """systemd fails the unit for it, without a word of what it is."""
    (system.root / "vm1.tpm").write_bytes(b"nilmptws" + bytes(100))
    (system.root / "config/vm1.toml").write_text(f'[state]\ndirectory = "{system.root}/vm1.tpm"\n')
    status, text = run("vm1")
    assert status != 0
    assert "swtpm's file back end keeps all of a TPM" in text
    assert "name it in [state] file" in text


def test_an_instance_that_is_nowhere(run):
    assert run("nonesuch")[0] == 78


# --- the hint at a start that SELinux may have denied
# ------------------------------------------------------------------


def denied() -> VtpmError:
    try:
        try:
            raise PermissionError(13, "Permission denied")
        except OSError:
            raise VtpmError(Code.STATE_UNREADABLE, "cannot be read") from None
    except VtpmError as error:
        return error


@pytest.mark.parametrize(("enforce", "said"), [("1", True), ("0", False), (None, False)])
def test_the_hint_is_for_machines_that_enforce(tmp_path, enforce, said):
    path = tmp_path / "enforce"
    if enforce is not None:
        path.write_text(enforce)
    hint = "permission denied by SELinux? try: ausearch -m avc -ts recent -c vtpmd"
    assert selinux_remedy(denied(), str(path)) == (hint if said else None)


def test_the_hint_is_for_what_the_kernel_denied(tmp_path):
    (tmp_path / "enforce").write_text("1")
    assert selinux_remedy(VtpmError(Code.CONFIG_INVALID, "a wrong value"), str(tmp_path / "enforce")) is None
