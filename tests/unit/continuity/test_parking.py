"""The memory that outlives a process: handed over whole, or recognised as not."""

import fcntl
import json
import os
import socket
import sys
import time
from mmap import PAGESIZE
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swtpm_svc.continuity.handover import MAX_OPENERS, Handover, OpenerRecord
from swtpm_svc.continuity.parking import Park
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.service import succession
from swtpm_svc.tpm.power import Snapshot
from swtpm_svc.wire import fuse
from swtpm_svc.wire.cuse import MAX_REQUEST

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
    ).map(lambda opener: opener._replace(position=min(opener.position, len(opener.response)))),
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
    requests=st.lists(st.binary(min_size=fuse.IN_HEADER.size, max_size=100), max_size=3),
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


def test_more_open_files_than_may_be_opened_cost_no_handover(park):
    """Those of a process that was killed come on top of those that were opened since."""
    left = handover(openers=[OpenerRecord(number, 0, 0, 1, False, b"", 0) for number in range(MAX_OPENERS + 1)])
    park.leave(left)
    assert adopted(park).read() == left._replace(openers=left.openers[:MAX_OPENERS])


def test_a_successor_that_is_killed_before_it_takes_requests_on_leaves_their_ids(park):
    request = fuse.IN_HEADER.pack(fuse.IN_HEADER.size, fuse.Opcode.READ, 77, 0, 0, 1, 0)
    park.waiters.add(77)
    park.leave(handover(requests=[request]))
    journal = SimpleNamespace(log=lambda *_args, **_kw: None)
    taken = adopted(park)
    assert succession.succeed(taken, taken.read(), None, journal, resumed=True) == [request]
    after_a_kill = adopted(park)
    assert (after_a_kill.read(), after_a_kill.unanswered()) == (None, [77])


def test_a_tpm_that_was_not_powered_is_left_without_a_snapshot(park):
    stopped = snapshot(
        power="stopped", permanent=b"", volatile=b"", offered={"permall": b"new", "volatilestate": b"too"}
    )
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
    os.pwrite(park.fd, garbage, 32 * PAGESIZE)
    found = adopted(park).read()
    assert found is None or isinstance(found, Handover)
    park.close()


def put(park, text, blobs=b""):
    """A predecessor that was taken over leaves a handover of its own making."""
    left = text + b"\n" + blobs
    os.pwrite(park.fd, left, 32 * PAGESIZE)
    park._write_header(complete=True, length=len(left), name=b"vtpm0")
    return adopted(park)


def fields(**changes):
    plain = handover()._asdict()
    taken = snapshot()._asdict()
    for name in ("permanent", "volatile", "offered"):
        del taken[name]
    values = {**plain, "snapshot": taken, "offered": [], "openers": [], "requests": 0, "sizes": [1, 1]}
    values.update(changes)
    return values


