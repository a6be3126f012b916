"""What waited on the device leaves nothing behind, however its wait ended: no place in the parked memory, no share.

More rounds are gone through than a user has places, so that one that stays taken is missed.
"""

import errno
import os
import struct
import threading

import pytest
from cuse_kernel import HEADER
from cuse_service import OPERATOR, STRANGER, CuseService
from tpm_commands import CREATE_RSA, GET_RANDOM, HIERARCHY_CHANGE_AUTH

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.frontends.opener import MAX_OPENERS_OF_ONE
from swtpm_svc.tpm import libtpms
from swtpm_svc.wire import fuse, ptm, ptm_ioctl

#: More than requests of one user may wait at a time.
ROUNDS = 300
GET_ESTABLISHED = ptm_ioctl.NUMBERS[ptm.Command.GET_TPMESTABLISHED]


@pytest.fixture
def service():
    service = CuseService().start()
    yield service
    service.close()
    libtpms.set_locality(0)


@pytest.fixture
def kernel(service):
    return service.kernel


@pytest.fixture
def busy(service):
    """The worker is in use, by nobody's command, until the test sets this."""
    gate = threading.Event()
    service.executor.submit(gate.wait, lambda _result: None)
    yield gate
    gate.set()


def nothing_waits(service):
    return service.frontend.waiting() == service.park.waiters.take_over() == service.park.polls.take_over() == []


def send(kernel, kind, handle):
    """A request that has to wait: its id."""
    if kind == "write":
        return kernel.send(fuse.Opcode.WRITE, kernel.write_body(handle, GET_RANDOM), uid=STRANGER)
    if kind == "control":
        return kernel.send(fuse.Opcode.IOCTL, kernel.ioctl_body(handle, GET_ESTABLISHED, b"", 8), uid=STRANGER)
    return kernel.send(fuse.Opcode.READ, kernel.read_body(handle), uid=STRANGER)


@pytest.mark.parametrize("kind", ["write", "control", "read"])
def test_what_a_signal_ended(service, kernel, busy, kind):
    handle = kernel.open(uid=STRANGER)
    if kind == "read":
        assert kernel.write(handle, GET_RANDOM, os.O_NONBLOCK, uid=STRANGER)[0] == 0
    for _ in range(ROUNDS):
        waiting = send(kernel, kind, handle)
        assert waiting not in kernel.replies
        kernel.send(fuse.Opcode.INTERRUPT, struct.pack("=Q", waiting))
        assert kernel.replies[waiting] == (errno.EINTR, b"")
    busy.set()
    service.finish_work()
    assert nothing_waits(service)
    if kind == "read":
        assert len(kernel.read(handle)[1]) == 20


def test_what_a_release_ended(service, kernel, busy):
    for _ in range(max(ROUNDS, MAX_OPENERS_OF_ONE + 1)):
        handle = kernel.open(uid=STRANGER)
        assert kernel.write(handle, GET_RANDOM, os.O_NONBLOCK, uid=STRANGER)[0] == 0
        kernel.poll(handle, poll_handle=handle, schedule=True)
        assert kernel.release(handle)[0] == 0
    assert nothing_waits(service)
    busy.set()
    service.finish_work()
    assert kernel.notices == []


def test_who_has_closed_the_file_is_not_woken_by_the_command_that_ran(service, kernel):
    handle = kernel.open()
    assert kernel.write(handle, CREATE_RSA, os.O_NONBLOCK)[0] == 0
    kernel.poll(handle, poll_handle=5, schedule=True)
    kernel.release(handle)
    service.finish_work()
    assert kernel.notices == []
    assert nothing_waits(service)


def test_what_was_answered(service, kernel):
    """By the worker: commands that are stored, alone and with one who reads meanwhile, and control."""
    handle = kernel.open(uid=OPERATOR)
    kernel.uid = OPERATOR
    for number in range(ROUNDS):
        error, _body = kernel.call_and_wait(fuse.Opcode.WRITE, kernel.write_body(handle, HIERARCHY_CHANGE_AUTH))
        assert error == 0, number
        kernel.read(handle)
        assert kernel.control(handle, ptm.StoreVolatile())[0] == 0
    kernel.write(handle, CREATE_RSA, os.O_NONBLOCK)
    read = kernel.send(fuse.Opcode.READ, kernel.read_body(handle))
    service.finish_work()
    assert kernel.replies[read][0] == 0
    assert nothing_waits(service)


