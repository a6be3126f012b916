"""A daemon behind a real /dev/cuse: the node, its clients by the kernel, and independent tools."""

import errno
import fcntl
import grp
import os
import pwd
import select
import signal
import stat
import struct
import subprocess
import threading
import time

import pytest
from device_clients import Client, wait_for
from manager import run
from reading_users import PROGRAM as SAYS_WHO_READS
from tcsd import Tcsd, take_ownership
from tpm_commands import (
    CREATE_RSA,
    GET_RANDOM,
    PCR_EXTEND_16,
    PCR_READ_16,
    PCR_READ_17,
    TPM12_GET_MANUFACTURER,
    create_rsa,
    flush_context,
)

pytestmark = pytest.mark.needs("cuse", "root", "udev", "accounts", "binding")

h = bytes.fromhex


def test_the_node_has_its_owner_and_mode_when_ready(tpm2):
    found = os.stat(tpm2.device)
    assert stat.S_ISCHR(found.st_mode)
    assert (found.st_uid, grp.getgrgid(found.st_gid).gr_name, stat.S_IMODE(found.st_mode)) == (0, "vtpm", 0o660)
    assert tpm2.messages[-1]["STATUS"] == "TPM 2.0 at /dev/vtpm0, running"


def test_the_configuration_decides_about_owner_group_mode_and_number(instance):
    one = instance(
        "tpm-for-lab",
        extra='[device]\nowner = "lab-member"\ngroup = "lab-operator"\nmode = "0640"\nmajor = 240\nminor = 7\n',
    )
    one.start()
    found = os.stat("/dev/tpm-for-lab")
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (9001, 9002, 0o640)
    assert (os.major(found.st_rdev), os.minor(found.st_rdev)) == (240, 7)


@pytest.mark.parametrize("name", ["3f1c1c5e-6a0b-4a57-9c22-7d8a41f0a8d3", "n" * 87])
def test_a_machine_s_uuid_and_the_longest_name(instance, name):
    one = instance(name)
    one.start()
    client = Client(one.device)
    assert len(client(GET_RANDOM)) == 20
    assert stat.S_ISSOCK(os.stat(f"{one.runtime}/ctrl.sock").st_mode)
    one.restart()
    assert len(client(GET_RANDOM)) == 20, "the successor goes on with the device of this name"
    assert one.status()["restarts"] == 1
    client.close()


@pytest.mark.parametrize("group", ["CORP\\domain users", "équipe", "svc$", "1000660000"])
def test_accounts_of_a_directory_and_of_a_container_get_the_device(instance, group):
    """Names that no `groupadd` takes, and numbers of ten digits. None is a system account, which udev 258 wants."""
    number = 1000660000
    with open("/etc/group", "a", encoding="utf-8") as file:
        file.write(f"{group}:x:{number}:\n" if group != str(number) else "")
    one = instance(extra=f"[device]\nowner = '{number}'\ngroup = '{group}'\nmode = '0640'\n")
    one.start()
    found = os.stat(one.device)
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (number, number, 0o640)
    subprocess.run(["udevadm", "trigger", "--settle", "--action=change", one.device], check=True)
    found = os.stat(one.device)
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (number, number, 0o640), (
        "a later event changes nothing"
    )


def test_without_udev_the_daemon_finishes_the_node(instance):
    subprocess.run(["udevadm", "control", "--exit"], check=True)
    wait_for(
        lambda: subprocess.run(["pidof", "systemd-udevd"], capture_output=True, check=False).returncode, "udevd to end"
    )
    os.unlink("/run/udev/control")  # as in a container, which never had one
    try:
        one = instance(extra='[device]\nmode = "0600"\n')
        one.program = ["-c", SAYS_WHO_READS]
        one.start()
        assert f"state is read as {pwd.getpwnam('vtpm').pw_uid}\n" in one.log()
        found = os.stat(one.device)
        assert stat.S_IMODE(found.st_mode) == 0o600
        assert "0" not in credentials(one.pid)["Uid"]  # root's rights are gone for good
    finally:
        subprocess.run(["/lib/systemd/systemd-udevd", "--daemon"], check=True)
        wait_for(lambda: os.path.exists("/run/udev/control"), "udevd")


