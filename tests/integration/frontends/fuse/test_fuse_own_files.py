"""The FUSE front end's files without a kernel: what they do at the end of the service."""

import errno
import os

import pytest
from memory_storage import MemoryStorage
from tpm_commands import GET_RANDOM, result_of

from swtpm_svc.frontends.dispatch import Dispatcher
from swtpm_svc.service.loop import Loop
from swtpm_svc.tpm import libtpms
from swtpm_svc.tpm.controller import Controller, Rights
from swtpm_svc.tpm.executor import Executor
from swtpm_svc.tpm.tpm import Tpm
from swtpm_svc.wire import ptm, ptm_socket

pytestmark = pytest.mark.needs("binding", "pyfuse3")

TPM, CONTROL, VERSION = "tpm", "control", "tpm_version_major"


class Events:
    def refused(self, caller, error): ...
    def executed(self, caller, command, response): ...
    def controlled(self, caller, request, result): ...
    def failed(self, error):
        raise error


class Client:
    """pyfuse3's RequestContext."""

    def __init__(self):
        self.uid, self.gid, self.pid = os.getuid(), os.getgid(), os.getpid()


class Files:
    """The files, with `call` for a client's request."""

    def __init__(self):
        from swtpm_svc.frontends.fuse.shown_files import Access, TpmFiles

        self.loop = Loop()
        self.tpm = Tpm("2.0", MemoryStorage(), lambda _error: None)
        self.tpm.power_on(delete_volatile=True)
        assert result_of(self.tpm.startup("clear")) == 0
        self.executor = Executor(self.loop.post)
        controller = Controller(self.tpm, on_shutdown=lambda: None, on_error=lambda _error: None)
        rights = Rights(control=True, secrets=True)
        dispatcher = Dispatcher(self.tpm, controller, self.executor, lambda _caller: rights, Events())
        access = Access(os.getuid(), os.getgid(), 0o600, None)
        self.files = TpmFiles(dispatcher, dict, access, self.loop.post)

    def call(self, name, *arguments):
        import trio

        return trio.run(getattr(self.files, name), *arguments)

    def open(self, name, flags=os.O_RDWR):
        inode = self.call("lookup", 1, name.encode(), Client()).st_ino
        return self.call("open", inode, flags, Client()).fh

    def close(self):
        self.executor.join()
        self.loop.run_posted()
        self.tpm.shut_down()
        libtpms.set_locality(0)
        self.loop.__exit__()


@pytest.fixture
def files():
    files = Files()
    yield files
    files.close()


def refusal(files, *words):
    from pyfuse3 import FUSEError

    with pytest.raises(FUSEError) as caught:
        files.call(*words)
    return caught.value.errno


@pytest.mark.parametrize("name", [TPM, CONTROL])
def test_nothing_is_begun_after_the_end(files, name):
    """It would be carried out, with nobody to answer, after what was left to a successor; what is there is read."""
    handle, late = files.open(name), files.open(name)
    sent = GET_RANDOM if name == TPM else ptm_socket.pack(ptm.SetLocality(2))
    assert files.call("write", handle, 0, sent) == len(sent)
    files.files.waiting.end()
    commands = files.files.dispatcher.commands
    sent = GET_RANDOM if name == TPM else ptm_socket.pack(ptm.SetLocality(3))
    assert refusal(files, "write", late, 0, sent) == errno.ENODEV
    assert (files.files.dispatcher.commands, files.tpm.locality) == (commands, 2 if name == CONTROL else 0)
    assert refusal(files, "open", 2 if name == TPM else 3, os.O_RDWR, Client()) == errno.ENODEV
    assert files.call("read", handle, 0, 4096)
    assert files.files.openers == (2 if name == TPM else 0)


def test_whoever_waits_at_the_end_is_told(files):
    """And waits no longer: the end of the service waits for him."""
    import trio
    from pyfuse3 import FUSEError

    waiting = files.files.waiting
    outcomes, seen = [], []

    async def wait(event):
        try:
            await waiting.wait(event)
        except FUSEError as error:
            outcomes.append(error.errno)

    async def end():
        events = trio.Event(), trio.Event()
        async with trio.open_nursery() as nursery:
            for event in events:
                nursery.start_soon(wait, event)
            await trio.testing.wait_all_tasks_blocked()
            seen.append((len(waiting), files.files.is_settled))
            waiting.end()
            seen.append([event.is_set() for event in events])
            for event in events:
                event.set()  # or the test would wait too
        seen.append((len(waiting), files.files.is_settled))
        await wait(trio.Event())

    import trio.testing

    trio.run(end)
    assert outcomes == [errno.ENODEV] * 3
    assert seen == [(2, False), [True, True], (0, True)]


def test_it_is_not_settled_while_somebody_has_an_answer_to_read(files):
    handle = files.open(CONTROL)
    assert files.files.is_settled
    files.call("write", handle, 0, ptm_socket.pack(ptm.GetConfig()))
    assert not files.files.is_settled
    assert files.call("read", handle, 0, 4096) == ptm_socket.encode(ptm.ConfigReply(0, 0))
    assert files.files.is_settled
    files.call("write", handle, 0, ptm_socket.pack(ptm.GetConfig()))
    files.call("release", handle)
    assert files.files.is_settled


def test_a_fact_is_read_only_and_as_it_was_when_it_was_opened(files):
    handle = files.open(VERSION, os.O_RDONLY)
    assert files.call("read", handle, 0, 10) == b"2\n"
    assert files.call("read", handle, 1, 10) == b"\n"
    assert refusal(files, "write", handle, 0, b"1") == errno.EBADF
    assert refusal(files, "open", 4, os.O_RDWR, Client()) == errno.EACCES


class Poll:
    """pyfuse3's handle of a client that polls."""

    def __init__(self, *, is_gone=False):
        self.notified, self.is_gone = 0, is_gone

    def notify(self):
        self.notified += 1
        if self.is_gone:
            raise OSError(errno.ENOENT, "nobody polls")


@pytest.mark.parametrize("is_gone", [False, True])
def test_who_polls_is_woken_when_the_file_has_something_and_when_it_takes_something(files, is_gone):
    from select import POLLIN, POLLOUT

    handle = files.open(TPM)
    written, read, late = Poll(is_gone=is_gone), Poll(is_gone=is_gone), Poll(is_gone=is_gone)
    assert files.call("poll", 2, handle, written, Client()) & (POLLIN | POLLOUT) == POLLOUT
    files.call("write", handle, 0, GET_RANDOM)
    assert files.call("poll", 2, handle, read, Client()) & (POLLIN | POLLOUT) == POLLIN
    assert (written.notified, read.notified) == (1, 0)
    files.call("read", handle, 0, 5)
    assert read.notified == 0
    files.call("read", handle, 0, 4096)
    assert (written.notified, read.notified) == (1, 1)
    assert files.call("poll", 2, handle, late, Client()) & (POLLIN | POLLOUT) == POLLOUT
    assert late.notified == 0
