"""The package's life on a machine: installed with dnf, used, removed, installed again, upgraded under load, enabled.

That is the order of the tests: each goes on where the one before it ended; test_reboot.py goes on after the last.
"""

import grp
import json
import os
import pwd
import socket
import stat
import subprocess
import threading
import time
from pathlib import Path

import pytest
from device_clients import Client, Load, wait_for
from services import journal, run, show, status, systemctl, tpm2
from tpm_commands import (
    GET_RANDOM,
    NV_DEFINE_COUNTER,
    NV_INCREMENT,
    NV_READ_COUNTER,
    TPM12_GET_MANUFACTURER,
    counter_of,
)

pytestmark = pytest.mark.needs("systemd", "root", "cuse")

PACKAGE = "python3-swtpm"
CLASSIC = "python3-swtpm-compat"
CONFIGURATIONS = Path("/etc/vtpm.d")
#: What instances write there is not the package's.
STATES = ("/var/lib/vtpm/", "/var/lib/vtpm-identity/")
#: Where a package may leave something. What the machine itself writes there (databases, logs) is not looked at.
TREES = ("/etc", "/usr", "/var/lib", "/run/vtpm", "/opt", "/root")
NOT_LOOKED_AT = (
    "/etc/selinux",
    "/var/lib/selinux",
    "/var/lib/rpm",
    "/var/lib/rpm-state",
    "/var/lib/dnf",
    "/var/lib/systemd",
    "/root/in",
    "/root/out",
    "/root/.cache",
)
seen = {}


def dnf(*words):
    begin = time.monotonic()
    done = subprocess.run(["dnf", "-y", *words], capture_output=True, text=True, timeout=400, check=False)
    seen[f"dnf {words[-2] if words[-1] == PACKAGE else words[-1]}"] = time.monotonic() - begin
    assert done.returncode == 0, done.stdout + done.stderr
    assert "scriptlet failed" not in done.stdout + done.stderr
    return done.stdout + done.stderr


def installed_version():
    return run("rpm", "-q", "--qf", "%{version}", PACKAGE).stdout


def everything():
    """The paths of all files and folders below TREES."""
    found = set()
    for tree in TREES:
        for folder, folders, files in os.walk(tree):
            folders[:] = [name for name in folders if f"{folder}/{name}" not in NOT_LOOKED_AT]
            found.update(f"{folder}/{name}" for name in (*folders, *files))
    return found


def settings_of_systemd():
    """The paths that enabling a unit or a preset would add to."""
    return {path for path in everything() if "/systemd/system" in path and "vtpm" in path}


def counter(device):
    client = Client(device)
    value = counter_of(client(NV_READ_COUNTER))
    client.close()
    return value


