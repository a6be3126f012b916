"""SELinux: what the other tests in the machine did was denied nothing, and what our domains must not do is denied.

The file's name puts it behind the others. Its first test reads what they left in the audit log; the later ones cause
denials on purpose.
"""

import json
import os
import re
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from device_clients import wait_for
from services import journal, run, selinux_type, show, status, systemctl
from tpm_commands import GET_RANDOM

pytestmark = pytest.mark.needs("systemd", "root", "accounts")

SELINUX_FS = Path("/sys/fs/selinux")
OURS = re.compile(r":vtpm(?:_\w+)?_t:|comm=\"vtpm")
DAEMON = "system_u:system_r:vtpm_t:s0"
ATTACH = "system_u:system_r:vtpm_attach_t:s0"


def denials():
    """AVC, USER_AVC and SELINUX_ERR records of the audit log that name a type of ours, or a program of ours in another
    domain."""
    kinds = re.compile(r"type=(AVC|USER_AVC|SELINUX_ERR) ")
    with open("/var/log/audit/audit.log", encoding="utf-8", errors="replace") as file:
        return [
            line for line in file if kinds.search(line) and OURS.search(line) and not re.search(r"avc:\s+granted", line)
        ]


def test_nothing_was_denied_to_or_by_our_domains():
    assert denials() == []
    assert os.path.getsize("/var/log/audit/audit.log") > 10_000, "there is a log"


def test_everything_runs_in_its_domain_and_has_its_label(both):
    for name in both:
        with open(f"/proc/{show(name, 'MainPID')}/attr/current", encoding="ascii") as file:
            assert file.read().rstrip("\0\n") == DAEMON
    labels = {
        "/usr/libexec/vtpm/vtpmd": "vtpm_exec_t",
        "/usr/libexec/vtpm/vtpm-attach": "vtpm_attach_exec_t",
        "/usr/lib/systemd/system/vtpm@.service": "vtpm_unit_file_t",
        "/etc/vtpm.d/vtpm0.toml": "vtpm_etc_t",
        "/var/lib/vtpm/vtpm1/tpm2-00.permall": "vtpm_var_lib_t",
        "/var/lib/vtpm-identity/vtpm1/identity.json": "vtpm_var_lib_t",
        "/var/lib/vtpm-ca": "vtpm_ca_t",
        "/run/vtpm/vtpm1/ctrl.sock": "vtpm_runtime_t",
        "/run/vtpm/vtpm1/status": "vtpm_runtime_t",
        "/dev/cuse": "vtpm_cuse_device_t",
        "/dev/vtpm0": "vtpm_device_t",
    }
    found = {path: selinux_type(path) for path in labels}
    assert found == labels


@pytest.mark.needs("vtpm-proxy")
def test_the_kernel_s_way_to_tpms_of_its_own_has_its_label():
    run("modprobe", "tpm_vtpm_proxy")
    wait_for(lambda: os.path.exists("/dev/vtpmx"), "/dev/vtpmx")
    assert selinux_type("/dev/vtpmx") == "vtpm_proxy_device_t"


# --- what the daemon may not do
# ----------------------------------------------------------------------------------------

#: A child in the daemon's domain (root's at first: type enforcement is asked, not the file's mode) tries, and tells by
#: its exit status, since the domain may not use the descriptors of whoever tests.
AS_DAEMON = """
import os, socket, sys
domain, user, *paths = sys.argv[1:]
def child(attempt):
    pid = os.fork()
    if pid:
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(os.strerror(status) if 0 < status < 255 else "done" if status == 0 else f"failed: {status}")
        return
    try:
        if user != "root":
            import pwd
            entry = pwd.getpwnam(user)
            os.setgroups([]); os.setresgid(*[entry.pw_gid] * 3); os.setresuid(*[entry.pw_uid] * 3)
        with open("/proc/self/attr/current", "w") as file:
            file.write(domain)
    except OSError:
        os._exit(255)
    try:
        attempt()
        os._exit(0)
    except OSError as error:
        os._exit(error.errno)
"""
TRY = (
    AS_DAEMON
    + """
for path in paths:
    child(lambda: os.open(path, os.O_RDONLY))
"""
)


def try_to_open(*paths, domain=DAEMON, user="root", namespace_of=None):
    enter = ["nsenter", f"--mount=/proc/{namespace_of}/ns/mnt"] if namespace_of else []
    return run(*enter, sys.executable, "-IB", "-c", TRY, domain, user, *paths).stdout.splitlines()


