"""When a storage that takes long is told of, and when that it answers again."""

import time
from types import SimpleNamespace

import pytest

from swtpm_svc.service import stall
from swtpm_svc.service.stall import STALL_S, StallWatch
from swtpm_svc.service.systemd.journal import STALL_OVER_ID, STALLED_ID


class Storage:
    """A worker and what it stores, a clock, and the loop's one timer."""

    def __init__(self, monkeypatch):
        self.now, self.due, self.told, self.shown = 1000.0, [], [], []
        self.tpm, self.executor = SimpleNamespace(storing_since=None), SimpleNamespace(busy=True, on_work=None)
        journal = SimpleNamespace(log=lambda level, words, *, message_id: self.told.append((level, words, message_id)))
        loop = SimpleNamespace(after=lambda delay_s, callback: self.due.append((self.now + delay_s, callback)))
        monkeypatch.setattr(stall, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.watch = StallWatch(loop, self.tpm, self.executor, journal, lambda: self.shown.append(self.watch.stalled))

    def look(self):
        """The next timer comes; after how long."""
        ((when, callback),) = self.due
        self.due.clear()
        passed, self.now = when - self.now, when
        callback()
        return passed


@pytest.fixture
def storage(monkeypatch):
    assert stall.time is time
    return Storage(monkeypatch)


def test_a_storage_that_is_quick_is_not_told_of(storage):
    storage.executor.on_work()
    storage.executor.on_work()  # one timer, however much work comes
    storage.now += 0.9
    storage.tpm.storing_since = storage.now
    assert storage.look() == pytest.approx(0.1)
    assert storage.look() == pytest.approx(STALL_S - 0.1)  # when it will have taken too long
    assert (storage.watch.stalled, storage.told, storage.shown) == (True, storage.told, [True])


def test_a_stall_is_told_once_and_so_is_its_end(storage):
    storage.tpm.storing_since = storage.now
    storage.executor.on_work()
    for _ in range(3):
        assert storage.look() == STALL_S
    (told,) = storage.told
    assert (told[0], told[1].partition(";")[0], told[2]) == (
        "warning", "the storage of the state has not answered for 1 s", STALLED_ID,
    )  # fmt: skip
    storage.tpm.storing_since, storage.executor.busy = None, False
    storage.look()
    assert storage.told[1:] == [("notice", "the storage answers again, after 4 s", STALL_OVER_ID)]
    assert storage.shown == [True, False]
    assert storage.due == []


def test_while_there_is_work_it_is_looked_at_and_then_no_more(storage):
    storage.executor.on_work()
    assert [storage.look() for _ in range(3)] == [STALL_S] * 3
    storage.executor.busy = False
    storage.look()
    assert storage.due == []
    assert (storage.told, storage.shown) == ([], [])
    storage.executor.on_work()
    assert len(storage.due) == 1


def test_another_store_that_has_just_begun_ends_a_stall(storage):
    storage.tpm.storing_since = storage.now
    storage.executor.on_work()
    storage.look()
    storage.now += 0.5
    storage.tpm.storing_since = storage.now
    assert storage.look() == 0.5
    assert storage.shown == [True, False]
    assert storage.look() == 0.5
    assert storage.shown == [True, False, True]
