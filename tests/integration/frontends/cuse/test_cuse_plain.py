"""Plain requests are served in C: that they are, what is left to Python, and that both see the same open files.

`python` has the requests that came to Python.
"""

import errno
import os
import select
import socket
import struct
import time
from select import POLLIN, POLLOUT

import pytest
from cuse_kernel import OUT
from cuse_service import OPERATOR, STRANGER, CuseService, exchange
from tpm_commands import (
    CREATE_RSA,
    GET_RANDOM,
    HIERARCHY_CHANGE_AUTH,
    NV_DEFINE_COUNTER,
    NV_INCREMENT,
    NV_READ_COUNTER,
    PCR_EXTEND_16,
    PCR_READ_16,
    STARTUP_CLEAR,
    TPM12_GET_RANDOM,
    TPM12_PCR_EXTEND_10,
    result_of,
    with_session,
)

from swtpm_svc.continuity.handover import MAX_OPENERS
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.frontends.cuse.device_opener import LenientOpener
from swtpm_svc.tpm import libtpms
from swtpm_svc.tpm.device import Device
from swtpm_svc.wire import cuse, fuse, ptm
from swtpm_svc.wire.caller import Caller

h = bytes.fromhex

#: TPM2_PCR_Read without its parameter.
REFUSED = h("80010000000a0000017e")
GET_RANDOM_CODE, SIGN_CODE = 0x17B, 0x15D
SHUTDOWN_STATE = h("80010000000c000001450001")
#: A PCR that TPM2_Shutdown(STATE) keeps: the first extend after it undoes that, in what is stored.
PCR_EXTEND_0 = with_session(0x182, h("00000000"), h("00000001 000b") + bytes(32))


@pytest.fixture
def python(service, monkeypatch):
    return watch_python(service.frontend, monkeypatch)


TYPES = {
    fuse.Opcode.OPEN: cuse.Open,
    fuse.Opcode.READ: cuse.Read,
    fuse.Opcode.WRITE: cuse.Write,
    fuse.Opcode.RELEASE: cuse.Release,
    fuse.Opcode.IOCTL: cuse.Ioctl,
    fuse.Opcode.POLL: cuse.Poll,
    fuse.Opcode.INTERRUPT: cuse.Interrupt,
}


def watch_python(frontend, monkeypatch):
    """The requests that `frontend` answers in Python, as they come."""
    requests, answer = [], frontend.answer

    def noted(frame, *executed):
        requests.append(TYPES[cuse.opcode_of(frame)])
        return answer(frame, *executed)

    monkeypatch.setattr(frontend, "answer", noted)
    return requests


def commands(service):
    return service.frontend._dispatcher.commands


def size_of(response):
    return int.from_bytes(response[2:6], "big")


# --- it is taken
# ------------------------------------------------------------------------------------------------------------


def test_python_sees_nothing_of_a_plain_command(service, kernel, python):
    handle = kernel.open()
    python.clear()
    counted = commands(service)
    for command in (GET_RANDOM, PCR_EXTEND_16, PCR_READ_16) * 20:
        response = exchange(kernel, handle, command)
        assert (size_of(response), result_of(response)) == (len(response), 0)
    assert python == []
    assert commands(service) - counted == 60


def test_python_sees_nothing_of_a_plain_command_of_a_tpm_1_2(monkeypatch):
    service = CuseService("1.2").start()
    try:
        python = watch_python(service.frontend, monkeypatch)
        handle = service.kernel.open()
        for command in (TPM12_GET_RANDOM, TPM12_PCR_EXTEND_10):
            assert result_of(exchange(service.kernel, handle, command)) == 0
        assert python == [cuse.Open]
    finally:
        service.close()


