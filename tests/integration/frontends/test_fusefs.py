"""The FUSE front end on a real mount: open files, facts, the control protocol, permissions, mounts that are in the
way."""

import errno
import json
import os
import pickle
import select
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from fuse_service import FuseService, is_mounted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
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

from swtpm_svc.errors import VtpmError
from swtpm_svc.frontends.fuse import mounts
from swtpm_svc.frontends.fuse.fuse_frontend import FuseFrontend
from swtpm_svc.frontends.opener import MAX_OPENERS_OF_ONE
from swtpm_svc.wire import ptm, ptm_socket

pytestmark = pytest.mark.needs("fuse", "pyfuse3", "root", "fusermount3")

SYSTEM_PYTHON = "/usr/bin/python3"
OPERATOR, STRANGER = 65531, 65532
NOBODY = 65534  # who has an account, as fusermount3 demands
CONTROL_GROUP, DEVICE_GROUP = 65521, 65522
SHUTDOWN = ptm_socket.pack(ptm.Shutdown())


def system_pyfuse3():
    """Has the distribution's pyfuse3 poll()? "True", "False", or "" if there is none."""
    program = "import cffi, _cffi_backend, pyfuse3; print(hasattr(pyfuse3.Operations, 'poll'))"
    return subprocess.run([SYSTEM_PYTHON, "-c", program], capture_output=True, text=True).stdout.strip()


@pytest.fixture(params=["newest", "system"])
def python(request):
    """Two interpreters: pip's pyfuse3, and the distribution's, which has no poll() on Debian 12."""
    if request.param == "newest":
        return sys.executable
    if not system_pyfuse3():
        pytest.skip("the system's Python has no pyfuse3 and cffi: apt-get install python3-pyfuse3 python3-cffi-backend")
    return SYSTEM_PYTHON


@pytest.fixture
def directory():
    """An empty one, which other users can reach."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = Path(folder, "fs")
        path.mkdir()
        yield path
        while is_mounted(path):
            subprocess.run(["umount", "-l", path], check=True)


@pytest.fixture
def start(directory):
    """Start a service; whatever happens then, its mount goes."""
    services = []

    def start(where=directory, **options):
        services.append(FuseService(where, **options))
        return services[-1]

    yield start
    for service in services:
        service.close()


@pytest.fixture
def service(start):
    return start()


@pytest.fixture
def either(start, python):
    """A service with each of the two versions of pyfuse3."""
    return start(python=python)


@contextmanager
def opened(service, name="tpm", flags=os.O_RDWR):
    fd = os.open(service.path(name), flags)
    try:
        yield fd
    finally:
        with suppress(OSError):  # close() too reports that the service is gone
            os.close(fd)


def exchange(fd, command):
    assert os.write(fd, command) == len(command)
    return os.read(fd, 4096)


def fact(service, *names):
    with open(service.path(*names), encoding="ascii") as file:
        return file.read()


def raises(number):
    return pytest.raises(OSError, check=lambda error: error.errno == number)


def as_user(uid, gid, function):
    """What `function` gives, or raises, in a child process with no other rights than these."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(gid)
            os.setuid(uid)
            result = function(), None
        except BaseException as error:
            result = None, error
        os.write(writer, pickle.dumps(result))
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        result, error = pickle.load(file)
    os.waitpid(child, 0)
    if error is not None:
        raise error
    return result


def wait_for(condition, timeout_s=20):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


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


# --- who may
# -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def shared(start):
    """Served by root; `tpm` is for one group, `control` for another."""
    return start(owner=0, group=DEVICE_GROUP, mode=0o660, control_group=CONTROL_GROUP)


def test_owners_and_modes(shared):
    def access(name):
        status = os.stat(shared.path(name))
        return oct(stat.S_IMODE(status.st_mode)), status.st_uid, status.st_gid

    assert access("tpm") == ("0o660", 0, DEVICE_GROUP)
    assert access("control") == ("0o660", 0, CONTROL_GROUP)
    assert access("status") == access("pcr-sha256/3") == ("0o444", 0, 0)
    assert access("") == access("pcr-sha256") == ("0o755", 0, 0)