def credentials(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return {name: value.split() for name, _, value in (line.partition(":") for line in file)}


def test_the_daemon_runs_as_vtpm(tpm2):
    account = pwd.getpwnam("vtpm")
    lines = credentials(tpm2.pid)
    assert lines["Uid"] == [str(account.pw_uid)] * 4
    assert lines["Gid"] == [str(account.pw_gid)] * 4
    assert {grp.getgrgid(int(gid)).gr_name for gid in lines["Groups"]} <= {"vtpm", "vtpm-admin"}
    assert lines["CapEff"] == lines["CapPrm"] == ["0000000000000000"]


def test_commands_partial_reads_and_busy(tpm2):
    client = Client(tpm2.device)
    assert len(client(GET_RANDOM)) == 20
    os.write(client.fd, GET_RANDOM)
    with pytest.raises(OSError, match="busy") as caught:
        os.write(client.fd, GET_RANDOM)
    assert caught.value.errno == errno.EBUSY
    assert len(os.read(client.fd, 10)) == 10
    assert len(os.read(client.fd, 4096)) == 10
    assert os.read(client.fd, 4096) == b""
    client.close()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\0" * 9, errno.EINVAL),
        (GET_RANDOM[:-1], errno.EINVAL),
        (bytes(4097), errno.E2BIG),
        (bytes(200000), errno.E2BIG),
    ],
)
def test_malformed_writes(tpm2, data, expected):
    client = Client(tpm2.device)
    with pytest.raises(OSError, match=r".") as caught:
        os.write(client.fd, data)
    assert caught.value.errno == expected
    assert len(client(GET_RANDOM)) == 20
    client.close()


def test_poll_and_nonblocking(tpm2):
    client = Client(tpm2.device, os.O_NONBLOCK)
    poll = select.poll()
    poll.register(client.fd, select.POLLIN | select.POLLOUT)
    assert poll.poll(0) == [(client.fd, select.POLLOUT)]
    os.write(client.fd, CREATE_RSA)
    with pytest.raises(BlockingIOError):
        os.read(client.fd, 4096)
    poll.modify(client.fd, select.POLLIN)
    assert poll.poll(30000) == [(client.fd, select.POLLIN)]
    assert os.read(client.fd, 4096)[6:10] == bytes(4)
    client.close()


def test_a_signal_ends_a_waiting_read_and_cancels_a_blocking_command(tpm2):
    # what the signal interrupts is decided by who waits: a reader of the same open file, or the writer
    client = Client(tpm2.device)
    for number in range(20):
        os.set_blocking(client.fd, False)
        os.write(client.fd, create_rsa(number, bits=3072))
        os.set_blocking(client.fd, True)
        interrupted(lambda: os.read(client.fd, 4096), after_s=0.005)
        wait_for(lambda: select.select([client.fd], [client.fd], [], 0)[:2] != ([], []), "the key")
        if select.select([client.fd], [], [], 0)[0]:
            break  # the signal ended the read, and the response is there still
        for handle in ("80000000", "80000001", "80000002"):  # the read had its response before the signal came
            client(flush_context(h(handle)))
    response = os.read(client.fd, 4096)
    assert response[6:10] == bytes(4)
    client(flush_context(response[10:14]))
    client.close()

    results = set()
    for number in range(200):  # libtpms looks only between a key's primes, which may be found before the signal is seen
        client = Client(tpm2.device)
        command = create_rsa(number, bits=3072)
        interrupted(lambda client=client, command=command: os.write(client.fd, command), after_s=0.005)
        response = os.read(client.fd, 4096)
        results.add(response[6:10])
        if response[6:10] == bytes(4):
            client(flush_context(response[10:14]))
        client.close()
        if h("00000909") in results:
            break
    assert results <= {h("00000909"), bytes(4)}
    assert h("00000909") in results  # TPM_RC_CANCELED


def interrupted(call, after_s):
    """Run `call` with a signal on its way, whose handler raises."""

    class Alarm(Exception):
        pass

    def handler(_number, _frame):
        raise Alarm

    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, after_s)
    try:
        call()
    except Alarm:
        return "interrupted"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    return "done"