def test_what_is_answered_is_what_python_answers(service, kernel):
    table = [
        PCR_READ_16,
        REFUSED,
        NV_DEFINE_COUNTER,
        NV_INCREMENT,
        NV_READ_COUNTER,
        NV_DEFINE_COUNTER,
        PCR_EXTEND_16,
        PCR_READ_16,
    ]
    handle = kernel.open()
    answers = [[exchange(kernel, handle, command) for command in table]]
    service.tpm.shut_down()
    service.storage.blobs.clear()
    service.start()
    service.frontend._dispatcher.trace = True
    answers.append([exchange(kernel, handle, command) for command in table])
    assert answers[0] == answers[1]
    assert [command for command, _response in service.events.executions] == table


def test_two_open_files_in_turns(service, kernel, python):
    one, two = kernel.open(uid=STRANGER), kernel.open(uid=OPERATOR)
    python.clear()
    for _ in range(5):
        assert kernel.write(one, GET_RANDOM)[0] == 0
        assert kernel.write(two, PCR_READ_16)[0] == 0
        assert len(kernel.read(one, 7)[1]) == 7
        assert len(kernel.read(two)[1]) > 32
        assert len(kernel.read(one)[1]) == 13
    assert python == []


def test_every_open_file_that_there_may_be_and_one_more(service, kernel, python):
    """Files that were open with a predecessor that was killed come on top; for those there is no place in C."""
    handles = [kernel.open(uid=number % 4) for number in range(MAX_OPENERS)]
    python.clear()
    for handle in (handles[0], handles[500], handles[-1]):
        assert len(exchange(kernel, handle, GET_RANDOM)) == 20
    assert python == []
    assert len(exchange(kernel, 4711, GET_RANDOM)) == 20
    assert len(exchange(kernel, 4711, GET_RANDOM)) == 20
    assert python == [cuse.Write, cuse.Read] * 2
    for handle in (handles[3], 4711, handles[-1]):
        kernel.release(handle)
    python.clear()
    again = kernel.open(uid=3)
    assert len(exchange(kernel, again, GET_RANDOM)) == 20
    assert len(exchange(kernel, handles[-2], GET_RANDOM)) == 20
    assert python == [cuse.Open]


@pytest.mark.parametrize("size", [1, 9, 19, 20, 4096])
def test_a_response_in_pieces(kernel, python, size):
    handle = kernel.open()
    python.clear()
    for _ in range(2):
        kernel.write(handle, GET_RANDOM)
        pieces = []
        while sum(map(len, pieces)) < 20:
            pieces.append(kernel.read(handle, size)[1])
        assert [len(piece) for piece in pieces[:-1]] == [size] * (len(pieces) - 1)
        assert size_of(b"".join(pieces)) == 20
    assert python == []
    assert kernel.read(handle, 0) == kernel.read(handle, size) == (0, b"")
    assert python == [cuse.Read] * 2


def test_a_command_after_a_piece_and_none_before(kernel, python):
    handle = kernel.open()
    python.clear()
    kernel.write(handle, PCR_READ_16)
    assert kernel.write(handle, GET_RANDOM)[0] == errno.EBUSY
    assert kernel.read(handle, 0) == (0, b"")
    assert kernel.write(handle, GET_RANDOM)[0] == errno.EBUSY
    assert python == [cuse.Write] * 2
    assert len(kernel.read(handle, 4)[1]) == 4
    assert kernel.write(handle, GET_RANDOM)[0] == 0
    assert len(kernel.read(handle)[1]) == 20
    assert python == [cuse.Write] * 2


def test_without_blocking(kernel, python):
    handle = kernel.open()
    python.clear()
    assert kernel.write(handle, GET_RANDOM, os.O_NONBLOCK)[0] == 0
    assert len(kernel.read(handle, flags=os.O_NONBLOCK)[1]) == 20
    assert python == []


def test_the_record_is_gone_with_the_answer(service, kernel):
    handle = kernel.open()
    unique = slice(8, 16)
    for request in (
        lambda: kernel.write(handle, GET_RANDOM),
        lambda: kernel.read(handle, 5),
        lambda: kernel.read(handle),
    ):
        request()
        assert int.from_bytes(service.park.slot[4:8], "little") in (fuse.Opcode.WRITE, fuse.Opcode.READ)
        assert bytes(service.park.slot[unique]) == bytes(8)


