"""The CUSE front end over the real libtpms: open files, commands and responses, waiting, interrupts, faults."""

import errno
import os
import struct
import time
from contextlib import suppress
from select import POLLIN, POLLOUT

import pytest
from cuse_service import OPERATOR, STRANGER, exchange
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tpm_commands import (
    CREATE_CHILD,
    CREATE_PARENT,
    CREATE_RSA,
    GET_RANDOM,
    HIERARCHY_CHANGE_AUTH,
    PCR_READ_16,
    create_rsa,
    flush_context,
)

from swtpm_svc.continuity.handover import MAX_OPENERS
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.frontends.opener import MAX_OPENERS_OF_ONE
from swtpm_svc.tpm import libtpms
from swtpm_svc.wire import fuse, ptm, ptm_ioctl

h = bytes.fromhex


def test_a_command_and_its_response(kernel):
    handle = kernel.open()
    response = exchange(kernel, handle, GET_RANDOM)
    assert len(response) == 20
    assert response[:12] == h("800100000014000000000008")
    assert kernel.read(handle) == (0, b"")  # as the kernel's tpm device: nothing is left
    assert kernel.release(handle) == (0, b"")


def test_a_response_may_be_read_in_pieces(kernel):
    handle = kernel.open()
    kernel.write(handle, PCR_READ_16)
    whole = exchange(kernel, kernel.open(), PCR_READ_16)
    pieces = [kernel.read(handle, 10)[1], kernel.read(handle, 1)[1], kernel.read(handle)[1]]
    assert [len(piece) for piece in pieces[:2]] == [10, 1]
    assert b"".join(pieces) == whole
    assert kernel.read(handle) == (0, b"")


def test_a_write_before_the_response_was_read_is_busy(kernel):
    handle = kernel.open()
    kernel.write(handle, GET_RANDOM)
    assert kernel.write(handle, GET_RANDOM)[0] == errno.EBUSY
    assert len(kernel.read(handle)[1]) == 20
    assert kernel.write(handle, GET_RANDOM)[0] == 0


def test_a_command_after_a_piece_of_the_response_was_read_is_the_next_one(kernel):
    """As drivers/char/tpm/tpm-dev-common.c has it; its tests are tools/testing/selftests/tpm2,
    "test_read_partial_overwrite"."""
    handle = kernel.open()
    kernel.write(handle, GET_RANDOM)
    kernel.read(handle, 4)
    assert kernel.write(handle, GET_RANDOM[:9])[0] == errno.EINVAL
    assert len(kernel.read(handle, 4)[1]) == 4  # a write that was refused takes nothing away
    assert kernel.write(handle, PCR_READ_16)[0] == 0
    assert kernel.write(handle, GET_RANDOM)[0] == errno.EBUSY
    response = kernel.read(handle)[1]
    assert len(response) == int.from_bytes(response[2:6], "big") > 32
    assert kernel.read(handle) == (0, b"")


def test_each_opener_has_its_own_response(kernel):
    one, two = kernel.open(), kernel.open()
    kernel.write(one, GET_RANDOM)
    kernel.write(two, PCR_READ_16)
    assert len(kernel.read(one)[1]) == 20
    assert len(kernel.read(two)[1]) > 32


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", errno.EINVAL),
        (GET_RANDOM[:9], errno.EINVAL),
        (GET_RANDOM[:-1], errno.EINVAL),  # shorter than its header says
        (bytes(4097), errno.E2BIG),
        (h("8001ffffffff0000017b0008"), errno.EINVAL),
    ],
    ids=["empty", "no header", "cut off", "oversize", "huge length"],
)
def test_malformed_writes_are_errors_of_that_write_alone(kernel, data, expected):
    handle = kernel.open()
    assert kernel.write(handle, data)[0] == expected
    assert len(exchange(kernel, handle, GET_RANDOM)) == 20


@pytest.mark.parametrize(
    ("command", "result"),
    [
        (h("80010000000a0000017e00"), 0x142),  # TPM_RC_COMMAND_SIZE: longer than its header says
        (h("dead0000000a0000017e"), 0x84),  # TPM_RC_VALUE, as swtpm 0.7.1 answers
        (h("80010000000a0000ffff"), 0x143),  # TPM_RC_COMMAND_CODE
    ],
)
def test_wrong_commands_get_the_tpms_own_error(kernel, command, result):
    handle = kernel.open()
    assert int.from_bytes(exchange(kernel, handle, command)[6:10], "big") == result