@pytest.fixture
def enforcing():
    if (SELINUX_FS / "enforce").read_text() != "1":
        pytest.skip("SELinux is not enforcing: LAB_SELINUX=enforcing")


@pytest.mark.usefixtures("enforcing")
def test_our_domains_cannot_read_the_passwords():
    before = len(denials())
    assert try_to_open("/etc/shadow", "/etc/passwd") == ["Permission denied", "done"]
    assert try_to_open("/etc/shadow", "/etc/passwd", domain=ATTACH) == ["Permission denied", "done"]
    assert len(denials()) > before, "the first test here would have seen a denial"


@pytest.mark.usefixtures("enforcing")
def test_an_instance_has_its_own_state_and_no_other_s(both):
    own, other = (int(show(name, "MainPID")) for name in both)
    paths = [
        "/var/lib/vtpm/vtpm0/tpm-00.permall",
        "/var/lib/vtpm/vtpm1/tpm2-00.permall",
        "/run/vtpm/vtpm1/status",
        "/var/lib/vtpm-identity/vtpm1/identity.json",
        f"/proc/{other}/root/var/lib/vtpm/vtpm1/tpm2-00.permall",
        f"/proc/{other}/mem",
        f"/proc/{other}/environ",
    ]
    found = try_to_open(*paths, user="vtpm", namespace_of=own)
    assert found[:4] == ["done", *["No such file or directory"] * 3]
    # ProtectProc= of the unit hides the process, or it is there and cannot be looked into
    assert set(found[4:]) <= {"No such file or directory", "Permission denied"}
    assert try_to_open(paths[1], user="vtpm") == ["done"], (
        "outside of the namespace it is there for the same user and domain"
    )


@pytest.mark.usefixtures("enforcing")
def test_an_instance_signals_no_other(both):
    """The domain has no permission for it, whatever the unit's and the daemon's own filters say."""
    code = (
        AS_DAEMON
        + """
import fcntl, resource, signal
victim = int(paths[0])
def owner():
    a, b = socket.socketpair()
    fcntl.fcntl(a, fcntl.F_SETOWN, victim)
    fcntl.fcntl(a, 10, int(signal.SIGKILL))  # F_SETSIG
    fcntl.fcntl(a, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    b.send(b"x")
child(lambda: os.kill(victim, signal.SIGKILL))
child(lambda: os.kill(victim, 0))
child(lambda: resource.prlimit(victim, resource.RLIMIT_NOFILE, (0, 0)))
child(owner)
"""
    )
    victim = show("vtpm1", "MainPID")
    found = run(sys.executable, "-IB", "-c", code, DAEMON, "vtpm", victim).stdout.splitlines()
    assert found == ["Permission denied"] * 3 + ["done"]  # the last one's signal is dropped on its way
    assert show("vtpm1", "MainPID") == victim
    assert show("vtpm1", "NRestarts") == "0"


#: In the sandbox of the unit, as its user, with the daemon's own filter: what becomes of each way to another instance.
PROBE = """
import fcntl, json, os, resource, signal, socket, struct, sys
from swtpm_svc.tpm import libtpms
victim, is_confined = int(sys.argv[1]), sys.argv[2] == "confined"
if is_confined:
    assert libtpms.confine() == 0
a, b = socket.socketpair()
ways = {
    "kill": lambda: os.kill(victim, 0),
    "kill all": lambda: os.kill(-1, 0),
    "prlimit": lambda: resource.prlimit(victim, resource.RLIMIT_NOFILE),
    "owner": lambda: fcntl.fcntl(a, fcntl.F_SETOWN, victim),
    "signal": lambda: fcntl.fcntl(a, 10, int(signal.SIGKILL)),
    "ioctl": lambda: fcntl.ioctl(a, 0x8901, struct.pack("i", victim)),
    "pidfd": lambda: os.pidfd_open(victim),
    "priority": lambda: os.setpriority(os.PRIO_PROCESS, victim, 19),
    "processors": lambda: os.sched_setaffinity(victim, {0}),
    "proc": lambda: os.listdir("/proc/%d" % victim),
    "device": lambda: os.open("/dev/vtpm1", os.O_RDWR),
    "shm": lambda: os.open("/dev/shm/probe", os.O_CREAT | os.O_RDWR),
    "shm, listed": lambda: os.listdir("/dev/shm"),
    "files": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (2048, 2048)),
    "itself": lambda: os.kill(os.getpid(), 0),
}
found = {}
for name, way in ways.items():
    try:
        way()
        found[name] = "done"
    except (OSError, ValueError) as error:  # ValueError: more than the hard limit
        found[name] = type(error).__name__
print("found", json.dumps(found), flush=True)
"""


