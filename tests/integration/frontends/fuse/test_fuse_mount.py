"""The FUSE front end on a real mount: who may do what, and mounts that are in the way."""

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from contextlib import ExitStack

import pytest
from fuse_clients import (
    CONTROL_GROUP,
    DEVICE_GROUP,
    NOBODY,
    OPERATOR,
    STRANGER,
    as_user,
    exchange,
    fact,
    opened,
    raises,
)
from fuse_service import is_mounted
from tpm_commands import GET_RANDOM, create_rsa, result_of

from swtpm_svc.errors import VtpmError
from swtpm_svc.frontends.fuse import mounts
from swtpm_svc.frontends.fuse.fuse_frontend import FuseFrontend
from swtpm_svc.wire import ptm, ptm_socket

pytestmark = pytest.mark.needs("fuse", "pyfuse3", "root", "fusermount3")


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
    fact(either, "status")  # teaches the kernel to send nothing for a close(), such as the client's at its exec()
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
    assert caught.value.message == "/dev/none: No such file or directory"
    assert caught.value.remedy == "modprobe fuse; a container needs the device: --device /dev/fuse"


def test_without_pyfuse3(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyfuse3", None)
    with pytest.raises(VtpmError) as caught:
        FuseFrontend(None, None, dict, owner=0, group=0, mode=0o600, control_group=None)
    assert caught.value.code.value == "fuse-unavailable"
    assert caught.value.message.startswith("[fuse] needs pyfuse3: ")  # then Python's words
    assert caught.value.remedy == "install python3-pyfuse3, or remove [fuse]"


def test_the_module_alone_loads_neither_trio_nor_pyfuse3():
    loaded = "[name for name in ('trio', 'pyfuse3', 'ctypes') if name in sys.modules]"
    program = f"import sys, swtpm_svc.frontends.fuse.fuse_frontend; print({loaded})"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"
