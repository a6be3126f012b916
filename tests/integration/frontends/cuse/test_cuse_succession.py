"""The CUSE front end over the real libtpms: what a successor does with what its predecessor left."""

import errno
import os
import struct
from select import POLLIN, POLLOUT

import pytest
from cuse_service import OPERATOR, STRANGER, exchange
from tpm_commands import (
    CREATE_RSA,
    GET_RANDOM,
    PCR_READ_16,
)

from swtpm_svc.tpm.executor import Executor
from swtpm_svc.wire import fuse, ptm, ptm_ioctl

h = bytes.fromhex


def test_a_successor_goes_on_with_open_files_and_unread_responses(service, kernel):
    one, two = kernel.open(uid=STRANGER), kernel.open()
    kernel.write(one, GET_RANDOM)
    begun = kernel.read(one, 5)[1]
    records = [record for record, _pending in service.frontend.openers()]
    successor = service.make_frontend()
    successor.adopt(records)
    kernel.serve_one = successor.serve_one
    assert len(begun + kernel.read(one)[1]) == 20
    assert exchange(kernel, two, GET_RANDOM)[6:10] == bytes(4)
    assert len({record.handle for record in records} | {kernel.open()}) == 3


def test_a_successor_takes_a_command_after_a_piece_was_read_as_its_predecessor_would(service, kernel):
    handle = kernel.open()
    kernel.write(handle, GET_RANDOM)
    kernel.read(handle, 5)
    successor = service.make_frontend()
    successor.adopt([record for record, _pending in service.frontend.openers()])
    kernel.serve_one = successor.serve_one
    assert exchange(kernel, handle, PCR_READ_16)[6:10] == bytes(4)


def test_a_successor_carries_out_what_waited(service, kernel):
    """At a stop only what runs is finished; who waited notices nothing but the time."""
    running, waiting, quiet, control = (kernel.open(uid=uid) for uid in (STRANGER, STRANGER, OPERATOR, OPERATOR))
    first = kernel.send(fuse.Opcode.WRITE, kernel.write_body(running, CREATE_RSA), uid=STRANGER)
    second = kernel.send(fuse.Opcode.WRITE, kernel.write_body(waiting, CREATE_RSA), uid=STRANGER)
    answered = kernel.send(fuse.Opcode.WRITE, kernel.write_body(quiet, GET_RANDOM, os.O_NONBLOCK), uid=OPERATOR)
    assert kernel.replies[answered][0] == 0
    third = kernel.send(fuse.Opcode.READ, kernel.read_body(quiet), uid=OPERATOR)
    body = kernel.ioctl_body(control, ptm_ioctl.NUMBERS[ptm.Command.GET_TPMESTABLISHED], b"", 8)
    fourth = kernel.send(fuse.Opcode.IOCTL, body, uid=OPERATOR)
    service.executor.end()
    service.finish_work()
    assert kernel.replies[first][0] == 0
    assert not {second, third, fourth} & set(kernel.replies)
    assert set(service.park.waiters.take_over()) >= {second, third, fourth}
    predecessor = service.frontend
    service.executor = Executor(service.posted.append)
    successor = service.make_frontend()
    successor.adopt([record for record, _pending in predecessor.openers()])
    kernel.serve_one = successor.serve_one
    del kernel.replies[answered]  # the kernel knows no request that was answered, and says ENOENT
    for unique in (second, answered, third, fourth):  # as the daemon does, in case it is killed before
        service.park.waiters.add(unique)
    successor.take_on(predecessor.waiting())
    service.finish_work()
    assert all(kernel.replies[each][0] == 0 for each in (second, third, fourth))
    assert kernel.read(running)[1][6:10] == kernel.read(waiting)[1][6:10] == bytes(4)
    assert len(kernel.replies[third][1]) == 20
    assert service.park.waiters.take_over() == []


def test_a_successor_with_another_tpm_lets_nobody_wait_for_a_response(service, kernel):
    running, quiet = kernel.open(), kernel.open()
    kernel.send(fuse.Opcode.WRITE, kernel.write_body(running, CREATE_RSA))
    kernel.send(fuse.Opcode.WRITE, kernel.write_body(quiet, GET_RANDOM, os.O_NONBLOCK))
    kernel.poll(quiet, poll_handle=9, schedule=True)
    service.executor.end()
    service.finish_work()
    successor = service.make_frontend()
    successor.adopt([record for record, _pending in service.frontend.openers()])
    successor.lose([*service.frontend.waiting(), b"", bytes(200)])
    kernel.serve_one = successor.serve_one
    assert kernel.poll(quiet) & POLLIN
    assert kernel.read(quiet)[0] == errno.EIO
    assert kernel.read(running)[0] == 0


def test_a_successor_of_a_killed_process_serves_files_it_never_saw_opened(service, kernel):
    handle = kernel.open()
    kernel.serve_one = service.make_frontend().serve_one
    assert exchange(kernel, handle, GET_RANDOM)[6:10] == bytes(4)


def test_a_response_that_was_lost_with_a_killed_process_is_one_eio_and_wakes_who_waits(service, kernel):
    handle = kernel.open()
    kernel.write(handle, GET_RANDOM)
    kernel.poll(handle, poll_handle=9, schedule=True)
    successor = service.make_frontend()
    successor.wake_all(service.park.polls.take_over())
    kernel.serve_one = successor.serve_one
    kernel.collect()
    assert kernel.notices == [(fuse.NOTIFY_POLL, struct.pack("=Q", 9))]
    assert kernel.poll(handle) & POLLIN
    assert kernel.read(handle) == (errno.EIO, b"")
    assert kernel.read(handle) == (0, b"")
    assert kernel.poll(handle) & (POLLIN | POLLOUT) == POLLOUT


def test_requests_of_a_killed_process_get_one_eio(service, kernel):
    service.frontend.give_up([40, 42])
    kernel.collect()
    assert kernel.replies == {40: (errno.EIO, b""), 42: (errno.EIO, b"")}


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_blob_that_a_handover_interrupts_is_an_error_not_a_torn_blob(service, kernel, direction):
    handle = kernel.open()
    if direction == "down":
        kernel.control(handle, ptm.GetStateBlob(0, 2, 0))
    else:
        kernel.control(handle, ptm.Stop())
        kernel.control(handle, ptm.SetStateBlob(0, 1, b""))
        kernel.write(handle, GET_RANDOM)  # a piece that looks like a command
    successor = service.make_frontend()
    successor.adopt([record for record, _pending in service.frontend.openers()])
    kernel.serve_one = successor.serve_one
    if direction == "down":
        assert kernel.control(handle, ptm.GetStateBlob(0, 2, 3072))[1].tpm_result == 0x09
        assert kernel.read(handle)[0] == errno.EIO
    else:
        assert kernel.write(handle, GET_RANDOM)[0] == errno.EIO
    assert kernel.write(handle, GET_RANDOM)[0] == 0