def test_the_kernel_checks_the_modes(shared):
    def use():
        with opened(shared) as fd:
            return len(exchange(fd, GET_RANDOM))

    def control():
        with opened(shared, "control") as fd:
            return exchange(fd, ptm_socket.pack(ptm.GetConfig()))

    assert as_user(STRANGER, DEVICE_GROUP, use) == 20
    assert as_user(STRANGER, STRANGER, lambda: fact(shared, "pcr-sha256", "0")) == "00" * 32 + "\n"
    assert as_user(OPERATOR, CONTROL_GROUP, control) == bytes(8)
    for refused in (use, control):
        with raises(errno.EACCES):
            as_user(STRANGER, STRANGER, refused)


def test_control_operations_are_allowed_or_refused_to_who_opened(shared):
    def stop(request):
        with opened(shared, "control") as fd:
            return exchange(fd, ptm_socket.pack(request))[:4].hex()

    assert as_user(OPERATOR, CONTROL_GROUP, lambda: stop(ptm.SetLocality(2))) == "00000000"
    assert as_user(OPERATOR, CONTROL_GROUP, lambda: stop(ptm.GetStateBlob(0, 1, 0))) == "00000009"  # secrets
    shared.stop()
    told = shared.heard()
    assert ["controlled", OPERATOR, "SetLocality", 0] in told
    assert ["refused", OPERATOR, "not-permitted"] in told


def test_a_user_who_is_not_root_serves_himself(directory, start):
    """By fusermount3, which is set-user-ID root."""
    os.chown(directory, NOBODY, NOBODY)
    service = start(uid=NOBODY, owner=NOBODY, group=NOBODY)

    def use():
        with opened(service) as fd:
            return len(exchange(fd, GET_RANDOM)), fact(service, "pcr-sha1", "3")

    assert as_user(NOBODY, NOBODY, use) == (20, "00" * 20 + "\n")
    assert mounts.mounts_at(str(directory)) == [mounts.Mount(str(directory), "fuse.vtpm", "vtpm")]
    with open("/etc/fuse.conf", encoding="ascii") as file:
        shares = "user_allow_other" in file.read().splitlines()
    if not shares:
        with raises(errno.EACCES):
            as_user(OPERATOR, OPERATOR, lambda: os.listdir(directory))
    assert service.stop() == 0
    assert service.heard() == []
    assert not is_mounted(directory)


def test_who_may_not_mount_there_is_told(directory, start):
    refusal = start(uid=NOBODY).refusal  # the directory is root's
    assert refusal[0] == "mount-failed"
    assert "fusermount3" in refusal[1]
    assert refusal[2]


# --- the control protocol
# ------------------------------------------------------------------------------------------------


@pytest.fixture
def control(service):
    with opened(service, "control") as fd:
        yield fd


def ask(fd, request):
    os.write(fd, ptm_socket.pack(request))
    data = b""
    while (reply := ptm_socket.unpack(request, data)) is None:
        piece = os.read(fd, 65536)
        assert piece, f"{data.hex()} is not the whole reply"
        data += piece
    return reply


def test_control_bytes(control):
    """CMD_GET_CAPABILITY, CMD_SET_DATAFD, CMD_GET_CONFIG (swtpm/tpm_ioctl.h)."""
    assert exchange(control, bytes.fromhex("00000001")).hex() == f"00000000{ptm.Capability.DEVICE:08x}"
    assert exchange(control, bytes.fromhex("00000010")).hex() == "0000000a"  # TPM_BAD_ORDINAL
    assert exchange(control, bytes.fromhex("0000000f")).hex() == "0000000000000000"
    assert not ptm.Capability.DEVICE & ptm.Capability.SET_DATAFD
    assert os.read(control, 4096) == b""


def test_requests_byte_by_byte_and_several_at_once(control):
    for byte in ptm_socket.pack(ptm.GetConfig()):
        assert os.read(control, 100) == b""
        os.write(control, bytes([byte]))
    assert os.read(control, 3) + os.read(control, 100) == bytes(8)
    os.write(control, ptm_socket.pack(ptm.GetConfig()) * 3)
    assert os.read(control, 100) == bytes(24)


def test_many_requests_in_one_write_leave_others_their_turns(service, control):
    """8192 resets take seconds; who uses the TPM meanwhile waits for one or two of them."""
    os.write(control, ptm_socket.pack(ptm.Init(1)) * 8000)
    longest, count = 0.0, 0
    with opened(service) as fd:
        while not select.select([control], [], [], 0)[0] or count < 20:
            begin = time.monotonic()
            exchange(fd, GET_RANDOM)
            longest, count = max(longest, time.monotonic() - begin), count + 1
        with raises(errno.EBUSY):  # there is more to do, as there was all the time
            os.write(control, ptm_socket.pack(ptm.GetConfig()))
    assert longest < 0.5
    data = b""
    while len(data) < 4 * 8000:
        piece = os.read(control, 65536)
        assert piece
        data += piece
    assert not any(data)


