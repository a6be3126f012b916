"""The CUSE front end: serves a TPM to all who open the character device, one request of /dev/cuse at a time.

How an open file behaves follows the kernel's own /dev/tpm0 (drivers/char/tpm/tpm-dev-common.c): a write() is one
command, read() gives its response, in pieces if need be, and a write before anything of the response was read is EBUSY.
A blocking write() returns when the command is done; with O_NONBLOCK it returns at once and poll() tells when the
response is there. What is new: several files may be open, each with its own response; commands of all of them are
serialised. What waits for a file that is closed is forgotten.

Plain requests are served in C (tpm/device.c): a command and the reading of its response, of files about which there is
nothing else to know. Such a file is lent; each request of it that comes here takes it back, and gives it again when all
is answered.

A request that is answered later has its id in `waiters`, memory that outlives the process, so that a successor knows
whom it owes an answer (decisions/0016). After an orderly stop the successor gets the request itself, and asks it again.
"""

import errno
import os
from select import POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM

from swtpm_svc.continuity.handover import MAX_OPENERS, OpenerRecord
from swtpm_svc.errors import Code, VtpmError, internal
from swtpm_svc.frontends.cuse.connection import Connection
from swtpm_svc.frontends.cuse.device_opener import DeviceOpener
from swtpm_svc.frontends.dispatch import Dispatcher
from swtpm_svc.frontends.opener import MAX_OPENERS_OF_ONE
from swtpm_svc.frontends.shares import Shares, too_many
from swtpm_svc.tpm.device import Device, Place
from swtpm_svc.wire import cuse, fuse, ptm, ptm_ioctl
from swtpm_svc.wire.caller import Caller
from swtpm_svc.wire.hints import Any, Callable, Optional, Protocol
from swtpm_svc.wire.protocol_error import ProtocolError
from swtpm_svc.wire.small_tools import suppress

#: Requests that may wait at a time, of all users (there is memory for as many ids, continuity/parking) and of one.
_MAX_WAITING = 1024
_MAX_WAITING_OF_ONE = 256

_READABLE = POLLIN | POLLRDNORM
_WRITABLE = POLLOUT | POLLWRNORM


class Waiters(Protocol):
    """Ids of requests that are answered later, or poll handles that are to be woken, kept where a successor finds
    them."""

    def add(self, unique: int) -> bool: ...

    def discard(self, unique: int) -> None: ...


