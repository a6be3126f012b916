"""On whose time the identity's work is done: that of nobody who waits for an answer."""

import threading
from types import SimpleNamespace

import pytest

from swtpm_svc.service.identity.identity_watch import Chores


@pytest.fixture
def worker():
    """An executor: is the TPM in use, and what was given to it."""
    given = []

    def submit(work, done, *, is_essential=False):
        given.append((work, is_essential))
        assert done(None) is None

    return SimpleNamespace(busy=False, submit=submit, given=given)


@pytest.mark.parametrize("busy", [False, True])
def test_what_needs_the_tpm_is_done_now_unless_the_worker_has_it(worker, busy):
    worker.busy = busy
    done = []
    work = lambda: done.append(1)  # noqa: E731  compared below
    Chores(worker).with_tpm(work)
    assert (done, worker.given) == (([], [(work, False)]) if busy else ([1], []))


@pytest.mark.parametrize("has_clients", [False, True], ids=["before READY", "served"])
@pytest.mark.parametrize("is_serving_thread", [False, True], ids=["the worker", "the serving thread"])
def test_what_needs_the_disk_keeps_no_client_waiting(worker, has_clients, is_serving_thread):
    chores, done = Chores(worker), []
    chores.has_clients = has_clients
    work = lambda: done.append(threading.current_thread())  # noqa: E731  compared below
    if is_serving_thread:
        chores.with_disk(work)
    else:
        thread = threading.Thread(target=chores.with_disk, args=(work,))
        thread.start()
        thread.join()
    if has_clients and is_serving_thread:
        # also when the service ends: it is what the next start compares with
        assert (done, worker.given) == ([], [(work, True)])
    else:
        assert done == [threading.main_thread() if is_serving_thread else thread]
        assert worker.given == []


def test_nobody_waits_before_ready(worker):
    assert not Chores(worker).has_clients