def test_clients_that_never_pause_do_not_put_off_what_is_due(service, kernel):
    """There is always a request to be read, and so no wait that a signal could end."""
    kernel.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    handle = kernel.open()
    key = exchange(kernel, handle, CREATE_RSA)[10:14]
    sign = with_session(SIGN_CODE, key, h("0020") + bytes(32) + h("0014 000b 8024 40000007 0000"))
    while result_of(exchange(kernel, handle, sign)) == 0x922:  # TPM_RC_RETRY: it tests itself first
        pass
    libtpms.set_plain(frozenset((GET_RANDOM_CODE, SIGN_CODE)))  # some ms each, by no means plain otherwise
    with select.epoll() as epoll:
        epoll.register(service.sockets[0], select.EPOLLIN)
        frontend = service.make_frontend(lend=lambda: (epoll.fileno(), time.monotonic() + 0.03))
        kernel.serve_one = frontend.serve_one
        handle = kernel.open()
        kernel.write(handle, GET_RANDOM)
        frames = [(fuse.Opcode.READ, kernel.read_body(handle, size)) for size in [0] * 70 + [4096]]
        frames += [
            (fuse.Opcode.WRITE, kernel.write_body(handle, sign)),
            (fuse.Opcode.READ, kernel.read_body(handle)),
        ] * 100
        for opcode, body in frames:
            kernel.sock.send(request(opcode, body))
        before = frontend._dispatcher.commands
        frontend.serve_one()
        assert frontend._dispatcher.commands - before < 50
        assert not os.get_blocking(service.sockets[0].fileno())
    kernel.collect = lambda: None  # they all have the same number


# --- what is left to Python
# -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "result"),
    [
        (REFUSED, 0x1DA),
        (h("80010000000a0000ffff"), 0x143),
        (h("80010000000a20001000"), 0x143),
        (h("80010000000c0000017b000800"), 0x142),  # longer than it says
        (h("80010000100000000 17b".replace(" ", "")) + bytes(4086), 0x095),
        (SHUTDOWN_STATE, 0),
        (HIERARCHY_CHANGE_AUTH, 0),
        (CREATE_RSA, 0),
    ],
    ids=["refused", "unknown", "vendor", "longer", "4096", "shutdown", "stored", "long"],
)
def test_each_other_command_comes_to_python_and_the_next_plain_one_does_not(service, kernel, python, command, result):
    handle = kernel.open()
    python.clear()
    counted = commands(service)
    response = exchange(kernel, handle, command)
    assert result_of(response) in (result, result | 0x100)
    assert python[0] is cuse.Write
    kernel.read(handle)
    python.clear()
    assert len(exchange(kernel, handle, GET_RANDOM)) == 20
    assert python == []
    assert commands(service) - counted == 2


def test_a_command_that_was_refused_was_executed_once(service, kernel, python):
    """And its response is one like any other: it keeps the next command out until it is read."""
    handle = kernel.open()
    begin = service.tpm.begin
    service.tpm.begin = None
    assert kernel.write(handle, REFUSED)[0] == 0
    service.tpm.begin = begin
    assert kernel.write(handle, GET_RANDOM)[0] == errno.EBUSY
    assert kernel.read(handle, 4)[1] + kernel.read(handle)[1] == h("80010000000a000001da")
    assert service.events.executions == []


@pytest.mark.parametrize("flags", [0, os.O_NONBLOCK])
def test_a_plain_command_that_stores_is_answered_when_it_is_stored(service, kernel, python, flags):
    handle = kernel.open()
    assert result_of(exchange(kernel, handle, SHUTDOWN_STATE)) == 0
    begin = service.tpm.begin
    service.tpm.begin = None
    stored = service.storage.blobs["permall"]
    write = kernel.send(fuse.Opcode.WRITE, kernel.write_body(handle, PCR_EXTEND_0, flags))
    service.tpm.begin = begin
    assert (write in kernel.replies) == bool(flags)
    service.finish_work()
    assert kernel.replies[write] == (0, struct.pack("=II", len(PCR_EXTEND_0), 0))
    assert service.storage.blobs["permall"] != stored
    assert result_of(kernel.read(handle)[1]) == 0
    python.clear()
    assert result_of(exchange(kernel, handle, PCR_EXTEND_0)) == 0
    assert python == []