def test_what_was_refused(service, kernel, busy):
    """For rights that its caller does not have, though it had to wait: the answer is an error, and that is all."""
    handle = kernel.open(uid=STRANGER)
    number, data = ptm_ioctl.pack(ptm.Stop())
    for _ in range(ROUNDS):
        assert kernel.call(fuse.Opcode.IOCTL, kernel.ioctl_body(handle, number, b"", len(data)), uid=STRANGER) == (
            errno.EPERM,
            b"",
        )
    assert nothing_waits(service)


def test_what_there_was_no_place_for(service, kernel, busy):
    """Who has too many that wait is told so, and that takes no place either."""
    handles = [kernel.open(uid=STRANGER) for _ in range(200)]
    waiting = [send(kernel, kind, handle) for handle in handles for kind in ("write", "control")]
    refused = [unique for unique in waiting if unique in kernel.replies]
    assert {kernel.replies[unique] for unique in refused} == {(errno.EBUSY, b"")}
    assert len(waiting) - len(refused) == 256
    assert len(service.frontend.waiting()) == 256
    busy.set()
    service.finish_work()
    assert all(kernel.replies[unique][0] == 0 for unique in waiting if unique not in refused)
    assert nothing_waits(service)


def test_who_polls_and_is_woken_or_polls_again_has_one_place(service, kernel):
    handle = kernel.open()
    for number in range(1, 1200):  # more than there are places
        kernel.poll(handle, poll_handle=number, schedule=True)
        kernel.poll(handle, poll_handle=number, schedule=True)
        assert kernel.write(handle, GET_RANDOM)[0] == 0
        kernel.read(handle)
        assert kernel.notices == [(fuse.NOTIFY_POLL, struct.pack("=Q", number))]
        kernel.notices.clear()
    kernel.poll(handle, poll_handle=7, schedule=True)
    assert service.park.polls.take_over() == [7]


def test_a_successor_wakes_all_who_polled(service, kernel):
    """Each once, whatever the kernel says of one: it may be gone."""
    for number in (5, 6, 7):
        kernel.poll(kernel.open(), poll_handle=number, schedule=True)
    successor = service.make_frontend()
    successor.wake_all(service.park.polls.take_over())
    kernel.collect()
    assert sorted(kernel.notices) == [(fuse.NOTIFY_POLL, struct.pack("=Q", number)) for number in (5, 6, 7)]
    assert service.park.polls.take_over() == []


def test_what_could_not_be_stored(service, kernel):
    """The command waits for a disk that then fails; its client gets the TPM's error."""
    handle = kernel.open()
    service.storage.failure = VtpmError(Code.STATE_FULL, "no space")
    for _ in range(3):
        error, _body = kernel.call_and_wait(fuse.Opcode.WRITE, kernel.write_body(handle, HIERARCHY_CHANGE_AUTH))
        assert error == 0
        assert kernel.read(handle)[1][6:10] != bytes(4)
    assert nothing_waits(service)
    service.storage.failure = None


def test_only_who_was_told_that_his_write_is_done_learns_by_reading_that_it_is_lost(service, kernel):
    """The other requests that waited are answered with an error themselves."""
    blocking, quiet, control = (kernel.open() for _ in range(3))
    bodies = [
        (fuse.Opcode.WRITE, kernel.write_body(blocking, GET_RANDOM)),
        (fuse.Opcode.WRITE, kernel.write_body(quiet, GET_RANDOM, os.O_NONBLOCK)),
        (fuse.Opcode.IOCTL, kernel.ioctl_body(control, GET_ESTABLISHED, b"", 8)),
        (fuse.Opcode.READ, kernel.read_body(control, flags=os.O_NONBLOCK)),
    ]
    frames = [HEADER.pack(40 + len(body), kind, 1000, 0, 0, 0, 1, 0, 0) + body for kind, body in bodies]
    service.frontend.lose(frames)
    assert kernel.read(blocking) == (0, b"")
    assert kernel.read(control) == (0, b"")
    assert kernel.read(quiet) == (errno.EIO, b"")