class Knocking(threading.Thread):
    """A client that connects, sends a command and leaves, again and again, whether it is answered or not."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.path, self.answered, self.done = path, 0, False
        self.start()

    def run(self):
        while not self.done:
            try:
                with socket.socket(socket.AF_UNIX) as client:
                    client.settimeout(1)
                    client.connect(self.path)
                    client.send(GET_RANDOM)
                    self.answered += len(client.recv(4096)) > 10
            except OSError:
                pass
            time.sleep(0.1)

    def finish(self):
        self.done = True
        self.join(10)
        return self.answered


# --- installed -------------------------------------------------------------------------------------------------------


def test_one_command_installs_it(capsys):
    with open("/etc/group", "a", encoding="ascii") as file:  # groupadd takes seconds in an emulated machine
        file.write("team-a:x:901:lab-member\nteam-b:x:902:lab-operator\n")
    seen["before"] = everything()
    assert not any("vtpm" in path for path in seen["before"] if not path.startswith("/usr/lib/modules"))
    begin = time.monotonic()
    dnf("install", PACKAGE)
    systemctl("start", "vtpm1")
    client = Client("/dev/vtpm1")
    assert client(GET_RANDOM)[6:10] == bytes(4)
    taken = time.monotonic() - begin
    client.close()
    seen["version"] = installed_version()
    with capsys.disabled():
        print(f"\nfrom `dnf install` to the first answer: {taken:.1f} s, of them {seen['dnf install']:.1f} s for dnf")


def test_nothing_is_enabled_and_nothing_runs_that_was_not_started():
    assert settings_of_systemd() <= set(run("rpm", "-ql", PACKAGE).stdout.split())
    listed = run("systemctl", "list-unit-files", "--no-legend", "vtpm@*").stdout.split("\n")
    assert {tuple(line.split()[:2]) for line in listed if line} == {
        ("vtpm@.service", "disabled"),
        ("vtpm@.socket", "disabled"),
    }
    running = run("systemctl", "list-units", "--no-legend", "--plain", "vtpm@*").stdout.split()
    assert running[0] == "vtpm@vtpm1.service"
    assert len([word for word in running if word.startswith("vtpm@")]) == 1


def test_files_are_as_the_package_has_them_and_nobody_else_may_write_them():
    for path in run("rpm", "-ql", PACKAGE).stdout.splitlines():
        found = os.lstat(path)
        assert (found.st_uid, found.st_gid) == (0, 0), path
        assert stat.S_ISLNK(found.st_mode) or not stat.S_IMODE(found.st_mode) & 0o7022, path
    assert run("rpm", "-qc", PACKAGE).stdout.split() == [f"{CONFIGURATIONS}/vtpm0.toml", f"{CONFIGURATIONS}/vtpm1.toml"]
    for path in (CONFIGURATIONS, "/var/lib/vtpm", "/var/lib/vtpm-identity", "/usr/libexec/vtpm", "/run/vtpm"):
        assert run("rpm", "-qf", str(path)).stdout.startswith(PACKAGE), path


def test_users_and_groups():
    user = pwd.getpwnam("vtpm")
    assert user.pw_gid == grp.getgrnam("vtpm").gr_gid
    assert user.pw_shell in ("/usr/sbin/nologin", "/sbin/nologin")
    assert grp.getgrnam("vtpm-admin").gr_mem == ["vtpm"]
    assert grp.getgrnam("vtpm").gr_mem == []


# --- used ------------------------------------------------------------------------------------------------------------


def test_what_fedora_s_test_machines_run():
    """A user of the group at his TPM with tpm2-tools, over a restart."""
    systemctl("stop", "vtpm1")
    run("tests/tmt/installed.sh", timeout=300)
    assert not os.path.exists("/dev/vtpm1")


@pytest.mark.parametrize(
    ("instance", "member", "stranger"), [("a", "lab-member", "lab-operator"), ("b", "lab-operator", "lab-member")]
)
def test_each_user_has_his_own_tpm_and_not_the_other_s(instance, member, stranger):
    text = f'[tpm]\nstartup = "clear"\n[device]\ngroup = "team-{instance}"\n'
    (CONFIGURATIONS / f"{instance}.toml").write_text(text)
    systemctl("start", instance)
    found = os.stat(f"/dev/{instance}")
    assert (found.st_uid, grp.getgrgid(found.st_gid).gr_name, stat.S_IMODE(found.st_mode)) == (
        0,
        f"team-{instance}",
        0o660,
    )
    assert len(tpm2("tpm2_getrandom", "--hex", "4", device=instance, user=member).stdout) == 8
    refused = tpm2("tpm2_getrandom", "--hex", "4", device=instance, user=stranger, expect=1)
    assert "ermission denied" in refused.stderr
    client = Client(f"/dev/{instance}")
    assert client(NV_DEFINE_COUNTER)[6:10] == client(NV_INCREMENT)[6:10] == bytes(4)
    client.close()
    seen[instance] = counter(f"/dev/{instance}")


def test_the_journal_explains():
    run("vtpmctl", "locality", "a", "1", user="lab-member", expect=77)
    assert any(entry.get("VTPM_ERROR") == "not-permitted" for entry in journal("a"))
    explained = run("journalctl", "-b", "-x", "-u", "vtpm@a.service").stdout
    assert "Subject:" in explained
    assert "vtpm-admin" in explained


def test_using_it_writes_nothing_where_the_package_is():
    owned = set(run("rpm", "-ql", PACKAGE, f"{PACKAGE}-selinux").stdout.splitlines())
    new = {path for path in everything() if not path.startswith((*STATES, "/run/vtpm/"))}
    assert new - seen["before"] - owned == {f"{CONFIGURATIONS}/{name}.toml" for name in "ab"}
    assert run("rpm", "-V", PACKAGE, f"{PACKAGE}-selinux").stdout == ""


# --- removed and installed again -------------------------------------------------------------------------------------


def test_removal_stops_the_instances_and_keeps_state_and_changed_configuration():
    with open(CONFIGURATIONS / "vtpm0.toml", "a", encoding="ascii") as file:
        file.write("# changed\n")
    run("systemctl", "--no-reload", "enable", "vtpm@b.service", "vtpm@vtpm0.socket")
    # a socket of another name (vtpm@.service(8)), and a client that comes again and again: it must not start anew
    unit = Path("/etc/systemd/system/b-data.socket")
    unit.write_text("[Socket]\nListenStream=/run/b-data.sock\nFileDescriptorName=data\nService=vtpm@b.service\n")
    run("systemctl", "daemon-reload")
    systemctl("stop", "b")
    run("systemctl", "start", "vtpm@vtpm0.socket", unit.name)
    systemctl("start", "b")
    knocking = Knocking("/run/b-data.sock")
    wait_for(lambda: knocking.answered, "an answer")
    pids = [show(name, "MainPID") for name in ("a", "b")]
    state = set(Path("/var/lib/vtpm").glob("*/*.permall"))
    assert len(state) == 3
    dnf("remove", PACKAGE)
    knocking.finish()
    assert run("systemctl", "is-active", unit.name, expect=None).stdout == "inactive\n"
    unit.unlink()
    run("systemctl", "daemon-reload")
    assert "vtpm" not in run("semodule", "--list-modules").stdout.split()
    for pid in pids:
        assert not os.path.exists(f"/proc/{pid}")
    for name in ("a", "b"):
        assert not os.path.exists(f"/dev/{name}")
    assert run("systemctl", "list-units", "--no-legend", "--plain", "vtpm@*").stdout == ""
    assert set(Path("/var/lib/vtpm").glob("*/*.permall")) == state
    left = {path for path in everything() - seen["before"] if not path.startswith(STATES)}
    kept = {f"/etc/vtpm.d/{name}" for name in ("a.toml", "b.toml", "vtpm0.toml.rpmsave")}
    assert left == {"/etc/vtpm.d", "/var/lib/vtpm", "/var/lib/vtpm-identity", *kept}
    assert (CONFIGURATIONS / "vtpm0.toml.rpmsave").read_text().endswith("# changed\n")


def test_installed_again_it_goes_on_with_the_state():
    """An older version, so that there is something to upgrade."""
    dnf("--disablerepo=current", "--enablerepo=previous", "install", PACKAGE)
    assert installed_version() == "0.0.1"
    systemctl("start", "a", "b")
    for instance in ("a", "b"):
        assert counter(f"/dev/{instance}") == seen[instance]
    found = status("a")
    assert (found["daemon"]["version"], found["restart_pending"]) == ("0.0.1", False)


# --- upgraded --------------------------------------------------------------------------------------------------------


def test_an_upgrade_leaves_running_tpms_running():
    with open(CONFIGURATIONS / "vtpm0.toml", "a", encoding="ascii") as file:
        file.write("# changed\n")
    systemctl("start", "vtpm0")
    pids = {name: show(name, "MainPID") for name in ("a", "vtpm0")}
    # a pause, since the machine has an emulated processor and is to do something else beside
    loads = [Load("/dev/a", GET_RANDOM, pause_s=0.2), Load("/dev/vtpm0", TPM12_GET_MANUFACTURER, pause_s=0.2)]
    for load in loads:
        load.start()
    dnf("upgrade")
    assert installed_version() == seen["version"]
    for load in loads:
        load.proceeds()
    assert {name: show(name, "MainPID") for name in pids} == pids
    assert {show(name, "NeedDaemonReload") for name in pids} == {"no"}
    found = status("a")
    assert (found["daemon"]["version"], found["installed"], found["restart_pending"]) == (
        "0.0.1",
        seen["version"],
        True,
    )
    assert (
        "a newer version than the one that runs: systemctl restart vtpm@a.service"
        in run("vtpmctl", "status", "a").stdout
    )

    systemctl("restart", *pids)
    for load in loads:
        load.proceeds()
        load.finish()
        assert (load.errors, load.wrong) == ([], [])
    for name in pids:
        found = status(name)
        assert (found["daemon"]["version"], found["restart_pending"]) == (seen["version"], False)
        assert show(name, "ActiveState") == "active"
    assert counter("/dev/a") == seen["a"]
    assert (CONFIGURATIONS / "vtpm0.toml").read_text().endswith("# changed\n")
    assert run("rpm", "-V", PACKAGE, expect=1).stdout.split() == ["S.5....T.", "c", "/etc/vtpm.d/vtpm0.toml"]


# --- the old command names -------------------------------------------------------------------------------------------


@pytest.fixture
def without_swtpm_of_the_machine(tmp_path):
    """dnf does not know of Debian's: its files are put aside, and put back."""
    copies = tmp_path / "copies.tar"
    listed = run("dpkg", "-L", "swtpm", "swtpm-tools").stdout.splitlines()
    files = [path for path in listed if os.path.isfile(path) and path.startswith(("/usr/bin", "/etc", "/usr/share"))]
    run("tar", "-cf", str(copies), "--xattrs", "--xattrs-include=*", "-P", "--remove-files", *files)
    yield
    run("tar", "-xf", str(copies), "--xattrs", "--xattrs-include=*", "-P")