def test_a_plain_command_that_cannot_be_stored(service, kernel):
    """It stores nothing of its own, and has happened: as in Python (decisions/0014)."""
    handle = kernel.open()
    assert result_of(exchange(kernel, handle, SHUTDOWN_STATE)) == 0
    failure = service.storage.failure = VtpmError(Code.STATE_FULL, "the disk is full")
    assert result_of(exchange(kernel, handle, PCR_EXTEND_0)) == 0
    assert service.events.failures == [failure]
    assert result_of(exchange(kernel, handle, GET_RANDOM)) == 0x101
    service.storage.failure = None
    assert result_of(exchange(kernel, handle, GET_RANDOM)) == 0


def test_a_tpm_that_does_not_run(service, kernel):
    handle = kernel.open()
    for _ in range(2):
        assert result_of(exchange(kernel, handle, GET_RANDOM)) == 0
        assert kernel.control(handle, ptm.Stop())[1] == ptm.Result(0)
        assert exchange(kernel, handle, GET_RANDOM) == h("80010000000a00000101")
        assert kernel.control(handle, ptm.Init(0))[1] == ptm.Result(0)
        assert exchange(kernel, handle, GET_RANDOM) == h("80010000000a00000100")
        assert result_of(exchange(kernel, handle, STARTUP_CLEAR)) == 0


def test_what_is_known_of_the_tpm_is_right_after_it(service, kernel, python):
    handle = kernel.open()
    assert result_of(exchange(kernel, handle, SHUTDOWN_STATE)) == 0
    service.tpm.store_volatile()
    python.clear()
    assert result_of(exchange(kernel, handle, PCR_READ_16)) == 0
    assert python == []
    snapshot = service.tpm.snapshot()
    assert (snapshot.is_shut_down, snapshot.volatile_is_stored) == (False, False)


def test_the_locality_is_that_of_the_device(service, kernel):
    """A plain command has no other."""
    handle = kernel.open()
    reset = with_session(0x13D, h("00000014"))  # TPM2_PCR_Reset of PCR 20
    assert result_of(exchange(kernel, handle, reset)) == 0x907
    assert kernel.control(handle, ptm.SetLocality(2))[1] == ptm.Result(0)
    assert result_of(exchange(kernel, handle, reset)) == 0
    assert kernel.control(handle, ptm.SetLocality(0))[1] == ptm.Result(0)
    assert result_of(exchange(kernel, handle, reset)) == 0x907


# --- a file that Python has for a while
# ------------------------------------------------------------------------------------


def test_a_file_that_a_killed_predecessor_had(kernel, python):
    assert kernel.read(4711)[0] == errno.EIO
    assert len(exchange(kernel, 4711, GET_RANDOM)) == 20
    assert python == [cuse.Read]
    assert len(exchange(kernel, 4713, GET_RANDOM)) == 20
    assert kernel.read(4713) == (0, b"")
    assert python == [cuse.Read, cuse.Write, cuse.Read]


