"""The CUSE front end over the real libtpms: open files, responses, waiting, interrupts, rights, state blobs."""

import errno
import os
import struct
import time
from contextlib import suppress
from select import POLLIN, POLLOUT

import pytest
from cuse_service import OPERATOR, RIGHTS, STRANGER, CuseService
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tpm_commands import (
    CREATE_CHILD,
    CREATE_PARENT,
    CREATE_RSA,
    GET_RANDOM,
    HIERARCHY_CHANGE_AUTH,
    PCR_EXTEND_16,
    PCR_READ_16,
    STARTUP_CLEAR,
    create_rsa,
    flush_context,
)

from swtpm_svc.continuity.handover import MAX_OPENERS
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.frontends.opener import MAX_OPENERS_OF_ONE
from swtpm_svc.state import blob as state_blob
from swtpm_svc.state.encryption import Keys, StateKey
from swtpm_svc.tpm import libtpms
from swtpm_svc.tpm.controller import Rights
from swtpm_svc.tpm.executor import Executor
from swtpm_svc.wire import fuse, ptm, ptm_ioctl

h = bytes.fromhex


@pytest.fixture
def service():
    service = CuseService().start()
    yield service
    service.close()


@pytest.fixture
def kernel(service):
    return service.kernel


def exchange(kernel, handle, command):
    error, body = kernel.call_and_wait(fuse.Opcode.WRITE, kernel.write_body(handle, command))
    assert (error, struct.unpack_from("=I", body)[0]) == (0, len(command))
    error, response = kernel.read(handle)
    assert error == 0
    return response


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


def test_cancel_by_ioctl_and_cancel_of_nothing(service, kernel):
    one, two = kernel.open(), kernel.open()
    assert kernel.control(two, ptm.CancelTpmCommand())[1] == ptm.Result(0)
    kernel.write(one, CREATE_RSA, os.O_NONBLOCK)
    assert kernel.control(two, ptm.CancelTpmCommand())[1] == ptm.Result(0)
    service.finish_work()
    assert kernel.read(one)[1][6:10] in (h("00000909"), bytes(4))


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


@pytest.mark.parametrize("request_", [
    ptm.Init(0), ptm.Shutdown(), ptm.Stop(), ptm.SetLocality(1), ptm.HashStart(), ptm.HashData(b"x"), ptm.HashEnd(),
    ptm.CancelTpmCommand(), ptm.StoreVolatile(), ptm.ResetTpmEstablished(3), ptm.GetStateBlob(0, 1, 0),
    ptm.SetStateBlob(0, 1, b""), ptm.SetBufferSize(4096), ptm.LockStorage(0),
], ids=lambda request: type(request).__name__)  # fmt: skip
def test_control_operations_need_rights(service, kernel, request_):
    handle = kernel.open()
    assert kernel.control(handle, request_, uid=STRANGER) == (errno.EPERM, None)
    assert service.events.refusals == [(STRANGER, Code.NOT_PERMITTED)]
    assert exchange(kernel, handle, GET_RANDOM)[6:10] == bytes(4)


@pytest.mark.parametrize("request_", [
    ptm.GetCapability(), ptm.GetTpmEstablished(), ptm.SetLocality(0), ptm.GetConfig(), ptm.SetBufferSize(0), ptm.GetInfo(1, 0),
], ids=lambda request: type(request).__name__)  # fmt: skip
def test_what_everyone_may_ask_who_may_open_the_device(kernel, request_):
    assert kernel.control(kernel.open(), request_, uid=STRANGER)[0] == 0


def test_state_in_clear_is_for_root_and_the_service_only(kernel):
    handle = kernel.open()
    assert kernel.control(handle, ptm.GetStateBlob(0, 1, 0), uid=OPERATOR) == (errno.EPERM, None)
    assert kernel.control(handle, ptm.GetStateBlob(0, 1, 0), uid=0)[1].tpm_result == 0


def get_blob(kernel, handle, blob_type):
    blob = b""
    while True:
        error, reply = kernel.control(handle, ptm.GetStateBlob(0, blob_type, len(blob)))
        assert (error, reply.tpm_result) == (0, 0)
        assert len(reply.data) <= 3072
        blob += reply.data
        if reply.total_length == len(blob):
            return blob


