"""vtpm@.socket under a real systemd: started by the first client, TCP inside of the sandbox, and who may connect."""

import grp
import os
import pwd
import shutil
import socket
import stat

import pytest
from device_clients import wait_for
from services import run, show, systemctl
from tpm_commands import GET_RANDOM, result_of

pytestmark = pytest.mark.needs("systemd", "root", "accounts")


def socket_unit(verb, name):
    return run("systemctl", verb, f"vtpm@{name}.socket")


@pytest.fixture
def drop_in():
    """Writes drop-ins for socket units, which are gone after the test."""
    made = []

    def write(unit, text):
        directory = f"/run/systemd/system/{unit}.d"
        os.makedirs(directory)
        made.append((unit, directory))
        with open(f"{directory}/lab.conf", "w", encoding="ascii") as file:
            file.write(text)
        run("systemctl", "daemon-reload")

    yield write
    for unit, directory in made:
        run("systemctl", "stop", unit, expect=None)
        shutil.rmtree(directory)
    run("systemctl", "daemon-reload")


def test_the_first_client_starts_the_service(configure):
    configure("lazy", '[tpm]\nstartup = "clear"\n[device]\nenabled = false\n')
    socket_unit("start", "lazy")
    try:
        assert show("lazy", "ActiveState") == "inactive"
        found = os.stat("/run/vtpm/lazy.sock")
        assert (pwd.getpwuid(found.st_uid).pw_name, grp.getgrgid(found.st_gid).gr_name) == ("vtpm", "vtpm-admin")
        assert stat.S_IMODE(found.st_mode) == 0o660
        assert "0x1ffff" in run("swtpm_ioctl", "--unix", "/run/vtpm/lazy.sock", "-c", user="lab-operator").stdout
        assert show("lazy", "ActiveState") == "active"
        refused = run("swtpm_ioctl", "--unix", "/run/vtpm/lazy.sock", "-c", user="lab-member", expect=None)
        assert "Permission denied" in refused.stderr
        # the service's own socket is there too
        run("swtpm_ioctl", "--unix", "/run/vtpm/lazy/ctrl.sock", "-c")
        systemctl("restart", "lazy")
        run("swtpm_ioctl", "--unix", "/run/vtpm/lazy.sock", "-c")
    finally:
        socket_unit("stop", "lazy")
        systemctl("stop", "lazy")
    assert not os.path.exists("/run/vtpm/lazy.sock")


def socket_state(name, prop="ActiveState"):
    return run("systemctl", "show", "-P", prop, name).stdout.strip()


def is_cut_off(client):
    try:
        return client.recv(100) == b""
    except ConnectionError:
        return True


def test_a_start_that_fails_for_good_ends_the_sockets(configure, drop_in):
    """The device's name is a directory in /dev.

    Clients get an error, and the journal says why, under either unit's name.
    """
    configure("lost", '[tpm]\nstartup = "clear"\n[device]\nname = "lost-and-found"\n')
    with open("/run/systemd/system/lost-data.socket", "w", encoding="ascii") as file:
        file.write("[Socket]\nListenStream=/run/lost-data.sock\nFileDescriptorName=data\nService=vtpm@lost.service\n")
    run("systemctl", "daemon-reload")
    os.mkdir("/dev/lost-and-found")
    sockets = ("vtpm@lost.socket", "lost-data.socket")
    try:
        run("systemctl", "start", *sockets)
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(60)
            client.connect("/run/lost-data.sock")
            client.sendall(GET_RANDOM)
            assert is_cut_off(client)
        wait_for(lambda: all(socket_state(name) == "inactive" for name in sockets), "the end of the sockets")
        with socket.socket(socket.AF_UNIX) as client, pytest.raises((FileNotFoundError, ConnectionRefusedError)):
            client.connect("/run/vtpm/lost.sock")
        wait_for(lambda: show("lost", "ActiveState") == "failed", "the end of the service")
        assert show("lost", "ExecMainStatus") == "73"
        run("journalctl", "--sync")
        for name in sockets:
            assert (
                f"{name} ends: vtpm@lost.service has failed for good"
                in run("systemctl", "status", name, expect=3).stdout
            )
        starts = run("journalctl", "-b", "-o", "cat", "-u", "vtpm@lost.service").stdout.count("Starting ")
        assert starts < 5
        os.rmdir("/dev/lost-and-found")
        run("systemctl", "reset-failed", "vtpm@lost.service")
        run("systemctl", "start", *sockets)
        assert "0x1ffff" in run("swtpm_ioctl", "--unix", "/run/vtpm/lost.sock", "-c", user="lab-operator").stdout
    finally:
        run("systemctl", "stop", *sockets, "vtpm@lost.service")
        os.unlink("/run/systemd/system/lost-data.socket")
        if os.path.isdir("/dev/lost-and-found"):
            os.rmdir("/dev/lost-and-found")


def test_tcp_without_a_hole_in_the_sandbox(configure, drop_in):
    """The unit has no network and may make no TCP socket; systemd makes it, outside."""
    configure("tcp", '[tpm]\nstartup = "clear"\n')
    drop_in("vtpm@tcp.socket", "[Socket]\nListenStream=127.0.0.1:2632\n")
    with open("/run/systemd/system/vtpm-data@.socket", "w", encoding="ascii") as file:
        file.write("[Socket]\nListenStream=127.0.0.1:2631\nFileDescriptorName=data\nService=vtpm@%i.service\n")
    run("systemctl", "daemon-reload")
    try:
        run("systemctl", "start", "vtpm@tcp.socket", "vtpm-data@tcp.socket")
        environment = dict(os.environ, TPM2TOOLS_TCTI="swtpm:host=127.0.0.1,port=2631")
        assert len(bytes.fromhex(run("tpm2_getrandom", "--hex", "8", user="lab-outsider", env=environment).stdout)) == 8
        run("swtpm_ioctl", "--tcp", "127.0.0.1:2632", "-l", "0")
        assert show("tcp", "PrivateNetwork") == "yes"
        with socket.create_connection(("127.0.0.1", 2631), timeout=20) as client:
            client.sendall(GET_RANDOM)
            assert result_of(client.recv(100)) == 0
        saved = run("swtpm_ioctl", "--tcp", "127.0.0.1:2632", "--save", "permanent", "/tmp/tcp.permanent", expect=None)
        assert saved.returncode != 0, "who comes by TCP is nobody, and gets no secrets"
    finally:
        run("systemctl", "stop", "vtpm-data@tcp.socket", "vtpm@tcp.socket", "vtpm@tcp.service")
        os.unlink("/run/systemd/system/vtpm-data@.socket")
