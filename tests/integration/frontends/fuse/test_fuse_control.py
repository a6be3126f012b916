"""The FUSE front end on a real mount: the file that takes control requests."""

import errno
import os
import select
import time
from contextlib import suppress

import pytest
from fuse_clients import exchange, fact, opened, raises
from fuse_service import is_mounted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tpm_commands import GET_RANDOM, PCR_EXTEND_16, PCR_READ_16, create_rsa, result_of

from swtpm_svc.wire import ptm, ptm_socket

pytestmark = pytest.mark.needs("fuse", "pyfuse3", "root", "fusermount3")

SHUTDOWN = ptm_socket.pack(ptm.Shutdown())


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
