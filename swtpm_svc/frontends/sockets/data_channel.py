"""TPM commands on a stream socket: one command, one response, as swtpm's data channel has it.

What is received until a command is as long as its header says is taken as the command, and longer is the TPM's to
refuse (measured with swtpm 0.7.1, as all of this). A command may have a prefix, which gives the locality of this
command alone: 0x00000008, locality, size; the response then has its size before it and four zero bytes behind it (the
capability SEND_COMMAND_HEADER; Microsoft's simulator calls it TPM_SEND_COMMAND).

Plain commands, one at a time, whole and without a prefix, are served in C as long as no other descriptor, timer or
signal wants the loop; what is described here is done with everything else.
"""

import socket
from struct import Struct
from typing import Callable, Optional

from swtpm_svc.frontends.dispatch import Dispatcher
from swtpm_svc.frontends.sockets.channel import Channel
from swtpm_svc.frontends.watcher import Watcher
from swtpm_svc.tpm.controller import Rights
from swtpm_svc.tpm.libtpms import BUFFER_SIZE, Unsent
from swtpm_svc.wire.caller import Caller
from swtpm_svc.wire.tpm_header import HEADER, HEADER_SIZE

_PREFIX = Struct(">IBI")
_SEND_COMMAND = b"\x00\x00\x00\x08"
_SIZE = Struct(">I")
_SUFFIX = bytes(4)


class DataChannel(Channel):
    """A connection that carries TPM commands."""

    def __init__(
        self,
        sock: socket.socket,
        caller: Caller,
        watcher: Watcher,
        on_closed: Callable[[Channel], None],
        dispatcher: Dispatcher,
        rights: Optional[Rights] = None,
    ) -> None:
        self._dispatcher = dispatcher
        self._rights = rights
        self._received = bytearray()
        super().__init__(sock, caller, watcher, on_closed)

    def on_readable(self) -> None:
        is_plain = not self._received and not self._unsent and self._dispatcher.is_free
        data = self._serve() if is_plain else self._receive()
        if data is None:
            return
        if not data:
            self.close()
            return
        received = self._received
        received += data
        start = _PREFIX.size if received.startswith(_SEND_COMMAND) else 0
        if len(received) < start + HEADER_SIZE:
            self.expect_rest()
            return
        _tag, size, code = HEADER.unpack_from(received, start)
        if len(received) - start < min(size, BUFFER_SIZE):
            self.expect_rest()
            return
        self._received = bytearray()
        self._execute(received, start, code)

    def _receive(self) -> Optional[bytes]:
        """What has come; None: nothing, empty: the end."""
        try:
            return self._socket.recv(BUFFER_SIZE + _PREFIX.size)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def _serve(self) -> Optional[bytes]:
        """Serve plain commands as long as nothing else is to be done; then as `_receive`."""
        left = self._dispatcher.serve(self.caller, self._socket.fileno(), *self._watcher.lend())
        if not isinstance(left, Unsent):
            return left
        if self._dispatcher.tpm.unstored:  # nothing of it was sent
            self.pause()
            self._dispatcher.store_later(self.caller, bytearray(left.command), left.response, self._answer_later)
        else:
            self.send(left.response[left.sent :])
        return None

    def _answer_later(self, response: bytes) -> None:
        self.go_on()  # first: what the peer sends when it has the response is in the order in which others' are
        self.send(response)

    def _execute(self, received: bytearray, start: int, code: int) -> None:
        self._dispatcher.commands += 1
        if not start:
            self._execute_at(None, received, code)
            return

        def execute() -> None:
            self._execute_at(received[4], received[start:], code)

        def refuse() -> None:
            self.go_on()
            self._answer(self._dispatcher.tpm.bad_locality(), prefixed=True)

        if not self._dispatcher.with_locality(self.caller, received[4], self._rights, execute, refuse):
            self.pause()

    def _execute_at(self, locality: Optional[int], command: bytearray, code: int) -> None:
        def done(response: bytes) -> None:
            self.go_on()  # first: see _answer_later
            self._answer(response, prefixed=locality is not None)

        response = self._dispatcher.execute(self.caller, command, code, done, locality=locality)
        if response is None:
            self.pause()  # a peer that does not wait for its response waits now
        else:
            done(response)

    def _answer(self, response: bytes, *, prefixed: bool) -> None:
        self.send(_SIZE.pack(len(response)) + response + _SUFFIX if prefixed else response)