def test_what_is_planted_below_is_a_handover_but_for_one_thing(park):
    assert put(park, json.dumps(fields()).encode(), b"pv").read() == handover(
        snapshot=snapshot(permanent=b"p", volatile=b"v")
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"commands": "7"},
        {"commands": -1},
        {"commands": 2**64},
        {"commands": 7.0},
        {"commands": True},
        {"restarts": None},
        {"tpm_version": 2},
        {"tpm_version": ["2.0"]},
        {"state_directory": {}},
        {"snapshot": []},
        {"snapshot": {**snapshot()._asdict(), "permanent": None, "volatile": None, "power": "exploded"}},
        {"snapshot": {**snapshot()._asdict(), "permanent": None, "volatile": None, "power": ["running"]}},
        {"snapshot": {**snapshot()._asdict(), "permanent": None, "volatile": None, "locality": 5}},
        {"snapshot": {**snapshot()._asdict(), "permanent": None, "volatile": None, "is_shut_down": "no"}},
        {"sizes": []},
        {"sizes": [2]},
        {"sizes": [3, -1]},
        {"sizes": [1, 1, 0]},
        {"sizes": [2**63, 2**63]},
        {"sizes": "11"},
        {"offered": ["permall"]},
        {"offered": ["../permall"], "sizes": [1, 1, 0]},
        {"offered": [["permall"]], "sizes": [1, 1, 0]},
        {"openers": [[1, 0, 0, 1]], "sizes": [1, 1, 0]},
        {"openers": [[1, 0, 2**32, 1, False]], "sizes": [1, 1, 0]},
        {"openers": [["1", 0, 0, 1, False]], "sizes": [1, 1, 0]},
        {"openers": [[1, 0, 0, 1, False, 1]], "sizes": [1, 1, 0]},
        {"openers": [[1, 0, 0, 1, False, 0, 0]], "sizes": [1, 1, 0]},
        {"requests": -1},
        {"requests": 1},
        {"requests": 1, "sizes": [1, 0, 1]},
        {"requests": 1025, "sizes": [1, 1] + [0] * 1025},
        {"openers": [[1, 0, 0, 1, 1]], "sizes": [1, 1, 0]},
        {"openers": [[1, 0, 0, 1, False]] * 1025, "sizes": [1, 1] + [0] * 1025},
    ],
)
def test_a_handover_that_no_predecessor_leaves_is_as_if_it_had_been_killed(park, changes):
    assert put(park, json.dumps(fields(**changes)).encode(), b"pv").read() is None


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("permall"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(data=st.data(), value=anything)
def test_anything_in_any_place_is_a_handover_or_none(data, value):
    park = Park.create("vtpm0")
    planted = fields(openers=[[1, 0, 0, 1, False]], offered=["permall"], sizes=[1, 1, 1, 1])
    inside = data.draw(
        st.sampled_from([planted, planted["snapshot"], planted["openers"], planted["openers"][0], planted["sizes"]])
    )
    key = data.draw(st.sampled_from(sorted(inside) if isinstance(inside, dict) else list(range(len(inside)))))
    inside[key] = value
    found = put(park, json.dumps(planted).encode(), b"pvor").read()
    assert found is None or isinstance(found, Handover)
    park.close()


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 1_000_000,
        b'{"a":' * 100_000,
        b"9" * 1_000_000,
        b'{"commands": ' + b"9" * 500_000 + b"}",
        b"1e999999",
        b"NaN",
        b"\xff\xfe",
        b"null",
        b"[]",
        b'""',
        b" " * 10_000_000,
    ],
    ids=["lists", "objects", "digits", "number", "float", "nan", "bytes", "null", "list", "text", "spaces"],
)
def test_no_text_of_a_handover_is_an_exception_or_takes_long(park, text):
    begin = time.monotonic()
    assert put(park, text, b"pv").read() is None
    assert time.monotonic() - begin < 1


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**40, 2**63, 2**64 - 1])
def test_no_length_is_believed(park, length):
    park._write_header(complete=True, length=length, name=b"vtpm0")
    assert adopted(park).read() is None


def test_what_is_longer_than_any_handover_is_not_left(park):
    park.leave(handover(snapshot=snapshot(permanent=bytes(16 << 20))))
    assert adopted(park).read() is None


@pytest.mark.parametrize("name", [b"\xff", "t\u00fcr".encode(), b"../null", b"a\nb", b"a\0b", b"\x1b[2J"])
def test_a_name_that_no_device_has_is_of_another_layout(park, name):
    park._write_header(complete=False, length=0, name=name)
    with pytest.raises(VtpmError) as caught:
        adopted(park)
    assert caught.value.code is Code.PROTOCOL
    assert caught.value.remedy


@pytest.mark.parametrize(
    "seals", [0, fcntl.F_SEAL_GROW, fcntl.F_SEAL_WRITE, fcntl.F_SEAL_SEAL], ids=["none", "grow", "write", "seal"]
)
def test_memory_that_could_become_smaller_or_not_be_written_is_refused(seals):
    fd = os.memfd_create("planted", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.truncate(fd, 32 * PAGESIZE)
    os.pwrite(fd, b"vtpmpark" + (1).to_bytes(4, sys.byteorder), 0)
    if seals not in (0, fcntl.F_SEAL_SEAL):
        seals |= fcntl.F_SEAL_SHRINK
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    with pytest.raises(VtpmError):
        Park.adopt(fd)


def test_memory_without_an_end_is_refused(park):
    """It is sparse: to clean it would fill it."""
    os.ftruncate(park.fd, 1 << 40)
    with pytest.raises(VtpmError):
        adopted(park)


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "file", "directory"])
def test_a_descriptor_of_something_else_is_refused(tmp_path, kind):
    if kind == "pipe":
        fd, _other = os.pipe()
    elif kind == "socket":
        fd = socket.socket().detach()
    elif kind == "file":
        (tmp_path / "file").write_bytes(b"vtpmpark" + (1).to_bytes(4, sys.byteorder) + bytes(200_000))
        fd = os.open(tmp_path / "file", os.O_RDWR)
    else:
        fd = os.open("/dev/zero" if kind == "device" else tmp_path, os.O_RDONLY)
    with pytest.raises(VtpmError) as caught:
        Park.adopt(fd)
    assert caught.value.code is Code.PROTOCOL


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
    park.slot[:16] = (
        (100).to_bytes(4, "little") + int(fuse.Opcode.WRITE).to_bytes(4, "little") + (44).to_bytes(8, "little")
    )
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
    assert len(park.slot) == MAX_REQUEST >= 65536 + 80
