"""The control protocol on a stream socket, as QEMU, tpm2-tss and swtpm_ioctl speak it (wire/ptm_socket)."""

import os

from swtpm_svc.frontends import plain_socket as socket
from swtpm_svc.frontends.dispatch import Dispatcher
from swtpm_svc.frontends.sockets.channel import Channel, close_all
from swtpm_svc.frontends.watcher import Watcher
from swtpm_svc.tpm.controller import Rights
from swtpm_svc.wire import ptm, ptm_socket
from swtpm_svc.wire.caller import Caller
from swtpm_svc.wire.hints import Callable, Optional
from swtpm_svc.wire.results import TpmResult
from swtpm_svc.wire.small_tools import deque

_RECEIVE_BYTES = 64 * 1024
#: More than one descriptor with one message is nobody's protocol; what is above this is cut off by the kernel.
_MAX_DESCRIPTORS = 4

#: What a control channel on a socket can do, for each TPM version (measured with swtpm 0.7.1; LOCK_STORAGE is newer).
CAPABILITIES = {
    "1.2": ptm.Capability.ALL,
    "2.0": ptm.Capability.ALL | ptm.Capability.SEND_COMMAND_HEADER,
}


class ControlChannel(Channel):
    """A connection that carries control requests, carried out one after another.

    `on_data_socket(socket, caller)` is given the socket of a SET_DATAFD. `rights` stand in for the caller's own, where
    the kernel does not say who calls (TCP). `trace` hears of all that comes ("Ctrl Cmd") and goes ("Ctrl Rsp").
    """

    def __init__(
        self,
        sock: socket.socket,
        caller: Caller,
        watcher: Watcher,
        on_closed: Callable[[Channel], None],
        dispatcher: Dispatcher,
        on_data_socket: Callable[[socket.socket, Caller], bool],
        rights: Optional[Rights] = None,
        trace: Optional[Callable[[str, bytes], None]] = None,
    ) -> None:
        self._trace = trace
        self._dispatcher = dispatcher
        self._on_data_socket = on_data_socket
        self._rights = rights
        self._decoder = ptm_socket.Decoder()
        self._requests: deque[ptm_socket.Received] = deque()
        #: What came along last, for the SET_DATAFD that it came with: one at most, or a peer could use up all there
        #: are.
        self._descriptors: list[int] = []
        #: The peer has brought a data channel: it is a machine, whose firmware starts the TPM.
        self._is_machine = False
        super().__init__(sock, caller, watcher, on_closed)

    def on_readable(self) -> None:
        try:
            data, ancillary, _flags, _address = self._socket.recvmsg(
                _RECEIVE_BYTES, socket.CMSG_SPACE(_MAX_DESCRIPTORS * 4), socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        except OSError:
            data, ancillary = b"", []
        for level, kind, payload in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                received = memoryview(payload[: len(payload) - len(payload) % 4]).cast("i").tolist()
                close_all(self._descriptors)
                self._descriptors = received[:1]
                close_all(received[1:])
        if not data:
            self.close()
            return
        if self._trace is not None:
            self._trace("Ctrl Cmd", data)
        requests = self._decoder.receive(data)
        if not requests:
            self.expect_rest()
        self._requests.extend(requests)
        self._work()

    def close(self) -> None:
        close_all(self._descriptors)
        self._descriptors = []
        super().close()

    def _work(self) -> None:
        """Carry out the next request, if there is one."""
        if not self._requests or not self.is_open:
            return
        request = self._requests.popleft()
        if isinstance(request, ptm_socket.Refused):
            # where the next message begins is unknown from here on
            self._send_reply(ptm.Result(request.tpm_result))
            self.close()
        elif isinstance(request, ptm.SetDataFd):
            self._reply(self._set_data_fd())
        else:
            if isinstance(request, ptm.Init) and self._is_machine:
                request = ptm.Init(request.flags | ptm.INIT_FLAG_NO_STARTUP)
            self._carry_out(request)

    def _carry_out(self, request: ptm.Request) -> None:
        if self._dispatcher.must_wait(self.caller, request, self._rights):
            self.pause()

        def done(reply: ptm.Reply) -> None:
            self._reply(ptm_socket.shaped(request, reply))

        self._dispatcher.control(self.caller, request, done, perform=self._perform, rights=self._rights)

    def _perform(self, request: ptm.Request) -> ptm.Reply:
        if isinstance(request, ptm.GetCapability):
            return ptm.CapabilityReply(CAPABILITIES[self._dispatcher.tpm.version])
        return self._dispatcher.controller.handle(request)

    def _reply(self, reply: ptm.Reply) -> None:
        """Answer a request, and turn to the next.

        A peer need not send it before, but if it does, others come in between.
        """
        if self._requests:
            self.take_turns(self._work)
        else:
            self.go_on()  # first: what the peer sends when it has the reply is in the order in which others' are
        self._send_reply(reply)

    def _send_reply(self, reply: ptm.Reply) -> None:
        data = ptm_socket.encode(reply)
        if self._trace is not None:
            self._trace("Ctrl Rsp", data)
        self.send(data)

    def _set_data_fd(self) -> ptm.Reply:
        if not self._descriptors:
            return ptm.Result(TpmResult.IOERROR)  # it came without a descriptor (measured with swtpm 0.7.1)
        fd = self._descriptors.pop()
        try:
            sock = socket.socket(fileno=fd)
        except OSError:
            os.close(fd)  # not a socket at all
            return ptm.Result(TpmResult.BAD_PARAMETER)
        if not _is_connected_stream(sock):
            sock.close()
            return ptm.Result(TpmResult.BAD_PARAMETER)
        if not self._on_data_socket(sock, self.caller):
            sock.close()
            return ptm.Result(TpmResult.FAIL)
        self._is_machine = True
        return ptm.Result(0)


def _is_connected_stream(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False  # it listens, or nobody is at its other end
    return sock.type == socket.SOCK_STREAM