@pytest.fixture
def probe(both):
    """Runs PROBE as vtpm@probe.service: all of the unit but the program."""
    path, drop_in = Path("/usr/local/lib/probe.py"), Path("/run/systemd/system/vtpm@probe.service.d/probe.conf")
    path.write_text(PROBE)
    drop_in.parent.mkdir(parents=True)

    def run_it(*words):
        command = " ".join(["/usr/bin/python3", "-IB", str(path), show("vtpm1", "MainPID"), *words])
        text = f"[Service]\nType=exec\nWatchdogSec=0\nRestart=no\nExecStartPre=\nExecStopPost=\nExecStart=\nExecStart={command}\n"
        drop_in.write_text(text)
        run("systemctl", "daemon-reload")
        systemctl("start", "probe")
        wait_for(lambda: show("probe", "ActiveState") in ("inactive", "failed"), "the end of the probe")
        lines = [entry["MESSAGE"] for entry in journal("probe") if "MESSAGE" in entry]
        return json.loads(next(line for line in reversed(lines) if line.startswith("found ")).partition(" ")[2])

    yield run_it
    drop_in.unlink()
    drop_in.parent.rmdir()
    path.unlink()
    run("systemctl", "daemon-reload")


def test_the_sandbox_keeps_an_instance_to_itself(probe):
    assert probe("bare")["kill"] == "done"  # without the daemon's own filter it would not
    found = probe("confined")
    assert found.pop("itself") == "done"
    assert found.pop("files") == "ValueError"
    assert found.pop("proc") == "FileNotFoundError"
    assert found.pop("shm, listed") == found.pop("shm") == "PermissionError"
    assert found == dict.fromkeys(found, "PermissionError")
    assert len(found) == 10
    assert show("vtpm1", "NRestarts") == "0"


@pytest.mark.usefixtures("enforcing")
def test_the_daemon_executes_nothing_and_makes_no_tcp_socket():
    code = (
        AS_DAEMON
        + """
child(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
child(lambda: os.execv("/bin/true", ["true"]))
"""
    )
    assert run(sys.executable, "-IB", "-c", code, DAEMON, "root").stdout.splitlines() == ["Permission denied"] * 2


@contextmanager
def opened_network(name, drop_in, boolean):
    """The instance, refused by SELinux with the drop-in that the manual has, and started with the boolean on.

    `drop_in`: what the manual's lines are, after [Service].
    """
    manual = Path("docs/man/vtpm@.service.8").read_text()
    lines = re.search(rf"^\[Service\]\n{drop_in}", manual, re.MULTILINE)
    path = Path(f"/run/systemd/system/vtpm@{name}.service.d/network.conf")
    path.parent.mkdir(parents=True)
    path.write_text(lines[0])
    run("systemctl", "daemon-reload")
    try:
        run("systemctl", "start", "--no-block", f"vtpm@{name}.service")
        wait_for(lambda: show(name, "ExecMainStatus") == "75", "the refusal")
        systemctl("stop", name)
        run("setsebool", boolean, "on")
        systemctl("start", name)
        yield
    finally:
        systemctl("stop", name)
        run("setsebool", boolean, "off")
        path.unlink()
        run("systemctl", "daemon-reload")


@pytest.mark.usefixtures("enforcing")
def test_tcp_ports_of_the_service_s_own_take_the_drop_in_of_the_manual_and_the_boolean(configure):
    configure("tcp", '[device]\nenabled = false\n[socket]\ndata = "tcp:2399"\n[tpm]\nstartup = "clear"\n')
    with opened_network("tcp", r"PrivateNetwork=no\n(?:\S+=.*\n)+", "vtpm_listen_tcp"):
        told = run("journalctl", "-b", "-u", "vtpm@tcp.service", "-o", "cat").stdout
        assert "cannot listen on tcp:127.0.0.1:2399: Permission denied" in told
        assert "permission denied by SELinux? try: ausearch" in told
        with socket.create_connection(("127.0.0.1", 2399), timeout=10) as client:
            client.send(GET_RANDOM)
            assert client.recv(4096)[6:10] == bytes(4)


