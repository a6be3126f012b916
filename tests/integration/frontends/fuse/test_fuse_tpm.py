"""The FUSE front end on a real mount: the TPM as a file, the facts beside it, and real clients."""

import errno
import json
import os
import select
import signal
import subprocess
import threading
import time
from contextlib import suppress

import pytest
from fuse_clients import CONTROL_GROUP, DEVICE_GROUP, SYSTEM_PYTHON, exchange, fact, opened, raises, wait_for
from qemu_passthrough import firmware
from tpm_commands import (
    CREATE_CHILD,
    CREATE_PARENT,
    CREATE_RSA,
    GET_RANDOM,
    PCR_EXTEND_16,
    PCR_READ_16,
    PCR_READ_17,
    TPM12_PCR_EXTEND_10,
    TPM12_PCR_READ_10,
    create_rsa,
    result_of,
)

from swtpm_svc.frontends.opener import MAX_OPENERS_OF_ONE
from swtpm_svc.wire import ptm, ptm_socket

pytestmark = pytest.mark.needs("fuse", "pyfuse3", "root", "fusermount3")


# --- the TPM
# -------------------------------------------------------------------------------------------------------------


def test_a_command_and_its_response(either):
    with opened(either) as fd:
        assert exchange(fd, GET_RANDOM)[:12].hex() == "800100000014000000000008"
        assert os.read(fd, 4096) == b""  # as the kernel's tpm device: nothing is left


def test_a_response_may_be_read_in_pieces(either):
    with opened(either) as fd:
        whole = exchange(fd, PCR_READ_16)
        os.write(fd, PCR_READ_16)
        assert os.read(fd, 10) + os.read(fd, 1) + os.read(fd, 4096) == whole
        assert os.read(fd, 4096) == b""


def test_a_write_before_the_response_was_read_is_busy(service):
    with opened(service) as fd:
        os.write(fd, GET_RANDOM)
        with raises(errno.EBUSY):
            os.write(fd, GET_RANDOM)
        assert len(os.read(fd, 4096)) == 20
        assert len(exchange(fd, GET_RANDOM)) == 20


def test_a_command_after_a_piece_of_the_response_was_read_is_the_next_one(service):
    with opened(service) as fd:
        os.write(fd, GET_RANDOM)
        os.read(fd, 4)
        response = exchange(fd, PCR_READ_16)
        assert len(response) == int.from_bytes(response[2:6], "big") > 32


def test_each_opener_has_its_own_response(service):
    with opened(service) as one, opened(service) as two:
        os.write(one, GET_RANDOM)
        os.write(two, PCR_READ_16)
        assert len(os.read(one, 4096)) == 20
        assert len(os.read(two, 4096)) > 32
        assert json.loads(fact(service, "status"))["fuse"] == {"path": service.directory, "openers": 2}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (GET_RANDOM[:9], errno.EINVAL),
        (GET_RANDOM[:-1], errno.EINVAL),
        (bytes(4097), errno.E2BIG),
        (bytes(3 << 20), errno.E2BIG),
        (bytes.fromhex("8001ffffffff0000017b0008"), errno.EINVAL),
    ],
    ids=["no header", "cut off", "oversize", "three megabytes", "huge length"],
)
def test_malformed_writes_are_errors_of_that_write_alone(service, data, expected):
    with opened(service) as fd:
        with raises(expected):
            os.write(fd, data)
        assert len(exchange(fd, GET_RANDOM)) == 20


def test_a_tpm_without_power_answers_as_the_device_does(start):
    service = start(power=False)
    with opened(service) as fd:
        assert exchange(fd, GET_RANDOM).hex() == "80010000000a00000101"
    assert sorted(os.listdir(service.directory)) == ["control", "status", "tpm", "tpm_version_major"]


def test_who_waits_for_a_key_gets_it_and_others_are_not_kept(either):
    """A write() that waited would keep other writers waiting, in the kernel."""
    with opened(either) as one, opened(either, flags=os.O_RDWR | os.O_NONBLOCK) as two, opened(either) as three:
        begin = time.monotonic()
        os.write(one, create_rsa(7, bits=3072))
        os.write(two, GET_RANDOM)
        os.write(three, GET_RANDOM)
        written = time.monotonic()
        assert fact(either, "tpm_version_major") == "2\n"
        with raises(errno.EBUSY):
            os.write(one, GET_RANDOM)
        looked = time.monotonic()
        assert result_of(os.read(one, 4096)) == 0
        took = time.monotonic() - begin
        assert len(os.read(three, 4096)) == 20
        wait_for(lambda: select.select([two], [], [], 1)[0])
        assert len(os.read(two, 4096)) == 20
        assert max(written, looked) - begin < took