def test_poll_tells_what_is_possible_and_wakes_who_waits(kernel):
    handle = kernel.open()
    assert kernel.poll(handle) & (POLLIN | POLLOUT) == POLLOUT
    kernel.poll(handle, poll_handle=77, schedule=True)
    kernel.write(handle, GET_RANDOM)
    assert kernel.notices == [(fuse.NOTIFY_POLL, struct.pack("=Q", 77))]
    assert kernel.poll(handle) & (POLLIN | POLLOUT) == POLLIN
    kernel.read(handle)
    assert kernel.poll(handle) & (POLLIN | POLLOUT) == POLLOUT
    assert len(kernel.notices) == 1


def test_a_long_command_does_not_keep_others_waiting_for_what_needs_no_tpm(service, kernel):
    one, two = kernel.open(), kernel.open()
    write = kernel.send(fuse.Opcode.WRITE, kernel.write_body(one, CREATE_RSA))
    assert write not in kernel.replies
    assert kernel.poll(one) == 0  # neither to be read nor to be written
    assert kernel.control(two, ptm.GetCapability())[1] == ptm.CapabilityReply(ptm.Capability.DEVICE)
    assert kernel.control(two, ptm.GetConfig())[1] == ptm.ConfigReply(0, 0)
    assert kernel.control(two, ptm.SetBufferSize(0))[1] == ptm.BufferSizeReply(0, *libtpms.set_buffer_size(0))
    queued = kernel.send(fuse.Opcode.WRITE, kernel.write_body(two, GET_RANDOM))
    control = kernel.send(
        fuse.Opcode.IOCTL, kernel.ioctl_body(two, ptm_ioctl.NUMBERS[ptm.Command.GET_TPMESTABLISHED], b"", 8)
    )
    assert queued not in kernel.replies
    assert control not in kernel.replies
    assert set(service.park.waiters.take_over()) >= {write, queued, control}
    service.finish_work()
    assert kernel.replies[write][0] == kernel.replies[queued][0] == kernel.replies[control][0] == 0
    assert kernel.read(one)[1][6:10] == bytes(4)
    assert len(kernel.read(two)[1]) == 20


def test_nonblocking_write_returns_at_once_and_read_says_again(service, kernel):
    handle = kernel.open()
    assert kernel.write(handle, CREATE_RSA, os.O_NONBLOCK)[0] == 0
    assert kernel.read(handle, flags=os.O_NONBLOCK)[0] == errno.EAGAIN
    assert kernel.poll(handle, poll_handle=5, schedule=True) & (POLLIN | POLLOUT) == 0
    assert kernel.write(handle, GET_RANDOM, os.O_NONBLOCK)[0] == errno.EBUSY
    service.finish_work()
    assert kernel.notices == [(fuse.NOTIFY_POLL, struct.pack("=Q", 5))]
    assert kernel.read(handle, flags=os.O_NONBLOCK)[1][6:10] == bytes(4)


def test_a_waiting_reader_gets_the_response_when_it_is_there(service, kernel):
    handle = kernel.open()
    kernel.write(handle, CREATE_RSA, os.O_NONBLOCK)
    read = kernel.send(fuse.Opcode.READ, kernel.read_body(handle))
    assert read not in kernel.replies
    service.finish_work()
    assert kernel.replies[read][1][6:10] == bytes(4)
    assert service.park.waiters.take_over() == []


def test_an_interrupt_ends_a_waiting_read_with_eintr(service, kernel):
    handle = kernel.open()
    kernel.write(handle, CREATE_RSA, os.O_NONBLOCK)
    read = kernel.send(fuse.Opcode.READ, kernel.read_body(handle))
    kernel.send(fuse.Opcode.INTERRUPT, struct.pack("=Q", read))
    assert kernel.replies[read] == (errno.EINTR, b"")
    service.finish_work()
    assert kernel.read(handle)[1][6:10] == bytes(4)


def test_an_interrupt_of_a_blocking_key_generation_cancels_it(service, kernel):
    handle = kernel.open()
    for number in range(
        200
    ):  # libtpms looks only between a key's primes, which may be found before the interrupt is seen
        write = kernel.send(fuse.Opcode.WRITE, kernel.write_body(handle, create_rsa(number, bits=3072)))
        time.sleep(0.001)
        kernel.send(fuse.Opcode.INTERRUPT, struct.pack("=Q", write))
        service.finish_work()
        assert kernel.replies[write][0] == 0
        response = kernel.read(handle)[1]
        canceled = response[6:10] == h("00000909")  # TPM_RC_CANCELED
        if not canceled:
            assert response[6:10] == bytes(4), response[:10].hex()
            exchange(kernel, handle, flush_context(response[10:14]))
        assert exchange(kernel, handle, GET_RANDOM)[6:10] == bytes(4)  # it cancels that command only
        if canceled:
            break
    assert canceled


def test_an_interrupt_of_an_unknown_request_is_harmless(kernel):
    kernel.send(fuse.Opcode.INTERRUPT, struct.pack("=Q", 999999))
    assert len(exchange(kernel, kernel.open(), GET_RANDOM)) == 20