def test_a_request_in_work_keeps_its_file_until_it_is_answered(service, kernel, python):
    handle, other = kernel.open(), kernel.open()
    assert kernel.write(handle, CREATE_RSA, os.O_NONBLOCK)[0] == 0
    read = kernel.send(fuse.Opcode.READ, kernel.read_body(handle))
    kernel.send(fuse.Opcode.INTERRUPT, struct.pack("=Q", read))
    assert kernel.replies[read] == (errno.EINTR, b"")
    assert kernel.write(handle, GET_RANDOM)[0] == errno.EBUSY
    queued = kernel.send(fuse.Opcode.WRITE, kernel.write_body(other, GET_RANDOM))
    assert queued not in kernel.replies
    service.finish_work()
    assert result_of(kernel.read(handle)[1]) == 0
    assert len(kernel.read(other)[1]) == 20
    python.clear()
    for each in (handle, other):
        assert len(exchange(kernel, each, GET_RANDOM)) == 20
    kernel.send(fuse.Opcode.INTERRUPT, struct.pack("=Q", read))
    assert python == [cuse.Interrupt]


def test_a_file_that_is_closed_leaves_nothing_to_who_opens_next(service, kernel):
    one = kernel.open()
    kernel.write(one, GET_RANDOM)
    assert kernel.release(one)[0] == 0
    two = kernel.open()
    assert kernel.read(two) == (0, b"")
    kernel.write(two, CREATE_RSA, os.O_NONBLOCK)
    assert kernel.release(two)[0] == 0
    three = kernel.open()
    service.finish_work()
    assert kernel.read(three) == (0, b"")
    assert len(exchange(kernel, three, GET_RANDOM)) == 20
    # what comes for a file that was closed is as for one that was never opened
    assert kernel.read(one)[0] == errno.EIO


def test_who_polls_is_woken_by_a_command_and_by_its_response(kernel, python):
    handle = kernel.open()
    kernel.poll(handle, poll_handle=77, schedule=True)
    python.clear()
    kernel.write(handle, GET_RANDOM)
    assert kernel.notices == [(fuse.NOTIFY_POLL, struct.pack("=Q", 77))]
    assert kernel.poll(handle, poll_handle=78, schedule=True) & (POLLIN | POLLOUT) == POLLIN
    assert len(kernel.read(handle)[1]) == 20
    assert kernel.notices == [(fuse.NOTIFY_POLL, struct.pack("=Q", number)) for number in (77, 78)]
    assert python == [cuse.Write, cuse.Poll, cuse.Read]
    assert kernel.poll(handle) & (POLLIN | POLLOUT) == POLLOUT
    python.clear()
    kernel.write(handle, GET_RANDOM)
    assert python == []
    assert kernel.poll(handle) & (POLLIN | POLLOUT) == POLLIN
    assert len(kernel.read(handle)[1]) == 20
    assert python == [cuse.Poll]


def test_a_blob_in_transfer_takes_what_would_be_a_command(service, kernel):
    handle = kernel.open()
    kernel.control(handle, ptm.GetStateBlob(0, 2, 0))
    assert len(kernel.read(handle, 100)[1]) == 100
    assert len(exchange(kernel, handle, GET_RANDOM)) == 20
    assert kernel.read(handle) == (0, b""), "the command has taken the place of the blob"
    kernel.control(handle, ptm.Stop())
    kernel.control(handle, ptm.Init(0))
    assert result_of(exchange(kernel, handle, STARTUP_CLEAR)) == 0
    kernel.control(handle, ptm.SetStateBlob(0, 1, b""))
    assert kernel.write(handle, GET_RANDOM)[0] == 0
    assert kernel.read(handle) == (0, b"")


def test_a_successor_sees_responses_that_c_has_kept(service, kernel):
    one, two = kernel.open(uid=STRANGER), kernel.open()
    kernel.write(one, GET_RANDOM)
    assert len(kernel.read(one, 5)[1]) == 5
    records = [record for record, _pending in service.frontend.openers()]
    assert [(record.handle, len(record.response), record.position) for record in records] == [(one, 20, 5), (two, 0, 0)]


def test_a_device_of_swtpm_cuse_takes_a_command_in_place_of_a_response(service, kernel, monkeypatch):
    frontend = service.make_frontend(make_opener=LenientOpener)
    kernel.serve_one = frontend.serve_one
    python = watch_python(frontend, monkeypatch)
    handle = kernel.open()
    assert kernel.write(handle, GET_RANDOM)[0] == 0
    assert python == [cuse.Open]
    assert kernel.write(handle, PCR_READ_16)[0] == 0
    assert len(kernel.read(handle)[1]) > 32
    assert python == [cuse.Open, cuse.Write]