def test_poll_and_reads_that_do_not_wait(service):
    """pyfuse3 >= 3.5."""
    with opened(service, flags=os.O_RDWR | os.O_NONBLOCK) as fd:
        poll = select.poll()
        poll.register(fd, select.POLLIN | select.POLLOUT)
        assert poll.poll(0) == [(fd, select.POLLOUT)]
        os.write(fd, create_rsa(3, bits=3072))
        assert poll.poll(0) == []
        with raises(errno.EAGAIN):
            os.read(fd, 4096)
        with raises(errno.EBUSY):
            os.write(fd, GET_RANDOM)
        assert poll.poll(60000) == [(fd, select.POLLIN)]  # it is woken
        assert result_of(os.read(fd, 4096)) == 0
        assert poll.poll(0) == [(fd, select.POLLOUT)]


def test_epoll_wakes_who_waits(service):
    with opened(service) as fd, select.epoll() as epoll:
        epoll.register(fd, select.EPOLLIN)
        timer = threading.Timer(0.2, lambda: os.write(fd, CREATE_RSA))
        timer.start()
        assert epoll.poll(60) == [(fd, select.EPOLLIN)]
        timer.join()
        assert result_of(os.read(fd, 4096)) == 0


def test_without_poll_a_read_waits_even_with_o_nonblock(start):
    """pyfuse3 < 3.5: the kernel calls every file ready, and a client that believes it must not get EAGAIN or
    nothing."""
    probe = subprocess.run(
        [SYSTEM_PYTHON, "-c", "import pyfuse3; print(hasattr(pyfuse3.Operations, 'poll'))"], capture_output=True
    )
    if probe.stdout != b"False\n":
        pytest.skip("unobtainable: the distribution has a newer pyfuse3, with poll()")
    with opened(start(python=SYSTEM_PYTHON), flags=os.O_RDWR | os.O_NONBLOCK) as fd:
        os.write(fd, CREATE_RSA)
        assert select.select([fd], [], [], 0)[0] == [fd]
        assert result_of(os.read(fd, 4096)) == 0


def test_only_one_reader_of_a_file_waits(service):
    with opened(service) as fd:
        os.write(fd, create_rsa(11, bits=3072))
        results = []
        thread = threading.Thread(target=lambda: results.append(os.read(fd, 4096)))
        thread.start()
        time.sleep(0.05)
        with suppress(OSError):  # the key may be there already
            os.read(fd, 1)
        thread.join(60)
        assert result_of(results[0]) == 0


def test_a_user_has_a_share_of_what_may_be_open(start):
    """Who may only look at facts keeps nobody from the TPM, nor does one user another, or all of them root."""
    service = start(owner=0, group=DEVICE_GROUP, mode=0o666, control_group=CONTROL_GROUP)

    def use_up(name, count, uid=0):
        """Hold as much open as may be, in a process of that user."""
        flags = os.O_RDWR if name != "status" else os.O_RDONLY
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.setgroups([DEVICE_GROUP, CONTROL_GROUP])
            os.setuid(uid)
            found = 0
            with suppress(OSError):
                while found < 2 * count:
                    os.open(service.path(name), flags)
                    found += 1
            os.write(writer, str(found).encode())
            signal.pause()
        os.close(writer)
        children.append(child)
        found = int(os.read(reader, 8))
        os.close(reader)
        return found

    children = []
    for name, share, users in (("status", 64, 3), ("control", 64, 3), ("tpm", MAX_OPENERS_OF_ONE, 3)):
        found = [use_up(name, share, 65400 + user) for user in range(users)]
        assert found == [share] * users, name
        assert use_up(name, share, 65500) == 0
        assert use_up(name, share) == share
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

    def all_closed():  # close() does not wait for the service to hear of it
        with suppress(OSError):
            return json.loads(fact(service, "status"))["fuse"]["openers"] == 0

    wait_for(all_closed)
    with opened(service) as fd:
        assert len(exchange(fd, GET_RANDOM)) == 20


def test_what_waits_for_a_file_that_is_closed_is_forgotten(service):
    with opened(service) as running:
        assert result_of(exchange(running, CREATE_PARENT)) == 0
        os.write(running, CREATE_CHILD)
        for _ in range(3000):
            with opened(service) as fd:
                os.write(fd, CREATE_CHILD)
        begin = time.monotonic()
        with opened(service) as fd:
            assert len(exchange(fd, GET_RANDOM)) == 20
        assert time.monotonic() - begin < 20  # a key or two, not three thousand
        with open(f"/proc/{service.process.pid}/status", encoding="ascii") as file:
            used = next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))
        assert used < 120_000
        assert result_of(os.read(running, 4096)) == 0


def test_close_while_the_command_runs(service):
    with opened(service) as fd:
        os.write(fd, CREATE_RSA)
    with opened(service) as fd:
        assert len(exchange(fd, GET_RANDOM)) == 20
    wait_for(lambda: json.loads(fact(service, "status"))["fuse"]["openers"] == 0)


def test_a_shell_can_write_a_command(service, tmp_path):
    """Its redirection truncates, which a device does not mind."""
    (tmp_path / "command").write_bytes(GET_RANDOM)
    subprocess.run(["bash", "-c", f"cat {tmp_path}/command > {service.path('tpm')}"], check=True)
    assert json.loads(fact(service, "status"))["commands"] == 1


# --- facts
# ---------------------------------------------------------------------------------------------------------------


