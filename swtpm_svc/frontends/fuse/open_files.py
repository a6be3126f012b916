"""Open files of the FUSE front end: the TPM, the control protocol, and facts. Imported only where [fuse] is configured.

A handler that has to wait does so in trio, on the serving thread; what it waits for arrives as a callback of the loop.
pyfuse3 does not tell of signals that come for a client that waits: its system call ends when the answer is there. A
command can be cancelled through `control`.
"""

import errno
import os
from collections import deque
from select import POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM
from typing import Callable, Optional, TypeVar

import trio
from pyfuse3 import FUSEError, Operations

from swtpm_svc.frontends.dispatch import Dispatcher
from swtpm_svc.frontends.opener import Opener
from swtpm_svc.wire import ptm, ptm_socket
from swtpm_svc.wire.caller import Caller

T = TypeVar("T")

#: pyfuse3 has poll() from 3.5 on. Without it the kernel says of every file that it can be read and written, and a
#: client that polls and then reads without blocking (tpm2-tss does) would take EAGAIN for an error: its read has to
#: wait then.
HAS_POLL = hasattr(Operations, "poll")

#: Replies of a control file that nobody reads: no further request is carried out while there are more.
MAX_UNREAD = 1 << 20

_READABLE = POLLIN | POLLRDNORM
_WRITABLE = POLLOUT | POLLWRNORM


class Waiting:
    """Lets handlers wait for callbacks of the loop, until the end of the service."""

    def __init__(self, post: Callable[[Callable[[], None]], None]) -> None:
        """`post` runs a callback in the loop's next turn, when others had theirs."""
        self.post = post
        self.is_over = False
        self._events: set[trio.Event] = set()

    def __len__(self) -> int:
        return len(self._events)

    async def wait(self, event: trio.Event) -> None:
        """
        Raises:
            FUSEError ENODEV: the service ends.
        """
        if not self.is_over:
            self._events.add(event)
            # a session that fails is run again, and what was asked before is answered all the same
            with trio.CancelScope(shield=True):
                await event.wait()
            self._events.discard(event)
        if self.is_over:
            raise FUSEError(errno.ENODEV)

    def end(self) -> None:
        """Whoever waits gets ENODEV, and whoever would wait later."""
        self.is_over = True
        for event in self._events:
            event.set()


class File:
    """An open file: `read` and `write` as the client's system calls, `events` for poll()."""

    async def read(self, offset: int, size: int) -> bytes:
        raise NotImplementedError

    async def write(self, data: bytes) -> int:
        raise FUSEError(errno.EBADF)

    def poll(self, handle: Optional[object]) -> int:
        return _READABLE

    def close(self) -> None:
        """The client has closed it: what waits for it is forgotten."""


class Fact(File):
    """A text that was made when the file was opened."""

    def __init__(self, text: str) -> None:
        self._content = text.encode()

    async def read(self, offset: int, size: int) -> bytes:
        return self._content[offset : offset + size]


class _Conversation(File):
    """A file that is written to and then answers. One reader at a time may wait for it."""

    def __init__(self, dispatcher: Dispatcher, caller: Caller, flags: int, waiting: Waiting) -> None:
        self._dispatcher = dispatcher
        self._caller = caller
        #: As it was at open(): fcntl(F_SETFL) later is not told.
        self._may_block = not (flags & os.O_NONBLOCK and HAS_POLL)
        self._waiting = waiting
        self._answered: Optional[trio.Event] = None
        self._poll_handle: Optional[object] = None

    def _events(self) -> int:
        raise NotImplementedError

    async def _wait(self) -> None:
        if not self._may_block:
            raise FUSEError(errno.EAGAIN)
        if self._answered is not None:
            raise FUSEError(errno.EBUSY)
        self._answered = trio.Event()
        try:
            await self._waiting.wait(self._answered)
        finally:
            self._answered = None

    def _changed(self) -> None:
        """The file has become readable, or writable: tell who waits for that."""
        if self._answered is not None:
            self._answered.set()
        handle, self._poll_handle = self._poll_handle, None  # who wants to know more polls again
        if handle is not None:
            try:
                handle.notify()  # type: ignore[attr-defined]
            except OSError:
                pass  # nobody polls any more

    def poll(self, handle: Optional[object]) -> int:
        if handle is not None:
            self._poll_handle = handle
        return self._events()

    def _check_service(self) -> None:
        if self._waiting.is_over:
            raise FUSEError(errno.ENODEV)


