"""The memory that outlives a process: handed over whole, or recognised as not."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.frontends.cuse import SLOT_SIZE, OpenerRecord
from swtpm_svc.service.parking import Handover, Park
from swtpm_svc.tpm.tpm import Snapshot
from swtpm_svc.wire import fuse

openers = st.lists(
    st.builds(
        OpenerRecord,
        handle=st.integers(1, 2**64 - 1),
        uid=st.integers(0, 2**32 - 1),
        gid=st.integers(0, 2**32 - 1),
        pid=st.integers(0, 2**22),
        in_transfer=st.booleans(),
        response=st.binary(max_size=100),
        position=st.integers(0, 100),
    ),
    max_size=5,
)


@pytest.fixture
def park():
    park = Park.create("vtpm0")
    yield park
    park.close()


def snapshot(**changes):
    values = {
        "power": "running",
        "locality": 3,
        "permanent": b"permanent\n",
        "volatile": b"\0volatile\n{",
        "is_shut_down": False,
        "volatile_is_stored": True,
        "offered": {},
    }
    return Snapshot(**{**values, **changes})


def handover(**changes):
    values = {
        "tpm_version": "2.0",
        "state_directory": "/var/lib/vtpm/vtpm0",
        "commands": 7,
        "restarts": 2,
        "snapshot": snapshot(),
        "openers": [],
        "requests": [],
    }
    return Handover(**{**values, **changes})


def adopted(park):
    return Park.adopt(os.dup(park.fd))


@given(
    openers=openers,
    permanent=st.binary(max_size=500),
    volatile=st.binary(max_size=500),
    requests=st.lists(st.binary(max_size=100), max_size=3),
)
def test_what_is_left_is_what_a_successor_reads_until_it_is_forgotten(openers, permanent, volatile, requests):
    park = Park.create("vtpm0")
    left = handover(snapshot=snapshot(permanent=permanent, volatile=volatile), openers=openers, requests=requests)
    park.leave(left)
    successor = adopted(park)
    assert successor.device_name == "vtpm0"
    assert successor.was_adopted
    assert successor.read() == left
    assert successor.read() == left  # a start that fails leaves it to the next
    successor.forget()
    assert successor.read() is None
    successor.close()
    park.close()


def test_a_tpm_that_was_not_powered_is_left_without_a_snapshot(park):
    stopped = snapshot(power="stopped", permanent=b"", volatile=b"", offered={"permall": b"new", "volatilestate": b"too"})
    left = handover(snapshot=stopped, openers=[OpenerRecord(2, 0, 0, 1, False, b"unread", 2)])
    park.leave(left)
    assert adopted(park).read() == left


def test_a_killed_process_leaves_no_handover(park):
    assert adopted(park).read() is None


def test_the_secrets_of_a_handover_are_removed(park):
    park.leave(handover(snapshot=snapshot(permanent=b"the seed", volatile=b"the session key")))
    successor = adopted(park)
    successor.read()
    successor.forget()
    everything = os.pread(park.fd, os.fstat(park.fd).st_size, 0)
    assert b"seed" not in everything
    assert b"session" not in everything


@given(garbage=st.binary(min_size=1, max_size=300))
def test_a_handover_of_another_version_is_none_not_an_exception(garbage):
    park = Park.create("vtpm0")
    park.leave(handover())
    os.pwrite(park.fd, garbage, 32 * 4096)
    found = adopted(park).read()
    assert found is None or isinstance(found, Handover)
    park.close()


@pytest.mark.parametrize("content", [b"", b"vtpmpark", b"x" * 200000, b"vtpmpark" + b"\xff" * 200000])
def test_memory_of_another_layout_is_refused(content):
    fd = os.memfd_create("other")
    os.write(fd, content)
    with pytest.raises(VtpmError) as caught:
        Park.adopt(fd)
    assert caught.value.code is Code.PROTOCOL
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_the_memory_cannot_be_made_smaller(park):
    with pytest.raises(OSError, match="not permitted"):
        os.ftruncate(park.fd, 4096)


def test_unanswered_requests_are_those_in_the_slot_and_those_put_off(park):
    park.slot[:16] = (100).to_bytes(4, "little") + int(fuse.Opcode.WRITE).to_bytes(4, "little") + (44).to_bytes(8, "little")
    assert park.waiters.add(40)
    assert park.waiters.add(42)
    park.waiters.discard(40)
    successor = adopted(park)
    assert successor.unanswered() == [44, 42]
    successor.slot[8:16] = bytes(8)
    assert successor.unanswered() == []


@pytest.mark.parametrize("opcode", [fuse.Opcode.INTERRUPT, fuse.Opcode.FORGET])
def test_a_request_that_wants_no_reply_gets_none(park, opcode):
    park.slot[:16] = bytes(4) + int(opcode).to_bytes(4, "little") + (44).to_bytes(8, "little")
    assert adopted(park).unanswered() == []


def test_there_is_a_limit_to_what_may_be_put_off(park):
    accepted = 0
    while park.waiters.add(1000 + accepted):
        accepted += 1
    assert accepted == 1024
    park.waiters.discard(1000)
    assert park.waiters.add(5)
    assert len(adopted(park).unanswered()) == 1024


def test_the_slot_takes_the_largest_request(park):
    assert len(park.slot) == SLOT_SIZE >= 65536 + 80