def test_requests_of_a_control_file_that_is_closed_are_forgotten(service):
    with opened(service, "control") as control:
        os.write(control, ptm_socket.pack(ptm.Init(1)) * 8000)
    begin = time.monotonic()
    with opened(service, "control") as control:
        assert ask(control, ptm.GetConfig()) == ptm.ConfigReply(0, 0)
    service.stop()
    assert time.monotonic() - begin < 2
    assert sum(told[0] == "controlled" for told in service.heard()) < 8000


def test_each_control_file_has_its_own_decoder(service, control):
    with opened(service, "control") as other:
        os.write(control, bytes(2))
        assert exchange(other, bytes.fromhex("00000001"))[:4] == bytes(4)
        assert exchange(control, bytes.fromhex("0001"))[:4] == bytes(4)


def test_state_goes_out_and_in(service, control):
    with opened(service) as fd:
        exchange(fd, PCR_EXTEND_16)
        extended = exchange(fd, PCR_READ_16)
        blobs = {kind: ask(control, ptm.GetStateBlob(0, kind, 0)).data for kind in (1, 2)}
        assert ask(control, ptm.SetStateBlob(0, 1, blobs[1])) == ptm.Result(0x0A)  # not while it runs
        assert ask(control, ptm.Stop()) == ptm.Result(0)
        for kind, blob in blobs.items():
            assert ask(control, ptm.SetStateBlob(0, kind, blob)) == ptm.Result(0)
        assert ask(control, ptm.Init(ptm.INIT_FLAG_DELETE_VOLATILE)) == ptm.Result(0)
        assert exchange(fd, PCR_READ_16) == extended


def test_control_waits_for_the_long_command_and_cancel_does_not(service, control):
    with opened(service) as fd, opened(service, "control") as other:
        os.write(fd, create_rsa(17, bits=3072))
        os.write(control, ptm_socket.pack(ptm.GetTpmEstablished()))
        assert ask(other, ptm.GetConfig()) == ptm.ConfigReply(0, 0)
        assert ask(other, ptm.CancelTpmCommand()) == ptm.Result(0)
        assert len(os.read(control, 100)) == 8
        assert result_of(os.read(fd, 4096)) in (0, 0x909)  # TPM_RC_CANCELED


def test_a_control_file_can_be_polled(service):
    with opened(service) as fd, opened(service, "control", os.O_RDWR | os.O_NONBLOCK) as control:
        poll = select.poll()
        poll.register(control, select.POLLIN | select.POLLOUT)
        assert poll.poll(0) == [(control, select.POLLOUT)]
        os.write(fd, create_rsa(19, bits=3072))
        os.write(control, ptm_socket.pack(ptm.GetTpmEstablished()))
        with suppress(BlockingIOError):  # the key may be there already
            assert len(os.read(control, 100)) == 8
            return
        with suppress(OSError):
            os.write(control, b"more")
        assert poll.poll(60000)[0][1] & select.POLLIN
        assert len(os.read(control, 100)) == 8


def test_who_asks_for_a_shutdown_reads_that_it_was_done(service, control):
    assert ask(control, ptm.Shutdown()) == ptm.Result(0)
    assert service.process.wait(20) == 0
    assert not is_mounted(service.directory)
    with raises(errno.ENOTCONN):
        os.read(control, 100)


def test_replies_that_nobody_reads_do_not_fill_the_memory(service, control):
    """Each of these asks for some 10 KB."""
    count = 4000
    os.write(control, ptm_socket.pack(ptm.GetStateBlob(0, 2, 0)) * count)
    with raises(errno.EBUSY):
        os.write(control, ptm_socket.pack(ptm.GetConfig()))
    with open(f"/proc/{service.process.pid}/status", encoding="ascii") as file:
        used = next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))
    assert used < 120_000
    size = 0
    while piece := os.read(control, 1 << 20):
        size += len(piece)
    assert size % count == 0
    assert size > 9000 * count
    assert ask(control, ptm.GetConfig()) == ptm.ConfigReply(0, 0)


