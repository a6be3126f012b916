"""TPM commands on a stream socket: one command, one response, as swtpm's data channel has it.

Bytes are collected until there are as many as the command's header says. If more have come by then, they belong to the
command, and the TPM refuses it (measured with swtpm 0.7.1, as all of this). A command may have a prefix, which gives
the locality of this command (and of later ones, `Tpm.keeps_locality`): 0x00000008, locality, size; the response then
has its size before it and four zero bytes behind it (the capability SEND_COMMAND_HEADER; Microsoft's simulator calls it
TPM_SEND_COMMAND).

Plain commands, one at a time, whole and without a prefix, are served in C as long as no other descriptor, timer or
signal wants the loop; what is described here is done with everything else.
"""

from struct import Struct

from swtpm_svc.frontends import plain_socket as socket
from swtpm_svc.frontends.dispatch import Dispatcher
from swtpm_svc.frontends.sockets.channel import Channel
from swtpm_svc.frontends.watcher import Watcher
from swtpm_svc.tpm.controller import MAX_LOCALITY, Rights
from swtpm_svc.tpm.libtpms import BUFFER_SIZE, Unsent
from swtpm_svc.wire.caller import Caller
from swtpm_svc.wire.command_codes import VTPM_PROXY_SET_LOCALITY
from swtpm_svc.wire.hints import Callable, Optional
from swtpm_svc.wire.tpm_header import ERROR_TAG, HEADER, HEADER_SIZE, encode_response

_PREFIX = Struct(">IBI")
_SEND_COMMAND = b"\x00\x00\x00\x08"
_SIZE = Struct(">I")
_SUFFIX = bytes(4)


class DataChannel(Channel):
    """A connection that carries TPM commands; one alone, where it `disconnects` after a response.

    `obeys_set_locality`: a command of the kernel's driver vtpm_proxy, which is for us, sets the locality of those that
    follow. `is_managed`: it has a space of its own, until its end.
    """

    def __init__(
        self,
        sock: socket.socket,
        caller: Caller,
        watcher: Watcher,
        on_closed: Callable[[Channel], None],
        dispatcher: Dispatcher,
        rights: Optional[Rights] = None,
        *,
        disconnects: bool = False,
        obeys_set_locality: bool = False,
        is_managed: bool = False,
    ) -> None:
        self._space = dispatcher.open_space(caller) if is_managed else None
        self._disconnects = disconnects
        self._obeys_set_locality = obeys_set_locality
        self._has_way_in_c = not (disconnects or obeys_set_locality or is_managed)
        self._dispatcher = dispatcher
        self._rights = rights
        self._received = bytearray()
        super().__init__(sock, caller, watcher, on_closed)

    def on_readable(self) -> None:
        is_plain = self._has_way_in_c and not self._received and not self._unsent and self._dispatcher.is_free
        data = self._serve_plain() if is_plain else self._receive()
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
        _tag, size, _code = HEADER.unpack_from(received, start)
        if len(received) - start < min(size, BUFFER_SIZE):
            self.expect_rest()
            return
        self._received = bytearray()
        self._run(received, start)

    def _receive(self) -> Optional[bytes]:
        """What has come; None: nothing, empty: the end."""
        try:
            return self._socket.recv(BUFFER_SIZE + _PREFIX.size)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def _serve_plain(self) -> Optional[bytes]:
        """Serve plain commands as long as nothing else is to be done; then as `_receive`."""
        left = self._dispatcher.serve_stream(self._socket.fileno(), *self._watcher.lend())
        if not isinstance(left, Unsent):
            return left
        if not self._dispatcher.run_rest(self.caller, left, self._answer):
            self.pause()
        return None

    def _run(self, received: bytearray, start: int) -> None:
        if self._obeys_set_locality and HEADER.unpack_from(received, start)[2] == VTPM_PROXY_SET_LOCALITY:
            self._answer(self._set_locality(received[start:]))
            return
        if not start:
            is_done = self._dispatcher.run(self.caller, received, self._answer, tpm=self._space)
        else:
            is_done = self._dispatcher.run(
                self.caller,
                received[start:],
                lambda response: self._answer(_SIZE.pack(len(response)) + response + _SUFFIX),
                locality=received[4],
                rights=self._rights,
                tpm=self._space,
            )
        if not is_done:
            self.pause()  # a peer that does not wait for its response waits now

    def _set_locality(self, command: bytearray) -> bytes:
        tpm = self._dispatcher.tpm
        locality = command[HEADER_SIZE] if len(command) > HEADER_SIZE else 0
        if locality > MAX_LOCALITY:
            return tpm.dialect.bad_locality
        tpm.set_locality(locality)
        return encode_response(ERROR_TAG[tpm.version], 0)

    def _answer(self, answer: bytes) -> None:
        self.go_on()  # first: what the peer sends when it has the answer is in the order in which others' are
        self.send(answer)
        if self._disconnects:
            self.finish()

    def close(self) -> None:
        if self.is_open and self._space is not None:
            self._dispatcher.close_space(self._space)
        super().close()