def set_blob(kernel, handle, blob_type, blob):
    for start in range(0, len(blob) + 1, 3072):
        error, reply = kernel.control(handle, ptm.SetStateBlob(0, blob_type, blob[start : start + 3072]))
        if error or reply.tpm_result:
            return error, reply
    return error, reply


def test_state_blobs_go_out_and_in_by_ioctl(service, kernel):
    handle = kernel.open()
    exchange(kernel, handle, PCR_EXTEND_16)
    extended = exchange(kernel, handle, PCR_READ_16)
    permanent, volatile = get_blob(kernel, handle, 1), get_blob(kernel, handle, 2)
    assert len(volatile) > 2 * 3072
    assert kernel.control(handle, ptm.SetStateBlob(0, 1, permanent[:10]))[1] == ptm.Result(0x0A)  # not while it runs
    kernel.control(handle, ptm.Stop())
    assert set_blob(kernel, handle, 1, permanent) == (0, ptm.Result(0))
    assert set_blob(kernel, handle, 2, volatile) == (0, ptm.Result(0))
    assert kernel.control(handle, ptm.Init(ptm.INIT_FLAG_DELETE_VOLATILE))[1] == ptm.Result(0)
    assert exchange(kernel, handle, PCR_READ_16) == extended


def test_state_blobs_go_out_by_read_and_in_by_write(service, kernel):
    """The read() and write() interface that tpm_ioctl.h describes at struct ptm_getstate and ptm_setstate."""
    handle = kernel.open()
    first = kernel.control(handle, ptm.GetStateBlob(0, 2, 0))[1]
    whole = first.data
    while piece := kernel.read(handle, 1000)[1]:
        whole += piece
    assert len(whole) == first.total_length > 2 * 3072
    permanent = get_blob(kernel, handle, 1)
    kernel.control(handle, ptm.Stop())
    for blob_type, blob in ((1, permanent), (2, whole)):
        assert kernel.control(handle, ptm.SetStateBlob(0, blob_type, b""))[1] == ptm.Result(0)
        assert kernel.write(handle, blob)[0] == 0
        assert kernel.control(handle, ptm.SetStateBlob(0, blob_type, b""))[1] == ptm.Result(0)
    assert kernel.control(handle, ptm.Init(1))[1] == ptm.Result(0)
    assert exchange(kernel, handle, GET_RANDOM)[6:10] == bytes(4)


K128, K256 = StateKey(bytes(16)), StateKey(bytes(32))
#: The keys, what a blob is asked for as, whether one without the right to secrets gets it, and what it is then said to
#: be.
SECRECY = [
    (Keys(K128, None), 0, True, ptm.STATE_FLAG_ENCRYPTED),
    (Keys(K128, None), ptm.STATE_FLAG_DECRYPTED, False, 0),
    (Keys(None, K256), 0, True, 0),
    (Keys(None, K256), ptm.STATE_FLAG_DECRYPTED, True, 0),
    (Keys(K128, K256), 0, True, ptm.STATE_FLAG_ENCRYPTED),
    (Keys(K128, K256), ptm.STATE_FLAG_DECRYPTED, True, 0),
]


@pytest.mark.parametrize(("keys", "wanted", "is_given", "flags"), SECRECY, ids=str)
def test_an_encrypted_blob_is_for_all_who_may_control(keys, wanted, is_given, flags):
    """In chunks, of which each says what the blob is, and which are all of one: encrypted twice it is never the
    same."""
    service = CuseService(keys=keys).start()
    try:
        kernel = service.kernel
        handle = kernel.open()
        if not is_given:
            assert kernel.control(handle, ptm.GetStateBlob(wanted, 2, 0), uid=OPERATOR) == (errno.EPERM, None)
        whole, total = b"", 1
        while len(whole) < total:
            _, reply = kernel.control(handle, ptm.GetStateBlob(wanted, 2, len(whole)), uid=OPERATOR if is_given else 0)
            assert (reply.tpm_result, reply.state_flags) == (0, flags)
            whole, total = whole + reply.data, reply.total_length
        assert len(whole) > 2 * 3072
        assert state_blob.payload(state_blob.decode(whole), keys)
    finally:
        service.close()