class TpmFile(_Conversation):
    """An opener of the TPM.

    A long command does not keep its write() waiting, as the CUSE device would, but the read(): the kernel lets only one
    write() at a time into a file, so that a waiting one would block all other openers' (measured), even with
    O_NONBLOCK.
    """

    def __init__(self, dispatcher: Dispatcher, caller: Caller, flags: int, waiting: Waiting) -> None:
        super().__init__(dispatcher, caller, flags, waiting)
        self._opener = Opener()

    async def write(self, data: bytes) -> int:
        self._check_service()
        code = self._opener.admit(data)
        if code < 0:
            raise FUSEError(-code)
        if not self._dispatcher.run(self._caller, bytearray(data), self._done, owner=self):
            self._opener.command = 1
        return len(data)

    def close(self) -> None:
        self._dispatcher.withdraw(self)

    def _done(self, response: bytes) -> None:
        opener = self._opener
        opener.command = opener.position = 0
        opener.response = response
        self._changed()

    async def read(self, offset: int, size: int) -> bytes:
        if self._opener.command:
            await self._wait()
        data = self._opener.take(size)
        if self._opener.response is None:
            self._changed()
        return data

    def _events(self) -> int:
        opener = self._opener
        return _READABLE if opener.response is not None else 0 if opener.command else _WRITABLE


class ControlFile(_Conversation):
    """Carries control requests, one after another, as on a control socket: each in a turn of the loop, with others
    between."""

    def __init__(self, dispatcher: Dispatcher, caller: Caller, flags: int, waiting: Waiting) -> None:
        super().__init__(dispatcher, caller, flags, waiting)
        self._decoder = ptm_socket.Decoder()
        self._requests: deque[ptm_socket.Received] = deque()
        self._replies = bytearray()
        #: A request waits for the TPM, or for what its caller may do.
        self._is_waiting = False
        #: The next request has its turn soon.
        self._is_next = False
        self._is_refused = False

    @property
    def has_unread(self) -> bool:
        return bool(self._replies)

    async def write(self, data: bytes) -> int:
        self._check_service()
        if self._is_refused:  # where the next request begins is not known any more
            raise FUSEError(errno.EPIPE)
        if self._is_busy:
            raise FUSEError(errno.EBUSY)
        self._requests.extend(self._decoder.receive(data))
        self._work()
        return len(data)

    async def read(self, offset: int, size: int) -> bytes:
        # a reply that is there does not wait for what may take long, but for the others of the same write()
        while (self._is_waiting and not self._replies) or (self._is_next and len(self._replies) < size):
            if self._replies and not self._may_block:
                break
            await self._wait()
        data = bytes(self._replies[:size])
        del self._replies[:size]
        self._next()
        self._changed()
        return data

    def close(self) -> None:
        self._requests.clear()
        self._dispatcher.withdraw(self)

    def _events(self) -> int:
        return (_READABLE if self._replies else 0) | (0 if self._is_busy else _WRITABLE)

    @property
    def _is_busy(self) -> bool:
        return bool(self._requests) or self._is_waiting

    def _next(self) -> None:
        """Have the next request carried out, if there is one and room for its reply."""
        if self._requests and not self._is_next and not self._is_waiting and len(self._replies) < MAX_UNREAD:
            self._is_next = True
            self._waiting.post(self._work)

    def _work(self) -> None:
        self._is_next = False
        if not self._requests or self._waiting.is_over:
            return
        request = self._requests.popleft()
        if isinstance(request, ptm_socket.Refused):
            self._is_refused = True
            self._reply(ptm.Result(request.tpm_result))
        else:
            self._carry_out(request)

    def _carry_out(self, request: ptm.Request) -> None:
        self._is_waiting = self._dispatcher.must_wait(self._caller, request)

        def done(reply: ptm.Reply) -> None:
            self._is_waiting = False
            self._reply(ptm_socket.shaped(request, reply))

        self._dispatcher.control(self._caller, request, done, perform=self._perform, owner=self)

    def _perform(self, request: ptm.Request) -> ptm.Reply:
        if isinstance(request, ptm.GetCapability):
            return ptm.CapabilityReply(ptm.Capability.DEVICE)
        return self._dispatcher.controller.handle(request)

    def _reply(self, reply: ptm.Reply) -> None:
        self._replies += ptm_socket.encode(reply)
        self._next()
        self._changed()


async def when_free(dispatcher: Dispatcher, waiting: Waiting, work: Callable[[], T], user: int) -> T:
    """The result of `work`, which uses the TPM and must not raise. It runs now, or after the long command in work.

    Raises:
        FUSEError ENODEV: the service ends.
    """
    if not dispatcher.executor.busy:
        return work()
    results: list[T] = []
    event = trio.Event()

    def finish(result: T) -> None:
        results.append(result)
        event.set()

    dispatcher.executor.submit(work, finish, user=user)
    await waiting.wait(event)
    return results[0]