@pytest.mark.usefixtures("without_swtpm_of_the_machine")
def test_the_old_command_names_come_and_go_as_a_package_of_their_own(tmp_path):
    before = everything()
    dnf("install", CLASSIC)
    assert run("rpm", "-V", CLASSIC).stdout == ""
    assert Path("/usr/bin/swtpm") in map(Path, run("rpm", "-ql", CLASSIC).stdout.splitlines())
    run("swtpm_setup", "--tpm2", "--tpmstate", str(tmp_path), "--create-ek-cert", "--lock-nvram")
    done = run("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={tmp_path}", "--print-states")
    assert json.loads(done.stdout)["states"] == [
        {"name": "permall", "size": (tmp_path / "tpm2-00.permall").stat().st_size}
    ]
    dnf("remove", CLASSIC)
    left = {path for path in everything() - before if not path.startswith(str(tmp_path))}
    assert {path for path in left if not path.startswith("/var/lib/swtpm-localca")} == set()
    assert installed_version() == seen["version"]


def test_an_instance_is_enabled(capsys):
    systemctl("stop", "vtpm0", "a", "b")
    run("systemctl", "enable", "--now", "vtpm@a.service")
    wanted = {f"/etc/systemd/system/{target}.target.wants/vtpm@a.service" for target in ("multi-user", "vtpm")}
    assert {path for path in settings_of_systemd() if ".wants/" in path} == wanted
    with capsys.disabled():
        print("\n" + ", ".join(f"{name} {taken:.1f} s" for name, taken in seen.items() if name.startswith("dnf")))
