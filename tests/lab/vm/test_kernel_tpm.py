"""[vtpm-proxy] under a real systemd and udev: the host's own /dev/tpmN, for a machine without a TPM chip."""

import errno
import json
import os
import signal
import stat

import pytest
from device_clients import Client, wait_for
from services import journal, run, show, systemctl
from tpm_commands import GET_RANDOM, PCR_EXTEND_16, PCR_READ_16, TPM12_GET_MANUFACTURER

pytestmark = pytest.mark.needs("systemd", "root", "accounts", "vtpm-proxy")

CONFIGURATION = "[device]\nenabled = false\n[vtpm-proxy]\nenabled = true\n"


def kernel_tpm(name):
    """The path that `vtpmctl status` tells."""
    return json.loads(run("vtpmctl", "--json", "status", name).stdout)["daemon"]["kernel_tpm"]


def ask_tpm2(tool, *words, device):
    return run(tool, *words, env=dict(os.environ, TPM2TOOLS_TCTI=f"device:{device}"))


def start():
    """The kernel gives a self-test two seconds; an emulated machine under load may need another try of systemd's."""
    systemctl("start", "host", expect=None)
    wait_for(lambda: show("host", "ActiveState") == "active", "vtpm@host", timeout_s=180)


def are_gone(*paths):
    wait_for(lambda: not any(os.path.exists(path) for path in paths), f"the end of {paths}")


def test_the_host_gets_a_tpm_2_and_its_resource_manager(configure):
    configure("host", CONFIGURATION)
    start()
    path = kernel_tpm("host")
    manager = path.replace("tpm", "tpmrm")
    for node in (path, manager):
        assert stat.S_ISCHR(os.stat(node).st_mode), "ready means usable"
    assert os.path.realpath("/dev/tpm-by-instance/host") == path
    assert os.path.realpath("/dev/tpmrm-by-instance/host") == manager
    properties = run("udevadm", "info", "--query=property", f"--name={path}").stdout.splitlines()
    assert "VTPM_INSTANCE=host" in properties
    assert f"TPM 2.0 at {path}, running" in show("host", "StatusText")
    assert any(f"ready: TPM 2.0 at {path}" in entry["MESSAGE"] for entry in journal("host"))
    assert len(bytes.fromhex(ask_tpm2("tpm2_getrandom", "--hex", "8", device=path).stdout)) == 8
    for number in range(5):  # more objects than a TPM holds: the kernel's resource manager swaps them
        ask_tpm2("tpm2_createprimary", "-Q", "-C", "o", "-G", "ecc", "-c", f"/tmp/host{number}", device=manager)
    # sysfs, which IMA and others read
    with open(f"/sys/class/tpm/{os.path.basename(path)}/tpm_version_major", encoding="ascii") as file:
        assert file.read() == "2\n"
    with open(f"/sys/class/tpm/{os.path.basename(path)}/pcr-sha256/0", encoding="ascii") as file:
        assert len(bytes.fromhex(file.read())) == 32
    # a client that looks for the host's TPM by itself
    assert manager in run("systemd-cryptenroll", "--tpm2-device=list").stdout
    sealed = run(
        "systemd-creds", "encrypt", "--with-key=tpm2", "--name=lab", "-", "-", input="a secret of the lab"
    ).stdout
    assert run("systemd-creds", "decrypt", "--name=lab", "-", "-", input=sealed).stdout == "a secret of the lab"
    systemctl("stop", "host")
    are_gone(path, manager, "/dev/tpm-by-instance/host", "/run/vtpm/host")
    assert show("host", "NFileDescriptorStore") == "0"


def test_it_stays_over_a_restart_and_comes_back_after_a_stop(configure):
    configure("host", CONFIGURATION)
    start()
    path = kernel_tpm("host")
    client = Client(path)
    client(PCR_EXTEND_16)
    extended = client(PCR_READ_16)[-32:]
    for _ in range(3):
        systemctl("restart", "host")
        assert kernel_tpm("host") == path
        assert client(PCR_READ_16)[-32:] == extended, "an open file goes on"
    client.close()
    for _ in range(3):  # a second start does not hang
        systemctl("stop", "host")
        are_gone(path)
        start()
        path = kernel_tpm("host")
        assert len(Client(path)(GET_RANDOM)) == 20


def test_a_killed_daemon_takes_nothing_with_it(configure):
    configure("host", CONFIGURATION + '[tpm]\nstartup = "clear"\n')
    start()
    path = kernel_tpm("host")
    client = Client(path)
    for _ in range(2):
        pid = int(show("host", "MainPID"))
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda pid=pid: show("host", "MainPID") not in ("0", str(pid)), "the successor")
        # What the dead process had taken is answered by its successor. The driver itself waits for a command like this
        # one for two seconds, and a start takes longer than that in an emulated machine: then its client gets ETIME.
        outcomes = []

        def is_answered(outcomes=outcomes):
            try:
                outcomes.append(len(client(GET_RANDOM)))
            except OSError as error:
                outcomes.append(error.errno)
            return outcomes[-1] == 20

        wait_for(is_answered, "an answer of the successor")
        assert set(outcomes) <= {10, 20, errno.ETIME}, outcomes
        assert kernel_tpm("host") == path
    client.close()


def test_a_tpm_1_2_beside_a_device(configure):
    configure("host", '[tpm]\nversion = "1.2"\n[vtpm-proxy]\nenabled = true\n')
    start()
    path = kernel_tpm("host")
    # the kernel has started the TPM, so the device, which is the same TPM, is started too
    for place in (path, "/dev/host"):
        assert Client(place)(TPM12_GET_MANUFACTURER)[-4:] == b"IBM\0"
    assert os.path.realpath("/dev/tpm-by-instance/host") == path
    assert not os.path.exists("/dev/tpmrm-by-instance/host")


def test_to_give_it_up_takes_a_restart(configure):
    configure("host", CONFIGURATION)
    start()
    path = kernel_tpm("host")
    with open("/etc/vtpm.d/host.toml", "w", encoding="ascii") as file:
        file.write('[tpm]\nstartup = "clear"\n')
    systemctl("restart", "host")
    are_gone(path)
    assert len(Client("/dev/host")(GET_RANDOM)) == 20
    assert not os.path.exists("/run/vtpm/.kernel-tpm/host")


def test_without_the_module_the_error_says_so(configure):
    with open("/etc/modprobe.d/none.conf", "w", encoding="ascii") as file:
        file.write("install tpm_vtpm_proxy /bin/false\n")
    run("rmmod", "tpm_vtpm_proxy", expect=None)
    configure("host", CONFIGURATION)
    try:
        systemctl("start", "host", expect=None)
        assert show("host", "ExecMainStatus") == "69"
        assert show("host", "NRestarts") == "0"
        entry = next(entry for entry in journal("host") if entry.get("VTPM_ERROR") == "kernel-tpm-unavailable")
        assert "/dev/vtpmx: No such file or directory; remedy: modprobe tpm_vtpm_proxy" in entry["MESSAGE"]
    finally:
        os.unlink("/etc/modprobe.d/none.conf")