def test_release_while_the_command_runs(service, kernel):
    handle = kernel.open()
    kernel.write(handle, CREATE_RSA, os.O_NONBLOCK)
    assert kernel.release(handle)[0] == 0
    service.finish_work()
    assert service.frontend.openers() == []
    assert service.events.failures == []


def test_unknown_opcodes_are_refused_and_forget_is_not_answered(kernel):
    assert kernel.call(3, b"")[0] == errno.ENOSYS
    assert kernel.send(fuse.Opcode.FORGET, bytes(8)) not in kernel.replies


def test_a_short_frame_is_an_eio_not_a_crash(service, kernel):
    assert kernel.call(fuse.Opcode.READ, b"\0\0\0")[0] == errno.EIO
    assert service.events.failures[0].code is Code.PROTOCOL


def refuses_to_open(kernel, uid):
    return kernel.call(fuse.Opcode.OPEN, struct.pack("=II", 2, 0), uid=uid)[0] == errno.EMFILE


def test_a_user_has_a_share_of_the_open_files_and_root_always_has_his(service, kernel):
    handles = [kernel.open(uid=STRANGER) for _ in range(MAX_OPENERS_OF_ONE)]
    assert all(refuses_to_open(kernel, STRANGER) for _ in range(3))
    assert service.events.refusals == [(STRANGER, Code.TOO_MANY)] * 3
    others = MAX_OPENERS // MAX_OPENERS_OF_ONE - 2
    for uid in range(2000, 2000 + others):
        for _ in range(MAX_OPENERS_OF_ONE):
            kernel.open(uid=uid)
    assert refuses_to_open(kernel, 3000)
    for _ in range(MAX_OPENERS_OF_ONE):
        kernel.open(uid=0)
    assert refuses_to_open(kernel, 0)
    kernel.release(handles[0])
    kernel.open(uid=3000)
    assert refuses_to_open(kernel, STRANGER)


def make_parent(service, kernel):
    """For CREATE_CHILD."""
    handle = kernel.open()
    kernel.send(fuse.Opcode.WRITE, kernel.write_body(handle, CREATE_PARENT))
    service.finish_work()
    assert kernel.read(handle)[1][6:10] == bytes(4)
    kernel.release(handle)


def test_what_waits_for_a_file_that_is_closed_is_forgotten(service, kernel):
    first = kernel.open(uid=STRANGER)
    make_parent(service, kernel)
    assert kernel.write(first, CREATE_CHILD, os.O_NONBLOCK)[0] == 0
    executed = service.frontend._dispatcher.commands
    for _ in range(400):
        handle = kernel.open(uid=STRANGER)
        assert kernel.write(handle, CREATE_CHILD, os.O_NONBLOCK)[0] == 0
        kernel.release(handle)
    assert service.frontend._dispatcher.commands == executed + 400
    assert len(service.frontend.waiting()) == 1
    begin = time.monotonic()
    service.finish_work()
    assert time.monotonic() - begin < 20  # one key
    assert kernel.read(first)[1][6:10] == bytes(4)
    assert service.park.waiters.take_over() == []


def test_users_take_turns(service, kernel):
    """Who waits with one command does not wait for all of somebody who has many."""
    many = [kernel.open(uid=STRANGER) for _ in range(6)]
    one = kernel.open(uid=OPERATOR)
    make_parent(service, kernel)
    writes = [kernel.send(fuse.Opcode.WRITE, kernel.write_body(handle, CREATE_CHILD), uid=STRANGER) for handle in many]
    quick = kernel.send(fuse.Opcode.WRITE, kernel.write_body(one, GET_RANDOM), uid=OPERATOR)
    while quick not in kernel.replies:
        service.executor.join()
        while service.posted:
            service.posted.pop(0)()
        kernel.collect()
    assert sum(write in kernel.replies for write in writes) <= 2
    service.finish_work()
    assert all(kernel.replies[write][0] == 0 for write in writes)


def test_requests_that_wait_are_shared_out_too(service, kernel):
    handles = [kernel.open(uid=STRANGER) for _ in range(MAX_OPENERS_OF_ONE)]
    for handle in handles:
        kernel.send(fuse.Opcode.WRITE, kernel.write_body(handle, CREATE_RSA), uid=STRANGER)
    # more threads of the same client, on files whose command waits
    control = kernel.ioctl_body(handles[0], ptm_ioctl.NUMBERS[ptm.Command.GET_TPMESTABLISHED], b"", 8)
    assert kernel.call(fuse.Opcode.IOCTL, control, uid=STRANGER)[0] == errno.EBUSY
    mine = kernel.open(uid=OPERATOR)
    assert kernel.send(fuse.Opcode.WRITE, kernel.write_body(mine, GET_RANDOM), uid=OPERATOR) not in kernel.replies
    control = kernel.ioctl_body(mine, ptm_ioctl.NUMBERS[ptm.Command.GET_TPMESTABLISHED], b"", 8)
    assert kernel.send(fuse.Opcode.IOCTL, control, uid=OPERATOR) not in kernel.replies
    assert kernel.call(fuse.Opcode.IOCTL, control, uid=OPERATOR)[0] == errno.EBUSY  # one of a file
    service.executor.end()
    service.finish_work()


