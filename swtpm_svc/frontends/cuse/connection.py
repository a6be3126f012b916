"""/dev/cuse: requests come, replies go. What is plain is answered in C, and not seen here.

The kernel copies each request into the slot, memory that outlives the process. That copy is the record of it, until the
reply has gone (decisions/0016).
"""

import errno
import os

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.frontends.dispatch import Dispatcher
from swtpm_svc.tpm.device import Device, ReplyRefused, Unanswered
from swtpm_svc.wire.hints import Callable, Optional

_NO_UNIQUE = bytes(8)
_UNIQUE = slice(8, 16)  # of fuse_in_header


class Connection:
    """`fd`, which stays the caller's to close. `lend` lends the loop that finds it readable: `Watcher.lend`."""

    def __init__(
        self,
        fd: int,
        slot: memoryview,
        device: Device,
        dispatcher: Dispatcher,
        lend: Callable[[], "tuple[int, float]"],
    ) -> None:
        os.set_blocking(fd, False)  # a predecessor that was killed may have waited in a read of it
        self.fd = fd
        self._slot = slot
        self._slots = [slot]
        self._device = device
        self._dispatcher = dispatcher
        self._events = dispatcher.events
        self._lend = lend

    def receive(self) -> "Optional[tuple[memoryview, Optional[bytes]]]":
        """The next request that is not answered in C, and where that is a command that was executed there, the response
        to it; None: there is none now. To be called when `fd` is readable.

        Plain ones are answered, one after another, as long as nothing else wants the loop.
        """
        try:
            left = self._receive()
        except ReplyRefused as error:
            self._tell_refused(error)
            return None
        except OSError as error:
            # EAGAIN: the client was interrupted between poll and read, and its request withdrawn; ENOENT: in the read
            if error.errno not in (errno.EAGAIN, errno.ENOENT):
                self._events.device_gone()
            return None
        return None if left is None else (self._slot[: left.size], left.response)

    def _receive(self) -> Optional[Unanswered]:
        """Raises: OSError: as `Device.serve_plain`."""
        if self._dispatcher.is_free:
            return self._dispatcher.serve_device(self._device, self.fd, *self._lend())
        return Unanswered(os.readv(self.fd, self._slots), None)

    def finish(self, reply: Optional[bytes]) -> None:
        """The reply to the request that was received; None: it is answered later, or never."""
        if reply is not None:
            self.send(reply)
        self._slot[_UNIQUE] = _NO_UNIQUE

    def send(self, reply: bytes) -> None:
        """Any reply or notification."""
        try:
            os.write(self.fd, reply)
        except OSError as error:
            # ENOENT: the client is gone, or a predecessor had answered; EINVAL on a notification: nobody polls any more
            if error.errno not in (errno.ENOENT, errno.EINVAL):
                self._tell_refused(error)

    def _tell_refused(self, error: OSError) -> None:
        cause = f"the kernel refused a reply: {error.strerror}"
        self._events.failed(VtpmError(Code.INTERNAL, cause, remedy="report this line as a bug"))