@pytest.mark.usefixtures("enforcing")
def test_a_port_of_vsock_takes_the_drop_in_of_the_manual_and_its_boolean(configure):
    configure("vsock", '[device]\nenabled = false\n[socket]\ndata = "vsock:1:2398"\n[tpm]\nstartup = "clear"\n')
    run("modprobe", "vsock_loopback")
    with opened_network("vsock", r"RestrictAddressFamilies=AF_VSOCK\n", "vtpm_listen_vsock"):
        assert "sha256:" in run("vtpmctl", "createek", "vsock:1:2398").stdout
        systemctl("restart", "vsock")
        assert "sha256:" in run("vtpmctl", "ek", "--fingerprint", "vsock:1:2398").stdout


@pytest.mark.usefixtures("enforcing")
def test_a_port_of_vsock_that_systemd_listens_on_needs_neither(configure):
    configure("vsock", '[device]\nenabled = false\n[tpm]\nstartup = "clear"\n')
    run("modprobe", "vsock_loopback")
    unit = Path("/run/systemd/system/vtpm-vsock-lab.socket")
    unit.write_text("[Socket]\nListenStream=vsock:1:2397\nFileDescriptorName=data\nService=vtpm@vsock.service\n")
    run("systemctl", "daemon-reload")
    try:
        run("systemctl", "start", "vtpm-vsock-lab.socket")
        assert "sha256:" in run("vtpmctl", "createek", "vsock:1:2397").stdout
        assert "vsock:1:2397" in status("vsock")["daemon"]["listening"]
    finally:
        run("systemctl", "stop", "vtpm-vsock-lab.socket", "vtpm@vsock.service")
        unit.unlink()
        run("systemctl", "daemon-reload")


# --- what the loaded policy says, attributes of others' rules included
# -------------------------------------------------

CHANGES = ("append", "create", "link", "relabelto", "rename", "setattr", "unlink", "write")


def allowed(source, target, kind):
    """The permissions that the kernel would grant (selinuxfs, "access")."""
    number = (SELINUX_FS / "class" / kind / "index").read_text()
    with open(SELINUX_FS / "access", "r+b", buffering=0) as file:
        file.write(f"{source} {target} {number}".encode())
        vector = int(file.read().split()[0], 16)
    names = {path.name: int(path.read_text()) for path in (SELINUX_FS / "class" / kind / "perms").iterdir()}
    return {name for name, bit in names.items() if vector & 1 << bit - 1}


def types_of_files():
    """All that the policy gives to some file, besides those of processes and file systems that no file_contexts
    names."""
    contexts = Path("/etc/selinux/default/contexts/files/file_contexts").read_text()
    found = set(re.findall(r"\S+:object_r:(\w+):s0", contexts))
    assert {"shadow_t", "vtpm_etc_t", "etc_t", "user_home_t"} & found >= {"shadow_t", "vtpm_etc_t", "etc_t"}
    return sorted(found)


def test_what_the_daemon_can_change_is_its_own():
    changeable, readable = set(), set()
    for name in types_of_files():
        permissions = allowed(DAEMON, f"system_u:object_r:{name}:s0", "file")
        if permissions & set(CHANGES):
            changeable.add(name)
        if {"open", "read"} <= permissions:
            readable.add(name)
    assert changeable == {"vtpm_var_lib_t", "vtpm_runtime_t"}
    assert not readable & {"shadow_t", "sshd_key_t", "user_home_t", "var_log_t", "auditd_log_t", "selinux_config_t"}
    for kind in ("capability", "capability2"):
        assert allowed(DAEMON, DAEMON, kind) <= {"setuid", "setgid"}
    for_new_tpms = {"chown", "setgid", "setuid"}
    assert (
        allowed(ATTACH, ATTACH, "capability")
        == {"dac_override", "dac_read_search", "sys_admin", "sys_chroot"} | for_new_tpms
    )
    assert not allowed(DAEMON, "system_u:object_r:vtpm_ca_t:s0", "dir") & {"open", "read", "search"}
    assert not allowed(DAEMON, DAEMON, "process") & {
        "execmem",
        "execstack",
        "execheap",
        "ptrace",
        "setexec",
        "dyntransition",
    }
    # to itself is to all instances; of `signal`, by which one thread wakes another, the daemon's own filter of system calls
    # (tpm/confinement.c) leaves what is for the process itself
    signals = {"sigkill", "sigstop", "signull"}
    assert not allowed(DAEMON, DAEMON, "process") & (signals | {"setrlimit", "setsched", "setpgid", "rlimitinh"})