@pytest.mark.parametrize("blob", [b"\xde\xad\xbe\xef", b"", bytes(3071), bytes(4000)])
def test_a_garbage_state_blob_is_refused_and_changes_nothing(service, kernel, blob):
    handle = kernel.open()
    kernel.control(handle, ptm.Stop())
    before = dict(service.storage.blobs)
    if blob:
        assert set_blob(kernel, handle, 1, blob)[1].tpm_result != 0
    else:
        kernel.control(handle, ptm.SetStateBlob(0, 1, b""))
        assert kernel.control(handle, ptm.SetStateBlob(0, 1, b""))[1].tpm_result != 0
    assert service.storage.blobs == before
    assert kernel.control(handle, ptm.Init(1))[1] == ptm.Result(0)
    assert exchange(kernel, handle, STARTUP_CLEAR)[6:10] == bytes(4)


def test_an_endless_upload_is_refused(kernel):
    handle = kernel.open()
    kernel.control(handle, ptm.Stop())
    kernel.control(handle, ptm.SetStateBlob(0, 1, b""))
    for _ in range(40):
        error, _body = kernel.write(handle, bytes(60000))
        if error:
            break
    assert error == errno.E2BIG


def test_control_results_while_stopped_are_those_of_swtpm(kernel):
    """Recorded from swtpm 0.7.1 after CMD_STOP."""
    handle = kernel.open()
    assert kernel.control(handle, ptm.Stop())[1] == ptm.Result(0)
    for request in (
        ptm.GetTpmEstablished(), ptm.HashStart(), ptm.StoreVolatile(), ptm.GetStateBlob(0, 1, 0), ptm.CancelTpmCommand(),
        ptm.ResetTpmEstablished(3),
    ):  # fmt: skip
        assert kernel.control(handle, request)[1].tpm_result == 0x0A, request
    assert kernel.control(handle, ptm.SetLocality(4))[1] == ptm.Result(0)
    assert kernel.control(handle, ptm.SetLocality(5))[1] == ptm.Result(0x3D)
    assert kernel.control(handle, ptm.SetLocality(0))[1] == ptm.Result(0)
    _size, least, most = libtpms.set_buffer_size(0)  # each version of it has a minimum of its own
    assert kernel.control(handle, ptm.SetBufferSize(1))[1] == ptm.BufferSizeReply(0, least, least, most)
    assert kernel.control(handle, ptm.SetBufferSize(0xFFFFF))[1] == ptm.BufferSizeReply(0, most, least, most)
    assert exchange(kernel, handle, GET_RANDOM) == h("80010000000a00000101")


def test_control_results_while_running_are_those_of_swtpm(kernel):
    handle = kernel.open()
    assert kernel.control(handle, ptm.SetBufferSize(2048))[1].tpm_result == 0x0A
    assert kernel.control(handle, ptm.GetStateBlob(0, 3, 0))[1].tpm_result == 0x800
    assert kernel.control(handle, ptm.GetStateBlob(0, 9, 0))[1].tpm_result == 0x800
    assert kernel.control(handle, ptm.SetDataFd())[1].tpm_result == 0x0A
    assert kernel.control(handle, ptm.GetInfo(1, 0))[1].data.startswith(b'{"TPMSpecification":')


def test_shutdown_tells_the_service(service, kernel):
    handle = kernel.open()
    assert kernel.control(handle, ptm.Shutdown())[1] == ptm.Result(0)
    assert service.shutdowns == [1]
    assert not service.tpm.is_running


@pytest.mark.parametrize(
    ("number", "data", "expected"),
    [
        (0x5401, b"", errno.ENOTTY),  # TCGETS
        (0xC0045000 | 99, bytes(4), errno.ENOTTY),
        (ptm_ioctl.NUMBERS[ptm.Command.INIT], b"\0\0", errno.EINVAL),
        (ptm_ioctl.NUMBERS[ptm.Command.HASH_DATA], b"\xff" * 4100, errno.EINVAL),
    ],
)
def test_wrong_ioctls_are_refused(kernel, number, data, expected):
    handle = kernel.open()
    assert kernel.call(fuse.Opcode.IOCTL, kernel.ioctl_body(handle, number, data, 4))[0] == expected


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


class LookUps:
    """Rights that are not known until the test says so."""

    def __init__(self):
        self.asked = []

    def rights(self, caller):
        return RIGHTS.get(caller.uid)

    def look_up(self, caller, then):
        self.asked.append((caller.uid, then))