def test_facts_of_a_tpm_2(either):
    assert fact(either, "tpm_version_major") == "2\n"
    with opened(either) as fd:
        exchange(fd, PCR_EXTEND_16)
        digest = exchange(fd, PCR_READ_16)[-32:]
    assert any(digest)
    assert fact(either, "pcr-sha256", "16") == digest.hex().upper() + "\n"
    assert fact(either, "pcr-sha1", "0") == "00" * 20 + "\n"
    assert fact(either, "pcr-sha512", "17") == "FF" * 64 + "\n"
    assert sorted(os.listdir(either.path("pcr-sha384")), key=int) == [str(index) for index in range(24)]
    status = fact(either, "status")
    assert json.loads(status)["version"] == "2.0"
    assert status.endswith("}\n")
    with opened(either, "status", os.O_RDONLY) as fd:
        assert os.pread(fd, 5, 3) == status[3:8].encode()


def test_facts_of_a_tpm_1_2(start):
    service = start(version="1.2")
    with opened(service) as fd:
        extended = exchange(fd, TPM12_PCR_EXTEND_10)[-20:]
        assert exchange(fd, TPM12_PCR_READ_10)[-20:] == extended
    assert fact(service, "tpm_version_major") == "1\n"
    assert fact(service, "pcr-sha1", "10") == extended.hex().upper() + "\n"
    assert [name for name in os.listdir(service.directory) if name.startswith("pcr")] == ["pcr-sha1"]


def test_a_tpm_that_was_not_started_has_no_pcrs_to_show(start):
    service = start(startup=None)
    assert not os.path.exists(service.path("pcr-sha256"))
    with opened(service) as fd:
        assert result_of(exchange(fd, PCR_READ_16)) == 0x100  # TPM_RC_INITIALIZE: nobody has started it meanwhile


def test_a_pcr_is_an_error_when_the_power_is_gone(service):
    with opened(service, "pcr-sha256", os.O_RDONLY | os.O_DIRECTORY) as bank, opened(service, "control") as control:
        assert exchange(control, ptm_socket.pack(ptm.Stop())) == bytes(4)
        with raises(errno.EIO):
            os.open("0", os.O_RDONLY, dir_fd=bank)
    assert [told for told in service.heard() if told[0] == "failed"] == [], "it is not a fault of the service"


def test_a_pcr_is_read_after_the_long_command(service):
    with opened(service) as fd:
        os.write(fd, create_rsa(5, bits=3072))
        begin = time.monotonic()
        assert fact(service, "pcr-sha256", "0") == "00" * 32 + "\n"
        waited = time.monotonic() - begin
        assert os.read(fd, 4096)
        assert time.monotonic() - begin - waited < max(waited, 0.05)  # the key was there first


def test_reading_pcrs_disturbs_no_client(service):
    with opened(service) as fd:
        os.write(fd, PCR_READ_17)
        fact(service, "pcr-sha256", "1")
        assert os.read(fd, 4096)[-32:] == b"\xff" * 32
    assert json.loads(fact(service, "status"))["commands"] == 1


def test_nothing_is_made_removed_or_written_here(service):
    for name in ("status", "pcr-sha256/0"):
        with raises(errno.EACCES):
            os.open(service.path(name), os.O_RDWR)
    for change in (
        lambda: os.open(service.path("new"), os.O_WRONLY | os.O_CREAT),
        lambda: os.mkdir(service.path("new")),
        lambda: os.unlink(service.path("tpm")),
        lambda: os.rename(service.path("tpm"), service.path("other")),
        lambda: os.chmod(service.path("tpm"), 0o777),
        lambda: os.chown(service.path("control"), 1, 1),
        lambda: os.truncate(service.path("status"), 0),
    ):
        with raises(errno.EPERM):
            change()
    assert os.statvfs(service.directory).f_namemax == 255


# --- real clients
# --------------------------------------------------------------------------------------------------------


@pytest.mark.needs("tpm2-tools")
def test_tpm2_tools_through_the_device_tcti(either, tmp_path):
    environment = dict(os.environ, TPM2TOOLS_TCTI=f"device:{either.path('tpm')}")

    def run(*words):
        result = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        return result.stdout

    assert len(run("tpm2_getrandom", "--hex", "16")) == 32
    run("tpm2_createprimary", "-C", "o", "-G", "rsa", "-c", "key.ctx")  # takes its time
    run("tpm2_pcrextend", "23:sha256=" + "ab" * 32)
    shown = run("tpm2_pcrread", "sha256:23").split("0x")[1].strip()
    assert fact(either, "pcr-sha256", "23") == shown + "\n"


@pytest.mark.needs("qemu")
def test_qemu_passes_the_file_through_to_a_guest(start, python):
    """Its firmware starts the TPM, and measures itself into PCR 0."""
    service = start(python=python, startup=None)
    pcr = service.path("pcr-sha256", "0")
    with firmware(service.path("tpm")) as process:
        deadline = time.monotonic() + 60
        while not os.path.exists(pcr) or fact(service, "pcr-sha256", "0") == "00" * 32 + "\n":
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline, "the firmware did not measure anything"
            time.sleep(0.2)
