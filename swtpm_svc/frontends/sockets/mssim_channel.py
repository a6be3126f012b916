"""The protocol of Microsoft's TPM simulator on a stream socket (wire/mssim): test suites and older stacks speak it.

The simulator belongs to its one client; this TPM may have others. So SIGNAL_POWER_ON, which clients send whenever they
connect, does not reset a TPM that has power, and SIGNAL_CANCEL_ON is for the command that runs, not for those to come.
What changes the TPM for everybody is a control operation like those of the control channel.
"""

from swtpm_svc.errors import VtpmError
from swtpm_svc.frontends import plain_socket as socket
from swtpm_svc.frontends.dispatch import Dispatcher
from swtpm_svc.frontends.sockets.channel import Channel
from swtpm_svc.frontends.watcher import Watcher
from swtpm_svc.tpm.controller import Rights
from swtpm_svc.wire import mssim, ptm
from swtpm_svc.wire.caller import Caller
from swtpm_svc.wire.hints import Callable, Optional
from swtpm_svc.wire.mssim import Message, Ordinal
from swtpm_svc.wire.protocol_error import ProtocolError

_RECEIVE_BYTES = 16 * 1024

_DONE, _FAILED = mssim.encode_result(0), mssim.encode_result(1)
#: Clients of this protocol send the Startup command themselves, as a machine's firmware does.
_POWER_ON = ptm.Init(ptm.INIT_FLAG_DELETE_VOLATILE | ptm.INIT_FLAG_NO_STARTUP)

_CONTROL: "dict[Ordinal, ptm.Request]" = {
    Ordinal.SIGNAL_POWER_ON: _POWER_ON,
    Ordinal.SIGNAL_POWER_OFF: ptm.Stop(),
    Ordinal.SIGNAL_RESET: _POWER_ON,
    Ordinal.SIGNAL_CANCEL_ON: ptm.CancelTpmCommand(),
    Ordinal.HASH_START: ptm.HashStart(),
    Ordinal.HASH_END: ptm.HashEnd(),
    Ordinal.STOP: ptm.Shutdown(),
}
#: What there is no way to do. Ordinals that are in neither table ask for what is so already: NV is there, and nothing
#: is kept from one command to the next.
_IMPOSSIBLE = (Ordinal.SIGNAL_PHYS_PRES_ON, Ordinal.SIGNAL_NV_OFF, Ordinal.TEST_FAILURE_MODE)


class MssimChannel(Channel):
    """A connection to the port of `ordinals`, whose messages are carried out one after another."""

    def __init__(
        self,
        sock: socket.socket,
        caller: Caller,
        watcher: Watcher,
        on_closed: Callable[[Channel], None],
        dispatcher: Dispatcher,
        ordinals: "frozenset[Ordinal]",
        rights: Optional[Rights] = None,
    ) -> None:
        self._dispatcher = dispatcher
        self._rights = rights
        self._decoder = mssim.Decoder(ordinals)
        super().__init__(sock, caller, watcher, on_closed)

    def on_readable(self) -> None:
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._decoder.feed(data)
        self._work()

    def _work(self) -> None:
        """Carry out the next message, if it is there."""
        if not self.is_open:
            return
        try:
            message = self._decoder.next()
        except ProtocolError:
            # where the next message begins is unknown from here on
            self.send(_FAILED)
            self.close()
            return
        if message is None:
            if not self._decoder.is_empty:
                self.expect_rest()
            self.go_on()
        else:
            self._carry_out(message)

    def _carry_out(self, message: Message) -> None:
        ordinal = message.ordinal
        is_powered = self._dispatcher.tpm.is_powered
        if ordinal is Ordinal.SEND_COMMAND:
            self._run(message)
        elif ordinal is Ordinal.SESSION_END:
            self.close()
        elif ordinal is Ordinal.REMOTE_HANDSHAKE:
            self._answer(mssim.encode_handshake())
        elif (ordinal is Ordinal.SIGNAL_POWER_ON and is_powered) or (
            ordinal is Ordinal.SIGNAL_RESET and not is_powered
        ):
            self._answer(_DONE)
        elif ordinal is Ordinal.HASH_DATA:
            self._control(ordinal, ptm.HashData(message.data))
        elif ordinal in _CONTROL:
            self._control(ordinal, _CONTROL[ordinal])
        else:
            self._answer(_FAILED if ordinal in _IMPOSSIBLE else _DONE)

    def _run(self, message: Message) -> None:
        is_done = self._dispatcher.run(
            self.caller,
            bytearray(message.data),
            lambda response: self._answer(mssim.encode_response(response)),
            locality=message.locality,
            rights=self._rights,
        )
        if not is_done:
            self.pause()

    def _control(self, ordinal: Ordinal, request: ptm.Request) -> None:
        if self._dispatcher.must_wait(self.caller, request, self._rights):
            self.pause()

        def done(reply: ptm.Reply) -> None:
            assert isinstance(reply, ptm.Result)
            if ordinal is Ordinal.STOP:
                self.close()  # nothing answers it
            else:
                self._answer(mssim.encode_result(reply.tpm_result))

        def refuse(error: VtpmError) -> None:
            self._answer(mssim.encode_result(error.fault.tpm_result))

        self._dispatcher.control(self.caller, request, done, refuse=refuse, rights=self._rights)

    def _answer(self, answer: bytes) -> None:
        """Answer a message, and turn to the next.

        A peer need not send it before, but if it does, others come in between.
        """
        if self._decoder.is_empty:
            self.go_on()  # first: what the peer sends when it has the answer is in the order in which others' are
        else:
            self.take_turns(self._work)
        self.send(answer)