@pytest.fixture
def look_ups(service, kernel):
    look_ups = LookUps()
    kernel.serve_one = service.make_frontend(rights_of=look_ups.rights, look_up=look_ups.look_up).serve_one
    return look_ups


def init_body(kernel, handle):
    number, data = ptm_ioctl.pack(ptm.Init(1))
    return kernel.ioctl_body(handle, number, bytes(data), len(data))


def test_who_has_to_be_looked_up_waits_alone(service, kernel, look_ups):
    handle, other = kernel.open(uid=STRANGER), kernel.open(uid=STRANGER)
    before = exchange(kernel, other, PCR_EXTEND_16)
    assert before[6:10] == bytes(4)
    extended = exchange(kernel, other, PCR_READ_16)
    waits = [kernel.send(fuse.Opcode.IOCTL, init_body(kernel, each), uid=STRANGER) for each in (handle, other)]
    assert not any(each in kernel.replies for each in waits)
    assert exchange(kernel, other, PCR_READ_16) == extended  # everything else goes on, his too
    assert kernel.control(other, ptm.GetTpmEstablished(), uid=STRANGER)[0] == 0
    (_uid, first), (_uid, second) = look_ups.asked
    first(Rights(control=False, secrets=False))
    kernel.collect()
    assert kernel.replies[waits[0]] == (errno.EPERM, b"")
    assert exchange(kernel, other, PCR_READ_16) == extended
    second(Rights(control=True, secrets=False))
    service.finish_work()
    kernel.collect()
    assert kernel.replies[waits[1]][0] == 0
    assert service.park.waiters.take_over() == []
    assert exchange(kernel, other, STARTUP_CLEAR)[6:10] == bytes(4)


def test_who_cancels_his_own_command_need_not_be_looked_up(service, kernel, look_ups):
    handle = kernel.open(uid=STRANGER)
    write = kernel.send(fuse.Opcode.WRITE, kernel.write_body(handle, CREATE_RSA), uid=STRANGER)
    assert kernel.send(fuse.Opcode.IOCTL, init_body(kernel, handle), uid=STRANGER) not in kernel.replies
    assert kernel.control(handle, ptm.CancelTpmCommand(), uid=STRANGER)[0] == 0
    assert len(look_ups.asked) == 1
    service.finish_work()
    assert kernel.replies[write][0] == 0


def test_who_gives_up_while_he_is_looked_up_does_nothing_later(service, kernel, look_ups):
    handle = kernel.open(uid=STRANGER)
    request = kernel.send(fuse.Opcode.IOCTL, init_body(kernel, handle), uid=STRANGER)
    kernel.send(fuse.Opcode.INTERRUPT, struct.pack("=Q", request))
    assert kernel.replies[request] == (errno.EINTR, b"")
    kernel.release(handle)
    look_ups.asked[0][1](Rights(control=True, secrets=False))
    kernel.collect()
    assert service.events.controls == []
    assert exchange(kernel, kernel.open(), GET_RANDOM)[6:10] == bytes(4)  # it was not reset


def test_a_fault_inside_costs_one_client_one_eio(service, kernel, monkeypatch):
    handle = kernel.open()
    monkeypatch.setattr(service.tpm, "begin", lambda *_: 1 / 0)
    assert kernel.write(handle, GET_RANDOM)[0] == errno.EIO
    monkeypatch.undo()
    assert service.events.failures[0].code is Code.INTERNAL
    assert exchange(kernel, handle, GET_RANDOM)[6:10] == bytes(4)


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


def test_an_upload_that_was_given_up_does_not_take_commands_for_pieces(kernel):
    handle = kernel.open()
    kernel.control(handle, ptm.Stop())
    kernel.control(handle, ptm.SetStateBlob(0, 1, b""))
    kernel.control(handle, ptm.Init(1))
    assert exchange(kernel, handle, STARTUP_CLEAR)[6:10] == bytes(4)


def test_a_locked_or_failed_tpm_is_heard_of(service, kernel):
    service.storage.failure = VtpmError(Code.STATE_FULL, "no space")
    response = exchange(kernel, kernel.open(), HIERARCHY_CHANGE_AUTH)
    assert response[6:10] == h("00000101")  # TPM_RC_FAILURE
    assert service.events.executions == [(HIERARCHY_CHANGE_AUTH, response)]
    service.storage.failure = None