def test_many_openers_at_the_same_time_each_get_their_own_answer(tpm2):
    wrong = []

    def work(size):
        client = Client(tpm2.device)
        command = h("80010000000c0000017b") + size.to_bytes(2, "big")
        for _ in range(40):
            response = client(command)
            if len(response) != 12 + size:
                wrong.append((size, response))
        client.close()

    threads = [threading.Thread(target=work, args=(size,)) for size in range(1, 17)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    wait_for(lambda: tpm2.status()["opener_count"] == 0, "all openers to be gone")
    assert tpm2.status()["commands"] >= 640


def test_who_may_open_and_who_may_control(tpm2):
    tools = {"env": dict(os.environ, TPM2TOOLS_TCTI=f"device:{tpm2.device}")}
    assert run("tpm2_getrandom", "--hex", "8", user="lab-outsider", **tools).returncode != 0
    member = run("tpm2_getrandom", "--hex", "8", user="lab-member", **tools)
    assert member.returncode == 0, member.stderr
    assert len(bytes.fromhex(member.stdout)) == 8
    refused = run("swtpm_ioctl", "-i", tpm2.device, user="lab-member")
    assert refused.returncode != 0
    assert "Operation not permitted" in refused.stderr
    assert "INIT needs the rights of the control group" in tpm2.log()
    assert "CLIENT_UID=9001" in tpm2.log()
    assert run("swtpm_ioctl", "-l", "3", tpm2.device, user="lab-operator").returncode == 0
    assert run("swtpm_ioctl", "--save", "permanent", "/tmp/secrets", tpm2.device, user="lab-operator").returncode != 0


def test_every_operation_of_the_distributions_swtpm_ioctl(tpm2, tmp_path):
    def ioctl(*words):
        done = run("swtpm_ioctl", *words, tpm2.device)
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout + done.stderr

    client = Client(tpm2.device)
    assert "0x16fff" in ioctl("-c")
    assert "is 0" in ioctl("-e")
    ioctl("-h", "abcd")
    assert "is 1" in ioctl("-e")
    import hashlib

    pcr17 = client(PCR_READ_17)[-32:]
    assert pcr17 == hashlib.sha256(bytes(32) + hashlib.sha256(b"abcd").digest()).digest()
    ioctl("-r", "3")
    assert "is 0" in ioctl("-e")
    ioctl("-l", "4")
    assert tpm2.status()["tpm"]["locality"] == 4
    ioctl("-l", "0")
    ioctl("-C")
    ioctl("-g")
    assert "TPMSpecification" in ioctl("--info", "1")
    assert "TPMAttributes" in ioctl("--info", "2")
    client(PCR_EXTEND_16)
    extended = client(PCR_READ_16)
    ioctl("-v")
    for blob in ("permanent", "volatile"):
        ioctl("--save", blob, str(tmp_path / blob))
    ioctl("-i")
    assert client(PCR_READ_16) == extended  # resumed from the stored volatile state
    ioctl("-i")
    assert client(PCR_READ_16)[-32:] == bytes(32)  # a reset, and the Startup that the configuration names
    ioctl("--stop")
    assert client(GET_RANDOM) == h("80010000000a00000101")
    for blob in ("permanent", "volatile"):
        ioctl("--load", blob, str(tmp_path / blob))
    ioctl("-i")
    assert client(PCR_READ_16) == extended
    client.close()
    ioctl("-s")
    assert tpm2.wait() == 0
    tpm2.empty_store()
    wait_for(lambda: not os.path.exists(tpm2.device), "the node to go")


def test_swtpm_ioctl_with_a_transfer_buffer_uses_read_and_write(tpm2, tmp_path):
    client = Client(tpm2.device)
    client(PCR_EXTEND_16)
    extended = client(PCR_READ_16)
    env = dict(os.environ, SWTPM_IOCTL_BUFFERSIZE="100")
    permanent, volatile = ("permanent", str(tmp_path / "p")), ("volatile", str(tmp_path / "v"))
    for words in (
        ("-v",),
        ("--save", *permanent),
        ("--save", *volatile),
        ("--stop",),
        ("--load", *permanent),
        ("--load", *volatile),
        ("-i",),
    ):
        done = run("swtpm_ioctl", *words, tpm2.device, env=env)
        assert done.returncode == 0, (words, done.stderr)
    assert client(PCR_READ_16) == extended
    client.close()


def test_tpm_1_2(instance):
    one = instance(version="1.2").start()
    client = Client(one.device)
    capability = client(TPM12_GET_MANUFACTURER)
    assert capability[6:10] == bytes(4)
    assert capability[-4:] == b"IBM\0"
    assert "0x16fff" in run("swtpm_ioctl", "-c", one.device).stdout
    assert run("swtpm_ioctl", "-h", "abc", one.device).returncode == 0
    client.close()


@pytest.mark.needs("setpriv", "tcsd", "tpm-tools")
def test_trousers(instance, tmp_path):
    """tcsd opens /dev/tpm0 as user tss, so that is where the device is, and whose."""
    instance("tpm0", version="1.2", extra='[device]\ngroup = "tss"\n').start()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True, timeout=20)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        os.chmod(folder, 0o755)
    daemon = Tcsd(str(tmp_path), 30003)
    try:
        take_ownership(daemon)
    finally:
        daemon.close()


def test_wrong_ioctls(tpm2):
    fd = os.open(tpm2.device, os.O_RDWR)
    with pytest.raises(OSError, match=r".") as caught:
        fcntl.ioctl(fd, 0xC0045063, bytearray(4))
    assert caught.value.errno == errno.ENOTTY
    locality = bytearray(struct.pack("=I", 7))
    fcntl.ioctl(fd, 0xC0045004, locality)
    assert struct.unpack("=I", locality) == (0x3D,)  # TPM_BAD_LOCALITY
    os.close(fd)


def test_a_long_command_of_one_does_not_stop_the_questions_of_another(tpm2):
    client = Client(tpm2.device, os.O_NONBLOCK)
    os.write(client.fd, CREATE_RSA)
    begin = time.monotonic()
    assert run("swtpm_ioctl", "-c", tpm2.device).returncode == 0
    assert time.monotonic() - begin < 10
    wait_for(lambda: select.select([client.fd], [], [], 0)[0], "the key")
    client.close()