def test_an_unknown_request_is_answered_and_ends_the_conversation(service, control):
    assert exchange(control, bytes.fromhex("000000ff00000001")).hex() == "0000000a"
    with raises(errno.EPIPE):
        os.write(control, ptm_socket.pack(ptm.GetConfig()))
    with opened(service, "control") as other:
        assert ask(other, ptm.GetConfig()) == ptm.ConfigReply(0, 0)


def test_no_bytes_end_in_an_exception(service):
    numbers = st.integers(0, 20).map(lambda number: bytes([0, 0, 0, number]))
    pieces = st.lists(st.binary(max_size=40) | numbers, max_size=4).filter(
        lambda pieces: SHUTDOWN not in b"".join(pieces)
    )

    @settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(pieces=pieces, name=st.sampled_from(["control", "tpm"]))
    def write(pieces, name):
        with opened(service, name) as fd:
            for piece in pieces:
                with suppress(OSError):
                    os.write(fd, piece)
            with suppress(OSError):
                os.read(fd, 4096)

    write()
    assert fact(service, "tpm_version_major") == "2\n"
    service.stop()
    assert [told for told in service.heard() if told[0] == "failed"] == []


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
    words = [
        "qemu-system-x86_64",
        "-machine",
        "q35,accel=tcg",
        "-m",
        "64",
        "-nodefaults",
        "-display",
        "none",
        "-no-reboot",
    ]
    words += ["-tpmdev", f"passthrough,id=t,path={service.path('tpm')},cancel-path=/dev/null"]
    words += ["-device", "tpm-tis,tpmdev=t", "-monitor", "none"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not os.path.exists(pcr) or fact(service, "pcr-sha256", "0") == "00" * 32 + "\n":
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline, "the firmware did not measure anything"
            time.sleep(0.2)
    finally:
        process.kill()
        process.communicate()


# --- mounts
# --------------------------------------------------------------------------------------------------------------


def test_the_mount_can_be_recognised_and_goes_with_the_service(either, directory):
    assert mounts.is_ours(str(directory))
    assert mounts.mounts_at(str(directory)) == [mounts.Mount(str(directory), "fuse.vtpm", "vtpm")]
    assert either.stop() == 0
    assert not is_mounted(directory)
    assert either.heard() == []


def test_it_ends_in_time_with_files_open_and_a_reader_waiting(either, directory):
    with opened(either) as fd, opened(either) as other:
        os.write(fd, create_rsa(23, bits=3072))
        errors = []

        def read():
            try:
                os.read(fd, 4096)
            except OSError as error:
                errors.append(error.errno)

        thread = threading.Thread(target=read)
        thread.start()
        time.sleep(0.05)
        begin = time.monotonic()
        assert either.stop(timeout_s=60) == 0
        assert not is_mounted(directory)
        thread.join(10)
        assert not thread.is_alive()
        assert time.monotonic() - begin < 30
        assert errors in ([], [errno.ENODEV])
        with raises(errno.ENOTCONN):
            os.write(other, GET_RANDOM)


def test_the_mount_of_a_killed_service_is_taken_away(either, directory, start, python):
    with opened(either):
        either.process.kill()
        either.process.wait(10)
        with raises(errno.ENOTCONN):
            os.stat(directory)
        successor = start(python=python)
        assert successor.refusal is None
        assert len(mounts.mounts_at(str(directory))) == 1
        with opened(successor) as fd:
            assert len(exchange(fd, GET_RANDOM)) == 20


def test_a_user_takes_his_own_stale_mount_away(directory, start):
    os.chown(directory, NOBODY, NOBODY)
    first = start(uid=NOBODY)
    first.process.kill()
    first.process.wait(10)
    assert start(uid=NOBODY).refusal is None
    assert len(mounts.mounts_at(str(directory))) == 1


def test_a_second_service_does_not_take_the_directory_of_a_first(service, start):
    code, message, remedy = start().refusal
    assert code == "mount-failed"
    assert "another service serves" in message
    assert remedy
    with opened(service) as fd:
        assert len(exchange(fd, GET_RANDOM)) == 20


def test_a_service_that_hangs_is_not_taken_for_a_dead_one(service, start):
    os.kill(service.process.pid, signal.SIGSTOP)
    try:
        assert "another service serves" in start().refusal[1]
    finally:
        os.kill(service.process.pid, signal.SIGCONT)
    with opened(service) as fd:
        assert len(exchange(fd, GET_RANDOM)) == 20


def test_a_foreign_mount_is_left_alone(directory, start):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", directory], check=True)
    code, message, remedy = start().refusal
    assert (code, "tmpfs" in message) == ("mount-failed", True)
    assert remedy
    assert is_mounted(directory)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: (path / "file").touch(), "not empty"),
        (lambda path: path.rmdir(), "does not exist"),
        (lambda path: (path.rmdir(), path.touch()), "Not a directory"),
    ],
    ids=["not empty", "missing", "a file"],
)
def test_a_directory_that_cannot_be_had_is_named(directory, start, make, words):
    make(directory)
    code, message, remedy = start().refusal
    assert code == "mount-failed"
    assert words in message
    assert str(directory) in message
    assert remedy
    assert not is_mounted(directory)