# --- frames that are not what they say, and ends
# ------------------------------------------------------------------------


def test_frames_that_contradict_themselves_come_to_python(service, kernel, python):
    handle = kernel.open()
    python.clear()
    good = kernel.write_body(handle, GET_RANDOM)
    for body in (good[:-1], good + b"\0", good[:40], good[:16] + struct.pack("=I", 13) + good[20:]):
        assert kernel.call(fuse.Opcode.WRITE, body)[0] == errno.EIO
    kernel.sock.send(struct.pack("=I", 93) + request(fuse.Opcode.WRITE, good)[4:])
    service.frontend.serve_one()
    assert OUT.unpack(kernel.sock.recv(100)) == (16, -errno.EIO, 6)
    kernel.write(handle, GET_RANDOM)
    for body in (kernel.read_body(handle)[:-8], kernel.read_body(handle) + bytes(8)):
        assert kernel.call(fuse.Opcode.READ, body)[0] == errno.EIO
    assert len(kernel.read(handle)[1]) == 20
    assert {failure.code for failure in service.events.failures} == {Code.PROTOCOL}


def test_a_reply_that_the_kernel_does_not_take_is_told(service, kernel):
    handle = kernel.open()
    kernel.sock.send(request(fuse.Opcode.WRITE, kernel.write_body(handle, GET_RANDOM)))
    kernel.sock.shutdown(socket.SHUT_RD)
    kernel.collect = lambda: None
    service.frontend.serve_one()
    assert [failure.code for failure in service.events.failures] == [Code.INTERNAL]
    assert "refused a reply: Broken pipe" in service.events.failures[0].message
    assert bytes(service.park.slot[8:16]) == bytes(8)
    assert service.events.gone == 0


def request(opcode, body):
    return struct.pack("=IIQQIIIHH", 40 + len(body), opcode, 6, 0, 0, 0, 1, 0, 0) + body


def test_a_device_that_is_gone_is_told(service):
    connection = service.frontend._connection
    connection.fd = os.open("/", os.O_RDONLY)
    service.frontend.serve_one()
    os.close(connection.fd)
    assert service.events.gone == 1


def test_a_device_that_a_killed_predecessor_waited_in(service):
    os.set_blocking(service.sockets[0].fileno(), True)
    frontend = service.make_frontend()
    frontend.serve_one()
    assert service.events.gone == 0


def test_places_come_back():
    device = Device(memoryview(bytearray(100)), 3)
    places = [device.place(number) for number in (5, 6, 7, 8)]
    assert [place.number for place in places] == [0, 1, 2, -1]
    places[1].response, places[1].position, places[1].is_lent = b"secret", 2, True
    assert (places[1].response, places[1].position, places[1].is_lent) == (b"secret", 2, True)
    places[3].response = b"other"
    for place in places[3], places[1], places[2]:
        device.give_up(place)
    again = [device.place(number) for number in (9, 10, 11)]
    assert [place.number for place in again] == [1, 2, -1]
    assert [(place.response, place.position, place.is_lent) for place in again] == [(None, 0, False)] * 3


def test_openers_are_made_with_their_place():
    place = Device(memoryview(bytearray(100)), 1).place(7)
    opener = LenientOpener(7, Caller(0, 0, 0), place)
    opener.response, opener.position = b"12345", 3
    assert (opener.take(1), opener.take(5), opener.response) == (b"4", b"5", None)
    for name, value in {
        "command": 1,
        "control": 1,
        "poll_handle": 1,
        "lost": True,
        "torn": True,
        "reader": (1, 1),
    }.items():
        opener.lend()
        assert place.is_lent
        before = getattr(opener, name)
        setattr(opener, name, value)
        opener.lend()
        assert not place.is_lent, name
        setattr(opener, name, before)