def test_others_need_an_interface_to_reach_a_tpm():
    """A confined domain of the base policy, as an example of those that were given nothing."""
    for target, kind in (("vtpm_device_t", "chr_file"), ("vtpm_cuse_device_t", "chr_file"), ("vtpm_var_lib_t", "file")):
        assert not allowed("system_u:system_r:syslogd_t:s0", f"system_u:object_r:{target}:s0", kind) & {
            "open",
            "read",
            "write",
        }


# --- vtpmctl doctor
# ----------------------------------------------------------------------------------------------------


def doctor(*names, expect=None):
    return json.loads(run("vtpmctl", "--json", "doctor", *names, expect=expect).stdout)["findings"]


def of(findings, verdict):
    return [(one["check"], one["text"]) for one in findings if one["verdict"] == verdict]


def test_the_doctor_sees_a_healthy_system(both):
    systemctl("reset-failed", *both)  # other tests have killed them
    findings = [one for one in doctor() if one["check"] != "denials"]  # those above are there to be denied
    assert of(findings, "fail") == []
    assert [text for _check, text in of(findings, "warn")] in (
        [],
        ["is permissive: what would be denied is only logged"],
    )
    told = {one["text"] for one in findings}
    assert f"process {show('vtpm1', 'MainPID')} runs as vtpm_t" in told
    assert "the module vtpm 1.0.0 is loaded" in told
    assert "is served at /dev/vtpm1 root:vtpm 0660, as configured; the TPM: ok" in told


def test_the_doctor_names_a_wrong_label_and_the_remedy_helps(both):
    run("chcon", "-t", "device_t", "/dev/vtpm1")
    found = next(one for one in doctor("vtpm1") if one["check"] == "labels")
    assert (found["verdict"], found["text"]) == ("fail", "/dev/vtpm1 is device_t, the policy says vtpm_device_t")
    run(*found["remedy"].split())
    assert of([one for one in doctor("vtpm1") if one["check"] == "labels"], "fail") == []


def test_the_doctor_counts_denials_with_their_meaning(both):
    """Those of the last minutes fail; older ones, of processes that have ended, are a warning."""
    found = next(one for one in doctor("vtpm1") if one["check"] == "denials")
    assert found["verdict"] in ("fail", "warn")
    what = r"\d+ (?:that concern what runs now|of processes that have ended), the last one(?: at [-0-9 :]+)?: vtpm\w* was denied"
    assert re.match(what, found["text"])


def test_who_is_not_root_is_told_what_he_cannot_see(both):
    done = run("vtpmctl", "doctor", "vtpm1", user="lab-outsider", expect=0)
    assert "warn  denials: cannot be looked at\n        remedy: run this as root\n" in done.stdout


@pytest.mark.usefixtures("enforcing")
@pytest.mark.parametrize(("name", "label"), [("vtpm-ca", "vtpm_ca_t"), ("vtpm-identity", "vtpm_var_lib_t")])
def test_a_directory_that_was_removed_is_made_anew(name, label):
    directory, kept = Path("/var/lib", name), Path("/var/lib", f"{name}.kept")
    mode = directory.stat().st_mode
    directory.rename(kept)
    try:
        for _ in range(2):  # the second time it is there
            before = len(denials())
            run("systemd-run", "--wait", "--quiet", "systemd-tmpfiles", "--create", "vtpm.conf")
            assert denials()[before:] == []
        assert selinux_type(directory) == label
        assert directory.stat().st_mode == mode
        directory.rmdir()
    finally:
        kept.rename(directory)


@pytest.mark.usefixtures("enforcing")
def test_a_start_that_selinux_denies_says_so(configure):
    configure("denied", "")
    run("chcon", "-t", "shadow_t", "/etc/vtpm.d/denied.toml")
    systemctl("start", "denied", expect=None)
    assert show("denied", "ExecMainStatus") == "78"
    done = subprocess.run(
        ["journalctl", "-b", "-u", "vtpm@denied.service", "-o", "cat"], capture_output=True, text=True, check=True
    )
    assert "permission denied by SELinux? try: ausearch -m avc -ts recent -c vtpmd" in done.stdout
    assert "vtpmd" in run("ausearch", "--input-logs", "-m", "avc", "-ts", "recent", "-c", "vtpmd").stdout
