"""A handover that was not written to its end: by a process that was killed, in pieces, or with another length."""

import os
import struct

import pytest

from swtpm_svc.continuity.handover import Handover
from swtpm_svc.continuity.parking import Park
from swtpm_svc.tpm.power import Snapshot

#: Where the header says how long the handover is (continuity/parking.py).
LENGTH = struct.Struct("=Q")
LENGTH_AT = 16

SNAPSHOT = Snapshot("running", 0, bytes(range(256)) * 40, bytes(range(255)) * 40, False, False, {})
LEFT = Handover("2.0", "/var/lib/vtpm/vtpm0", 7, 2, SNAPSHOT, [], [])


@pytest.fixture
def park():
    park = Park.create("vtpm0")
    yield park
    park.close()


def found_in(park):
    successor = Park.adopt(os.dup(park.fd))
    try:
        return successor.read()
    finally:
        successor.close()


def test_it_is_whole_when_the_kernel_takes_it_in_pieces(park, monkeypatch):
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:1000], offset))
    park.leave(LEFT)
    assert found_in(park) == LEFT


@pytest.mark.parametrize("pieces", range(4))
def test_there_is_none_before_it_is_written_to_its_end(park, monkeypatch, pieces):
    pwrite, written = os.pwrite, []

    def killed_later(fd, data, offset):
        if len(written) == pieces:
            raise KeyboardInterrupt
        written.append(offset)
        return pwrite(fd, data[:1000], offset)

    monkeypatch.setattr(os, "pwrite", killed_later)
    with pytest.raises(KeyboardInterrupt):
        park.leave(LEFT)
    assert found_in(park) is None


@pytest.mark.parametrize("difference", [-10000, -1, 1])
def test_another_length_than_its_own_is_not_believed(park, difference):
    park.leave(LEFT)
    (length,) = LENGTH.unpack(os.pread(park.fd, LENGTH.size, LENGTH_AT))
    os.pwrite(park.fd, bytes(1), os.fstat(park.fd).st_size)  # there is memory behind it
    assert found_in(park) == LEFT
    os.pwrite(park.fd, LENGTH.pack(length + difference), LENGTH_AT)
    assert found_in(park) is None


def test_places_are_found_again_when_the_ids_in_them_are_forgotten(park):
    """More than there is room for at a time, one after the other, and some of them forgotten twice."""
    for numbers in (park.waiters, park.polls):
        for unique in range(1, 3000):
            assert numbers.add(unique)
            numbers.discard(unique)
            numbers.discard(unique)
        assert all(numbers.add(unique) for unique in range(1, 1025))
        assert not numbers.add(1025)
        assert sorted(numbers.take_over()) == list(range(1, 1025))


def test_ids_that_were_taken_over_are_forgotten(park):
    assert park.polls.add(7)
    successor = Park.adopt(os.dup(park.fd))
    assert successor.polls.take_over() == [7]
    assert successor.polls.take_over() == []
    successor.close()