def test_an_odd_name_of_a_directory(directory, start):
    odd = directory / "a b\\040c\td"
    odd.mkdir()
    service = start(odd)
    assert mounts.is_ours(str(odd))
    assert fact(service, "tpm_version_major") == "2\n"
    service.stop()
    assert mounts.mounts_at(str(odd)) == []


def test_a_passed_descriptor_is_served_and_left_mounted(directory, start, python):
    """As the unit does it: a helper with the rights to mounts, the service, which has none, serves."""
    fd = mounts.mount(str(directory))
    service = start(fd=fd, python=python, uid=STRANGER)
    os.close(fd)
    assert fact(service, "pcr-sha256", "0") == "00" * 32 + "\n"
    assert service.stop() == 0
    assert service.heard() == []
    assert is_mounted(directory)
    with raises(errno.ENOTCONN):
        os.stat(directory)
    mounts.unmount(str(directory))
    assert not is_mounted(directory)
    mounts.unmount(str(directory))  # there is nothing: nothing happens


def test_a_passed_descriptor_that_is_none_of_fuse(start):
    with open("/dev/null", "rb") as file:
        assert start(fd=file.fileno()).refusal[0] == "mount-failed"


def test_somebody_unmounts_it(service, directory):
    with opened(service) as fd:
        subprocess.run(["umount", "-l", directory], check=True)
        assert len(exchange(fd, GET_RANDOM)) == 20  # the file is still open
    time.sleep(0.5)
    assert service.stop() == 0
    assert [told[:2] for told in service.heard()] == [["failed", "mount-failed"]]


def test_a_client_that_is_killed_before_its_request_is_read(either):
    """The request is announced and then withdrawn: the serving thread must not wait for it."""
    fact(either, "status")  # has the kernel learn that close() is no request here; one is made in the client, at exec()
    with ExitStack() as stack:
        files = [stack.enter_context(opened(either)) for _ in range(3)]
        for number, fd in enumerate(files):
            os.write(fd, create_rsa(number, bits=3072))
        results = []
        thread = threading.Thread(target=lambda: results.append(os.read(files[-1], 4096)))
        thread.start()
        time.sleep(0.05)
        either.process.send_signal(signal.SIGUSR1)  # busy for half a second
        time.sleep(0.1)
        client = subprocess.Popen(["stat", either.path("status")], stdout=subprocess.DEVNULL)
        time.sleep(0.1)
        client.kill()
        assert client.wait(10) == -signal.SIGKILL
        thread.join(60)
        assert result_of(results[0]) == 0
    time.sleep(0.2)
    assert either.stop(timeout_s=10) == 0  # by a signal, which would not be heard
    assert either.heard() == []


def test_a_mount_without_the_device(directory, monkeypatch):
    monkeypatch.setattr(mounts, "_FUSE_DEVICE", "/dev/none")
    with pytest.raises(VtpmError) as caught:
        mounts.mount(str(directory))
    assert caught.value.code.value == "fuse-unavailable"
    assert "modprobe fuse" in caught.value.remedy


def test_without_pyfuse3(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyfuse3", None)
    with pytest.raises(VtpmError) as caught:
        FuseFrontend(None, None, dict, owner=0, group=0, mode=0o600, control_group=None)
    assert caught.value.code.value == "fuse-unavailable"
    assert "python3-pyfuse3" in caught.value.remedy


def test_the_module_alone_loads_neither_trio_nor_pyfuse3():
    loaded = "[name for name in ('trio', 'pyfuse3', 'ctypes') if name in sys.modules]"
    program = f"import sys, swtpm_svc.frontends.fuse.fuse_frontend; print({loaded})"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"
