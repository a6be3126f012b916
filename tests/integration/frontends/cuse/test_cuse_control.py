"""The CUSE front end over the real libtpms: control operations, rights, state blobs."""

import errno
import os
import struct

import pytest
from cuse_service import OPERATOR, RIGHTS, STRANGER, CuseService, exchange
from tpm_commands import (
    CREATE_RSA,
    GET_RANDOM,
    PCR_EXTEND_16,
    PCR_READ_16,
    STARTUP_CLEAR,
)

from swtpm_svc.errors import Code
from swtpm_svc.frontends.cuse.device_opener import LenientOpener
from swtpm_svc.state import blob as state_blob
from swtpm_svc.state.encryption import Keys, StateKey
from swtpm_svc.tpm import libtpms
from swtpm_svc.tpm.controller import Rights
from swtpm_svc.wire import fuse, ptm, ptm_ioctl

h = bytes.fromhex


def test_cancel_by_ioctl_and_cancel_of_nothing(service, kernel):
    one, two = kernel.open(), kernel.open()
    assert kernel.control(two, ptm.CancelTpmCommand())[1] == ptm.Result(0)
    kernel.write(one, CREATE_RSA, os.O_NONBLOCK)
    assert kernel.control(two, ptm.CancelTpmCommand())[1] == ptm.Result(0)
    service.finish_work()
    assert kernel.read(one)[1][6:10] in (h("00000909"), bytes(4))


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


def test_an_ioctl_that_the_device_of_swtpm_cuse_does_not_know(service, kernel):
    kernel.serve_one = service.make_frontend(make_opener=LenientOpener).serve_one
    handle = kernel.open()
    for number in (0x5401, 0xC0045000 | 99):
        assert kernel.call(fuse.Opcode.IOCTL, kernel.ioctl_body(handle, number, bytes(4), 4))[0] == errno.EINVAL


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
    yield look_ups
    look_ups.asked.clear()


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


def test_an_upload_that_was_given_up_does_not_take_commands_for_pieces(kernel):
    handle = kernel.open()
    kernel.control(handle, ptm.Stop())
    kernel.control(handle, ptm.SetStateBlob(0, 1, b""))
    kernel.control(handle, ptm.Init(1))
    assert exchange(kernel, handle, STARTUP_CLEAR)[6:10] == bytes(4)