def test_a_fault_inside_costs_one_client_one_eio(service, kernel, monkeypatch):
    handle = kernel.open()
    monkeypatch.setattr(service.tpm, "begin", lambda *_: 1 / 0)
    assert kernel.write(handle, HIERARCHY_CHANGE_AUTH)[0] == errno.EIO
    monkeypatch.undo()
    assert service.events.failures[0].code is Code.INTERNAL
    assert exchange(kernel, handle, GET_RANDOM)[6:10] == bytes(4)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frame=st.binary(max_size=300), opcode=st.sampled_from([*fuse.Opcode, 0, 77]), body=st.binary(max_size=120))
def test_no_frame_ends_in_an_exception(service, frame, opcode, body):
    """Garbage, and right headers with garbage behind them."""
    framed = struct.pack("=IIQQIIIHH", 40 + len(body), opcode, 6, 0, 0, 0, 1, 0, 0) + body
    for data in (frame, framed):
        reply = service.frontend.answer(memoryview(bytearray(data)))
        assert reply is None or len(reply) >= 16
        with suppress(IndexError):
            service.posted.pop()()
    assert not [failure for failure in service.events.failures if failure.code is Code.INTERNAL]


def test_a_signal_for_a_queued_command_withdraws_it_and_leaves_the_one_in_work_alone(service, kernel):
    one, two = kernel.open(uid=STRANGER), kernel.open(uid=OPERATOR)
    running = kernel.send(fuse.Opcode.WRITE, kernel.write_body(one, CREATE_RSA))
    queued = kernel.send(fuse.Opcode.WRITE, kernel.write_body(two, CREATE_RSA))
    kernel.send(fuse.Opcode.INTERRUPT, struct.pack("=Q", queued))
    assert kernel.replies[queued] == (errno.EINTR, b"")
    service.finish_work()
    assert kernel.replies[running][0] == 0
    assert kernel.read(one)[1][6:10] == bytes(4)
    assert exchange(kernel, two, GET_RANDOM)[6:10] == bytes(4)


def test_who_only_waits_may_not_cancel_anothers_command(service, kernel):
    one, two = kernel.open(uid=STRANGER), kernel.open(uid=STRANGER)
    kernel.send(fuse.Opcode.WRITE, kernel.write_body(one, CREATE_RSA))
    kernel.send(fuse.Opcode.WRITE, kernel.write_body(two, GET_RANDOM))
    assert kernel.control(two, ptm.CancelTpmCommand(), uid=STRANGER) == (errno.EPERM, None)
    assert kernel.control(one, ptm.CancelTpmCommand(), uid=STRANGER)[0] == 0
    service.finish_work()


def test_without_a_thread_a_long_command_is_executed_all_the_same(service, kernel, monkeypatch):
    def no_thread(_thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", no_thread)
    handle = kernel.open()
    write = kernel.send(fuse.Opcode.WRITE, kernel.write_body(handle, CREATE_RSA))
    service.finish_work()
    assert kernel.replies[write][0] == 0
    assert kernel.read(handle)[1][6:10] == bytes(4)
    assert not service.executor.busy


def test_a_fault_on_the_worker_is_a_tpm_error_and_nobody_hangs(service, kernel, monkeypatch):
    handle = kernel.open()
    monkeypatch.setattr(service.tpm, "execute", lambda *_: 1 / 0)
    write = kernel.send(fuse.Opcode.WRITE, kernel.write_body(handle, CREATE_RSA))
    service.finish_work()
    monkeypatch.undo()
    assert kernel.replies[write][0] == 0
    assert kernel.read(handle)[1] == h("80010000000a00000101")
    assert service.events.failures[0].code is Code.INTERNAL
    assert exchange(kernel, handle, GET_RANDOM)[6:10] == bytes(4)


def test_a_locked_or_failed_tpm_is_heard_of(service, kernel):
    service.storage.failure = VtpmError(Code.STATE_FULL, "no space")
    response = exchange(kernel, kernel.open(), HIERARCHY_CHANGE_AUTH)
    assert response[6:10] == h("00000101")  # TPM_RC_FAILURE
    assert service.events.executions == [(HIERARCHY_CHANGE_AUTH, response)]
    service.storage.failure = None
