"""The User-Mode Linux lab is what the other tests here take it for: a real /dev/cuse, a udev, accounts, durable
files."""

import fcntl
import os
import pwd
import select
import stat
import struct
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

pytestmark = pytest.mark.needs("cuse", "root", "udev", "accounts")

# include/uapi/linux/fuse.h
IN_HEADER = struct.Struct("=IIQQIII4x")  # len opcode unique nodeid uid gid pid
OPEN, READ, WRITE, RELEASE, CUSE_INIT = 14, 15, 16, 18, 4096


class EchoDevice:
    """The smallest CUSE server: /dev/NAME gives back what was written to it. Written without the package on purpose."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.descriptor = os.open("/dev/cuse", os.O_RDWR)
        self.openers: list[tuple[int, int]] = []
        self.last = b""
        self.wake, self.wakener = os.pipe()
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self) -> None:
        while True:
            ready, _, _ = select.select([self.descriptor, self.wake], [], [])
            if self.wake in ready:
                return
            frame = os.read(self.descriptor, 1 << 17)
            _, opcode, unique, _, uid, gid, _ = IN_HEADER.unpack_from(frame)
            self.answer(opcode, unique, frame, (uid, gid))

    def answer(self, opcode: int, unique: int, frame: bytes, caller: tuple[int, int]) -> None:
        if opcode == CUSE_INIT:
            self.reply(
                unique,
                struct.pack("=8I", 7, 31, 0, 0, 65536, 65536, 0, 0) + bytes(40) + b"DEVNAME=%s\0" % self.name.encode(),
            )
        elif opcode == OPEN:
            self.openers.append(caller)
            self.reply(unique, struct.pack("=QII", 1, 5, 0))
        elif opcode == WRITE:
            (size,) = struct.unpack_from("=I", frame, 56)
            self.last = frame[80 : 80 + size]
            self.reply(unique, struct.pack("=II", size, 0))
        elif opcode == READ:
            self.reply(unique, self.last)
        elif opcode == RELEASE:
            self.reply(unique, b"")

    def reply(self, unique: int, body: bytes) -> None:
        os.write(self.descriptor, struct.pack("=IiQ", 16 + len(body), 0, unique) + body)

    def close(self) -> None:
        os.write(self.wakener, b"x")
        self.thread.join()
        for descriptor in (self.descriptor, self.wake, self.wakener):
            os.close(descriptor)


def wait_for(path: str, *, there: bool) -> None:
    deadline = time.monotonic() + 10
    while os.path.exists(path) != there:
        assert time.monotonic() < deadline, f"{path} {'does not come' if there else 'stays'}"
        time.sleep(0.01)
    subprocess.run(["udevadm", "settle"], check=True, timeout=20)


@pytest.fixture
def echo() -> Iterator[EchoDevice]:
    device = EchoDevice("labecho")
    wait_for("/dev/labecho", there=True)
    yield device
    device.close()


def test_cuse_is_roots_alone():
    status = os.stat("/dev/cuse")
    assert (os.major(status.st_rdev), os.minor(status.st_rdev)) == (10, 203)
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o600, 0)


def test_a_cuse_device_answers(echo):
    with open("/dev/labecho", "r+b", buffering=0) as client:
        client.write(b"hello")
        assert client.read(100) == b"hello"
    assert echo.openers == [(0, 0)]


def test_the_kernel_says_who_opens_it(echo):
    os.chmod("/dev/labecho", 0o666)
    outsider = pwd.getpwnam("lab-outsider")
    subprocess.run(
        ["setpriv", "--reuid=lab-outsider", "--regid=lab-outsider", "--clear-groups", "cat", "/dev/labecho"],
        check=True,
        timeout=20,
    )
    assert echo.openers == [(outsider.pw_uid, outsider.pw_gid)]


def test_the_node_goes_with_its_server():
    device = EchoDevice("labgone")
    wait_for("/dev/labgone", there=True)
    device.close()
    wait_for("/dev/labgone", there=False)


def test_udev_knows_the_device(echo):
    properties = subprocess.run(
        ["udevadm", "info", "/dev/labecho"], check=True, timeout=20, capture_output=True, text=True
    ).stdout
    assert "SUBSYSTEM=cuse" in properties


def test_groups_of_the_people():
    groups = {
        person: set(subprocess.run(["id", "-Gn", person], check=True, capture_output=True, text=True).stdout.split())
        for person in ("lab-member", "lab-operator", "lab-outsider")
    }
    assert groups == {
        "lab-member": {"lab-member", "vtpm"},
        "lab-operator": {"lab-operator", "vtpm", "vtpm-admin"},
        "lab-outsider": {"lab-outsider"},
    }


@pytest.mark.parametrize("folder", ["/tmp", "/var/lib/vtpm", "/run/vtpm"])
def test_files_are_durable_and_locks_hold(folder):
    path = f"{folder}/smoke"
    with open(path, "xb") as file:
        file.write(b"x")
        os.fsync(file.fileno())
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        child = subprocess.run(["flock", "-n", path, "true"], timeout=20, check=False)
        assert child.returncode == 0, "flock(1) and a POSIX lock are different locks"
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert subprocess.run(["flock", "-n", path, "true"], timeout=20, check=False).returncode == 1
    directory = os.open(folder, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)
    os.unlink(path)


def test_results_come_back():
    with open(os.environ["LAB_RESULTS"] + "/smoke", "w") as file:
        file.write("from the lab\n")