class CuseFrontend:
    """Serves a TPM on `fd`, an initialised /dev/cuse, which stays the caller's to close.

    `lend` lends the loop that calls `serve_one`: `Watcher.lend`.
    """

    def __init__(
        self,
        fd: int,
        slot: memoryview,
        waiters: Waiters,
        polls: Waiters,
        dispatcher: Dispatcher,
        lend: Callable[[], "tuple[int, float]"],
        make_opener: Callable[[int, Caller, Place], DeviceOpener] = DeviceOpener,
    ) -> None:
        self.fd = fd
        self._device = Device(slot, MAX_OPENERS)
        self._connection = Connection(fd, slot, self._device, dispatcher, lend)
        self._make_opener = make_opener
        self._send = self._connection.send
        self._waiters = waiters
        self._polls = polls
        self._dispatcher = dispatcher
        self._tpm = dispatcher.tpm
        self._executor = dispatcher.executor
        self._events = dispatcher.events
        self._openers: dict[int, DeviceOpener] = {}
        self._shares = Shares(MAX_OPENERS, MAX_OPENERS_OF_ONE)
        self._frame = slot
        #: The open file that the request in `_frame` is about, if it stays open.
        self._asked: Optional[DeviceOpener] = None
        #: Requests that wait, as the kernel sent them, with their openers, by their ids.
        self._waiting: dict[int, tuple[DeviceOpener, bytes]] = {}
        self._waiting_shares = Shares(_MAX_WAITING, _MAX_WAITING_OF_ONE)
        self._handlers: dict[type, Callable[[Any], Optional[bytes]]] = {
            cuse.Open: self._open,
            cuse.Read: self._read,
            cuse.Write: self._write,
            cuse.Ioctl: self._ioctl,
            cuse.Poll: self._poll,
            cuse.Release: self._release,
            cuse.Flush: self._nothing,
            cuse.Fsync: self._nothing,
            cuse.Interrupt: self._interrupt,
            cuse.Init: lambda request: cuse.reply_error(request.unique, errno.EPROTO),  # there has been one
            cuse.Unknown: self._unknown,
        }

    # --- one request ---------------------------------------------------------------------------------------------

    def serve_one(self) -> None:
        """Receive a request and answer it; to be called when `fd` is readable."""
        received = self._connection.receive()
        if received is not None:
            self._connection.finish(self.answer(*received))

    def answer(self, frame: memoryview, executed: Optional[bytes] = None) -> Optional[bytes]:
        """The reply to one request; None when it is answered later, or never. `executed` is the response to the command
        in it, if that was executed."""
        self._frame = frame
        try:
            request = cuse.decode(frame)
            if executed is not None and isinstance(request, cuse.Write):
                return self._settle_write(self._opener(request.handle, request.caller), request, executed)
            return self._handlers[type(request)](request)
        except VtpmError as error:
            return cuse.reply_error(cuse.unique_of(frame), error.errno)
        except ProtocolError as error:
            self._events.failed(
                VtpmError(Code.PROTOCOL, f"request of the kernel: {error}", remedy="report this line as a bug")
            )
            return cuse.reply_error(cuse.unique_of(frame), errno.EIO) if len(frame) >= fuse.IN_HEADER.size else None
        except Exception as error:  # a fault here must cost one client one EIO, not everybody the TPM
            self._events.failed(internal("while serving a request", error))
            return cuse.reply_error(cuse.unique_of(frame), errno.EIO)
        finally:
            self._give_back()

    def _later(self, unique: int, opener: DeviceOpener) -> None:
        """Put off the request in `_frame`, of a command or of control, until `_settle`."""
        uid = opener.caller.uid
        if not self._waiting_shares.has_room(uid) or not self._waiters.add(unique):
            raise VtpmError(
                Code.BUSY, "too many requests are waiting", remedy="try again when fewer programs wait for the TPM"
            )
        self._waiting_shares.add(uid)
        self._waiting[unique] = opener, bytes(self._frame)  # the slot holds the next request by then

    def _settle(self, unique: int) -> None:
        """The request waits no longer, if it did."""
        self._waiters.discard(unique)
        waited = self._waiting.pop(unique, None)
        if waited is not None:
            self._waiting_shares.remove(waited[0].caller.uid)

    def _answer_waiting(self, unique: int, reply: bytes) -> None:
        """Answer a request that was put off."""
        self._send(reply)
        self._settle(unique)

    # --- open files ----------------------------------------------------------------------------------------------

    def _open(self, request: cuse.Open) -> bytes:
        caller = request.caller
        if not self._shares.has_room(caller.uid):
            self._events.refused(caller, error := too_many("open files", self._shares, caller.uid))
            raise error
        # ids of requests are never used twice on a device, so neither are handles, whichever process gave them
        self._asked = self._add_opener(request.unique, caller)
        return cuse.reply_open(request.unique, request.unique, fuse.FOPEN_DIRECT_IO | fuse.FOPEN_NONSEEKABLE)

    def _opener(self, handle: int, caller: Caller) -> DeviceOpener:
        opener = self._openers.get(handle)
        if opener is None:  # opened with a predecessor that was killed
            opener = self._add_opener(handle, caller)
            opener.lost = True
        opener.place.is_lent = False  # until the request is answered, or longer: `DeviceOpener.lend`
        self._asked = opener
        return opener

    def _give_back(self) -> None:
        """Have the file that was asked served in C again, if it can be."""
        opener, self._asked = self._asked, None
        if opener is not None:
            opener.lend()

    def _add_opener(self, handle: int, caller: Caller) -> DeviceOpener:
        opener = self._openers[handle] = self._make_opener(handle, caller, self._device.place(handle))
        self._shares.add(caller.uid)
        return opener

    def _release(self, request: cuse.Release) -> bytes:
        opener = self._openers.pop(request.handle, None)
        if opener is not None:
            self._shares.remove(opener.caller.uid)
            self._device.give_up(opener.place)
            opener.place = Place()  # a command of it may be in work still
            if opener.poll_handle:
                self._polls.discard(opener.poll_handle)
                opener.poll_handle = 0
            if opener.command and self._dispatcher.withdraw(opener.command):
                self._settle(opener.command)
        return cuse.reply_empty(request.unique)

    def _nothing(self, request: "cuse.Flush | cuse.Fsync") -> bytes:
        return cuse.reply_empty(request.unique)

    def _unknown(self, request: cuse.Unknown) -> Optional[bytes]:
        return None if request.opcode in fuse.NO_REPLY else cuse.reply_error(request.unique, errno.ENOSYS)

    # --- commands and responses ----------------------------------------------------------------------------------

    def _write(self, request: cuse.Write) -> Optional[bytes]:
        unique, caller, handle, data, _flags = request
        opener = self._opener(handle, caller)
        if opener.torn:
            opener.torn = False
            return cuse.reply_error(unique, errno.EIO)
        if opener.upload is not None:
            opener.upload.write(data)
            return cuse.reply_write(unique, len(data))
        code = opener.admit(data)
        if code < 0:
            return cuse.reply_error(unique, -code)
        opener.download = None
        opener.lost = False
        # What Dispatcher.run does, in line here: most commands come this way, and the call with its bytearray and
        # its function for the answer is measurable beside what the TPM takes (benchmarks/bench_cuse_overhead.py).
        self._dispatcher.commands += 1
        if self._dispatcher.is_long(code):
            return self._write_later(opener, request, code)
        return self._settle_write(opener, request, self._tpm.begin(data, code))

    def _settle_write(self, opener: DeviceOpener, request: cuse.Write, response: bytes) -> Optional[bytes]:
        """A command was executed: what it wants stored is, then its file has the response."""
        unique, caller, _handle, data, _flags = request
        if self._tpm.unstored:
            if self._waiting_shares.has_room(opener.caller.uid):
                return self._write_later(opener, request, 0, response)
            response = self._tpm.finish(response)  # it was executed, so it is stored, whoever waits for that
        opener.response = response
        opener.position = 0
        self._dispatcher.tell(caller, data, response)
        if opener.poll_handle:
            self._wake(opener)
        return cuse.reply_write(unique, len(data))

    def _write_later(
        self, opener: DeviceOpener, request: cuse.Write, code: int, unstored: Optional[bytes] = None
    ) -> Optional[bytes]:
        """Give the command to the worker, or the response `unstored` until it is. A blocking writer waits for it;
        another one has poll() and read()."""
        unique, caller, _handle, data, flags = request
        command = bytearray(data)
        waits = not flags & os.O_NONBLOCK
        self._later(unique, opener)
        opener.command = unique

        def done(response: bytes) -> None:
            opener.command = 0
            opener.response, opener.position = response, 0
            if waits:
                self._send(cuse.reply_write(unique, len(command)))
            self._settle(unique)
            if opener.reader is not None:
                reader, size = opener.reader
                opener.reader = None
                self._answer_waiting(reader, cuse.reply_data(reader, opener.take(size)))
            if opener.poll_handle:
                self._wake(opener)

        if unstored is None:
            self._dispatcher.execute_later(caller, command, code, done, owner=unique)
        else:
            self._dispatcher.store_later(caller, command, unstored, done, owner=unique)
        return None if waits else cuse.reply_write(unique, len(command))

    def _read(self, request: cuse.Read) -> Optional[bytes]:
        unique, caller, handle, size, flags = request
        opener = self._opener(handle, caller)
        if opener.response is not None:
            data = opener.take(size)
            if opener.poll_handle:
                self._wake(opener)
            return cuse.reply_data(unique, data)
        if opener.download is not None:
            return cuse.reply_data(unique, opener.download.read(size))
        if opener.lost or opener.torn:
            opener.lost = opener.torn = False
            return cuse.reply_error(unique, errno.EIO)
        if not opener.command:
            return cuse.reply_data(unique, b"")
        if flags & os.O_NONBLOCK:
            return cuse.reply_error(unique, errno.EAGAIN)
        if opener.reader is not None:
            return cuse.reply_error(unique, errno.EBUSY)
        self._later(unique, opener)
        opener.reader = (unique, size)
        return None

    def _interrupt(self, request: cuse.Interrupt) -> None:
        """A signal came for a client that waits: what runs is asked to give up, what only waits ends at once."""
        target = request.target
        if self._executor.owner == target:
            self._tpm.cancel()
            return
        opener, _frame = self._waiting.get(target, (None, b""))
        if opener is None:
            return
        if opener.reader is not None and opener.reader[0] == target:
            opener.reader = None
        elif self._dispatcher.withdraw(target):
            if opener.command == target:
                opener.command = 0
            else:
                opener.control = 0
        else:
            return
        self._answer_waiting(target, cuse.reply_error(target, errno.EINTR))

    def _poll(self, request: cuse.Poll) -> bytes:
        opener = self._opener(request.handle, request.caller)
        if request.flags & fuse.POLL_SCHEDULE_NOTIFY and not opener.poll_handle:
            opener.poll_handle = request.poll_handle
            self._polls.add(request.poll_handle)
        if opener.lost:  # who waits for a response that will not come must learn of it
            return cuse.reply_poll(request.unique, _READABLE | _WRITABLE)
        readable = opener.response is not None or (opener.download is not None and not opener.download.finished)
        events = _READABLE if readable else 0 if opener.command else _WRITABLE
        return cuse.reply_poll(request.unique, events)

    def _wake(self, opener: DeviceOpener) -> None:
        poll_handle, opener.poll_handle = opener.poll_handle, 0  # who wants to know more polls again
        self._polls.discard(poll_handle)
        self._send(cuse.notify_poll(poll_handle))

    # --- control -------------------------------------------------------------------------------------------------

    def _ioctl(self, ioctl: cuse.Ioctl) -> Optional[bytes]:
        unique = ioctl.unique
        try:
            request = ptm_ioctl.decode(ioctl.command, ioctl.data)
        except ProtocolError:
            return cuse.reply_error(unique, errno.EINVAL)
        opener = self._opener(ioctl.handle, ioctl.caller)
        if request is None:
            return cuse.reply_error(unique, opener.unknown_ioctl)
        if not isinstance(request, ptm.SetStateBlob):
            opener.upload = None  # or what is meant as a command would go on to be taken for a piece of it
        is_own = bool(opener.command) and self._executor.owner == opener.command
        if self._dispatcher.must_wait(ioctl.caller, request, is_own=is_own):
            if opener.control:
                raise VtpmError(
                    Code.BUSY, "another control request of this file waits", remedy="send it when that one is answered"
                )
            self._later(unique, opener)
            opener.control = unique

        def answer(reply: bytes) -> None:
            if opener.control == unique:
                opener.control = 0
            self._answer_waiting(unique, reply)

        self._dispatcher.control(
            ioctl.caller,
            request,
            lambda reply: answer(cuse.reply_ioctl(unique, 0, ptm_ioctl.encode(request, reply))),
            perform=lambda asked: self._control(opener, asked),
            refuse=lambda error: answer(cuse.reply_error(unique, error.errno)),
            is_own=is_own,
            owner=unique,
        )
        return None

    def _control(self, opener: DeviceOpener, request: ptm.Request) -> ptm.Reply:
        if isinstance(request, ptm.GetCapability):
            return ptm.CapabilityReply(ptm.Capability.DEVICE)
        if isinstance(request, ptm.GetStateBlob):
            return opener.get_state_blob(request, self._dispatcher.controller.handle)
        if isinstance(request, ptm.SetStateBlob):
            return opener.set_state_blob(request, self._dispatcher.controller.handle)
        return self._dispatcher.controller.handle(request)

    # --- succession ----------------------------------------------------------------------------------------------

    def openers(self) -> "list[tuple[OpenerRecord, bool]]":
        """The open files, and for each whether a command of it is in work."""
        return [(opener.record(), bool(opener.command)) for opener in self._openers.values()]

    def adopt(self, records: "list[OpenerRecord]") -> None:
        """Go on with the open files of a predecessor."""
        for record in records:
            self._opener(record.handle, Caller(record.uid, record.gid, record.pid)).resume(record)

    def waiting(self) -> "list[bytes]":
        """The requests that wait, as the kernel sent them."""
        return [frame for _opener, frame in self._waiting.values()]

    def take_on(self, frames: "list[bytes]") -> None:
        """Serve the requests that waited with a predecessor.

        A second answer to one that it has answered does not get through.
        """
        for frame in frames:
            self._waiters.discard(cuse.unique_of(memoryview(frame)))
            reply = self.answer(memoryview(frame))
            if reply is not None:
                self._send(reply)

    def lose(self, frames: "list[bytes]") -> None:
        """Do not serve the requests that waited with a predecessor: a client whose write has returned learns it by
        reading."""
        for frame in frames:
            with suppress(ProtocolError):
                request = cuse.decode(memoryview(frame))
                if isinstance(request, cuse.Write) and request.flags & os.O_NONBLOCK:
                    self._opener(request.handle, request.caller).lost = True

    def wake_all(self, poll_handles: "list[int]") -> None:
        """Have all who polled with a predecessor poll again."""
        for poll_handle in poll_handles:
            self._send(cuse.notify_poll(poll_handle))

    def give_up(self, uniques: "list[int]") -> None:
        """Answer EIO to requests that a killed predecessor had taken; those it had answered give ENOENT, harmlessly."""
        for unique in uniques:
            self._answer_waiting(unique, cuse.reply_error(unique, errno.EIO))
