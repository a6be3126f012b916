"""How the device is made, with a socket pair for /dev/cuse: what the kernel begins with, and what is asked before and
after.

The kernel's own part is tested in tests/lab/uml.
"""

import errno
import os
import socket
import struct

import pytest

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.frontends.cuse import handshake
from swtpm_svc.frontends.cuse.handshake import Node
from swtpm_svc.wire import fuse

HEADER = struct.Struct("=IIQQIIIHH")  # fuse_in_header
NAME = "vtpm-of-a-unit-test"


def frame(opcode, body):
    return HEADER.pack(HEADER.size + len(body), opcode, 2, 0, 0, 0, 1, 0, 0) + body


def init(major, minor):
    return frame(fuse.Opcode.CUSE_INIT, struct.pack("=IIII", major, minor, 0, 1))


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.fixture
def devices(monkeypatch):
    """What there is of devices."""
    found = set()
    monkeypatch.setattr(handshake.os.path, "exists", lambda path: path in found)
    monkeypatch.setattr(handshake.os.path, "lexists", lambda path: path in found)
    monkeypatch.setattr(handshake.os.path, "isdir", lambda path: path == "/sys/class")  # a build root may have no /sys
    monkeypatch.setattr(handshake, "LEAVING_S", 0.05)
    return found


def test_cuse_is_opened_for_both_directions_and_for_no_program_that_is_run(tmp_path, monkeypatch):
    (tmp_path / "cuse").touch()
    monkeypatch.setattr(handshake, "CUSE_PATH", str(tmp_path / "cuse"))
    fd = handshake.open_cuse()
    assert not os.get_inheritable(fd)
    assert os.write(fd, b"reply") == len(os.pread(fd, 5, 0))
    os.close(fd)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOENT, Code.CUSE_MISSING),
        (errno.ENOTDIR, Code.CUSE_MISSING),
        (errno.ENODEV, Code.CUSE_MISSING),
        (errno.ENXIO, Code.CUSE_MISSING),
        (errno.EACCES, Code.CUSE_DENIED),
        (errno.EPERM, Code.CUSE_DENIED),
    ],
    ids=lambda value: errno.errorcode.get(value) if isinstance(value, int) else None,
)
def test_why_there_is_no_cuse(monkeypatch, number, code):
    def refuse(path, _flags):
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(handshake.os, "open", refuse)
    with pytest.raises(VtpmError) as caught:
        handshake.open_cuse()
    assert caught.value.code is code
    assert caught.value.remedy.startswith("modprobe cuse" if code is Code.CUSE_MISSING else "start the service")
    if code is Code.CUSE_DENIED:
        assert caught.value.message == f"/dev/cuse cannot be opened: {os.strerror(number)}"


@pytest.mark.parametrize(
    "begin", [init(6, 38), init(8, 0), frame(fuse.Opcode.OPEN, struct.pack("=II", 0, 0))], ids=["6", "8", "open"]
)
def test_a_kernel_that_begins_otherwise_is_not_answered(pair, devices, begin):
    ours, theirs = pair
    theirs.send(begin)
    with pytest.raises(VtpmError, match=r"in place of CUSE_INIT 7\.x") as caught:
        handshake.initialise(ours.fileno(), NAME, 0, 0)
    assert caught.value.code is Code.DEVICE_REJECTED
    with pytest.raises(BlockingIOError):
        theirs.recv(1 << 16, socket.MSG_DONTWAIT)


@pytest.mark.parametrize("is_made", [True, False])
@pytest.mark.parametrize(("theirs_minor", "agreed"), [(12, 12), (99, fuse.MINOR_VERSION)])
def test_the_device_is_asked_for_and_then_looked_for(pair, devices, is_made, theirs_minor, agreed):
    ours, theirs = pair
    theirs.send(init(7, theirs_minor))
    if is_made:
        devices.add(f"/sys/class/cuse/{NAME}")
        handshake.initialise(ours.fileno(), NAME, 240, 7)
    else:
        with pytest.raises(VtpmError, match=f"did not make the device {NAME}"):
            handshake.initialise(ours.fileno(), NAME, 240, 7)
    reply = theirs.recv(1 << 16)
    assert struct.unpack_from("=IiQII", reply) == (len(reply), 0, 2, 7, agreed)
    assert f"DEVNAME={NAME}\0".encode() in reply
    assert not os.get_blocking(ours.fileno())


@pytest.mark.parametrize("path", [f"/sys/class/cuse/{NAME}", f"/dev/{NAME}"])
def test_a_name_that_is_taken(devices, path):
    handshake.check_free(NAME, 0, 0)
    devices.add(path)
    with pytest.raises(VtpmError, match=f"/dev/{NAME} exists already") as caught:
        handshake.check_free(NAME, 0, 0)
    assert caught.value.code is Code.DEVICE_NAME_TAKEN


def test_a_number_that_is_taken(devices):
    devices.update(("/sys/dev/char/240:7", "/sys/dev/char/0:0"))
    handshake.check_free(NAME, 0, 0)  # the kernel chooses
    handshake.check_free(NAME, 240, 8)
    with pytest.raises(VtpmError, match="240:7 exists already") as caught:
        handshake.check_free(NAME, 240, 7)
    assert caught.value.code is Code.DEVICE_NUMBER_TAKEN


def test_a_device_is_alive_as_long_as_its_other_end(pair):
    ours, theirs = pair
    assert handshake.is_alive(ours.fileno())
    theirs.send(b"request")
    assert handshake.is_alive(ours.fileno())
    theirs.close()
    assert not handshake.is_alive(ours.fileno())


@pytest.mark.parametrize("difference", [None, "uid", "gid", "mode", "absent"])
def test_a_node_is_finished_when_all_of_it_is_as_wanted(tmp_path, monkeypatch, difference):
    path = tmp_path / "node"
    path.touch()
    path.chmod(0o640)
    node = Node(NAME, os.getuid(), os.getgid(), 0o640)
    monkeypatch.setattr(Node, "path", str(tmp_path / "none") if difference == "absent" else str(path))
    if difference in ("uid", "gid", "mode"):
        node = node._replace(**{difference: getattr(node, difference) + 1})
    if difference is None:
        handshake.wait_until_finished(node, 0)
    else:
        words = "did not appear" if difference == "absent" else f"is {os.getuid()}:{os.getgid()} 0640, not "
        with pytest.raises(VtpmError, match=words) as caught:
            handshake.wait_until_finished(node, 0.01)
        assert caught.value.code is Code.DEVICE_NOT_READY


def test_a_node_is_finished_by_hand(tmp_path, monkeypatch):
    path = tmp_path / "node"
    path.touch()
    monkeypatch.setattr(Node, "path", str(path))
    handshake.finish_by_hand(Node(NAME, os.getuid(), os.getgid(), 0o604))
    assert path.stat().st_mode & 0o777 == 0o604
    path.unlink()
    with pytest.raises(VtpmError, match="cannot be given its owner and mode") as caught:
        handshake.finish_by_hand(Node(NAME, os.getuid(), os.getgid(), 0o604))
    assert caught.value.code is Code.DEVICE_NOT_READY
