"""What every front end does with a request: may the caller make it, does it run now or after the long command, who is
told.

A front end decodes and encodes; here is the policy between it and the TPM. All methods belong to the serving thread.
"""

from swtpm_svc.errors import VtpmError, internal
from swtpm_svc.tpm.controller import (
    MAX_LOCALITY,
    Controller,
    Rights,
    authorize,
    is_immediate,
    needs_control,
    uses_storage,
)
from swtpm_svc.tpm.device import Device, Unanswered
from swtpm_svc.tpm.executor import Executor
from swtpm_svc.tpm.libtpms import Left, Unsent
from swtpm_svc.tpm.power import Failure, Power
from swtpm_svc.tpm.tpm import Tpm
from swtpm_svc.wire import ptm
from swtpm_svc.wire.caller import Caller
from swtpm_svc.wire.command_codes import LONG_RUNNING
from swtpm_svc.wire.hints import TYPE_CHECKING, Callable, Optional, Protocol, Union
from swtpm_svc.wire.results import TpmRc, TpmResult
from swtpm_svc.wire.tpm_header import HEADER, HEADER_SIZE, RESULT, results

if TYPE_CHECKING:
    from swtpm_svc.frontends.managed_tpm import Client, ManagedTpm


class Events(Protocol):
    """What a front end tells the service."""

    def refused(self, caller: Caller, error: VtpmError) -> None: ...

    def executed(self, caller: Caller, command: bytes, response: bytes) -> None: ...

    def controlled(self, caller: Caller, request: ptm.Request, result: int) -> None: ...

    def failed(self, error: VtpmError) -> None: ...

    def device_gone(self) -> None: ...


#: Calls back, now or later, with the rights of a caller whose rights are not known.
LookUp = Callable[[Caller, Callable[[Rights], None]], None]


def _nothing_to_look_up(_caller: Caller, _then: Callable[[Rights], None]) -> None:
    raise AssertionError("rights are always known here")


#: Results that an administrator wants to hear of: the TPM is in failure mode, or locked against guessing.
NOTABLE = {
    "1.2": results(TpmResult.FAIL, TpmResult.FAILEDSELFTEST, TpmResult.DEFEND_LOCK_RUNNING),
    "2.0": results(TpmRc.FAILURE, TpmRc.LOCKOUT),
}


_NO_RIGHTS = Rights(control=False, secrets=False)
ALL_RIGHTS = Rights(control=True, secrets=True)


def _needs_rights(request: ptm.Request, *, is_own: bool) -> bool:
    return needs_control(request) and not (is_own and isinstance(request, ptm.CancelTpmCommand))


class Dispatcher:
    """One for all front ends of a TPM.

    `events.executed` hears of the commands whose results are `NOTABLE`, and with `trace` of each; else they are only
    counted. `rights_of` gives None for callers whose groups have to be looked up, which `look_up` does beside the
    serving thread.
    """

    def __init__(
        self,
        tpm: Tpm,
        controller: Controller,
        executor: Executor,
        rights_of: Callable[[Caller], Optional[Rights]],
        events: Events,
        look_up: LookUp = _nothing_to_look_up,
    ) -> None:
        self.tpm = tpm
        self.controller = controller
        self.executor = executor
        self.events = events
        self.commands = 0
        self.trace = False
        self._is_captured = False
        self._long_running = LONG_RUNNING[tpm.version]
        self._notable = NOTABLE[tpm.version]
        #: The failure of the TPM whose commands are not told any more.
        self._told: Optional[Failure] = None
        self._rights_of = rights_of
        self._look_up = look_up
        self._managed: Optional[ManagedTpm] = None
        #: Owners of requests that wait for the rights of their callers.
        self._looking_up: set[object] = set()

    def must_wait(
        self, caller: Caller, request: ptm.Request, rights: Optional[Rights] = None, *, is_own: bool = False
    ) -> bool:
        """Has the request to wait: for the worker, or until it is known what its caller may do?"""
        if self._is_for_worker(request):
            return True
        return rights is None and _needs_rights(request, is_own=is_own) and self._rights_of(caller) is None

    def _is_for_worker(self, request: ptm.Request) -> bool:
        """Must the request go to the worker, because that has the TPM or because storage can be slow?"""
        return uses_storage(request) or (self.executor.busy and not is_immediate(request))

    def withdraw(self, owner: object) -> bool:
        """Forget the command or request of `owner` that waits; False when it runs, or there is none."""
        if owner in self._looking_up:
            self._looking_up.discard(owner)
            return True
        return self.executor.withdraw(owner)

    def is_long(self, code: int) -> bool:
        """Is the command one for the worker, because it takes long or has to wait? One that is to revive a failed TPM,
        or that has to take the lock of its state first, may take long, too."""
        return (
            self.executor.busy or code in self._long_running or self.tpm.power is Power.FAILED or not self.tpm.has_lock
        )

    # --- spaces --------------------------------------------------------------------------------------------------

    @property
    def managed(self) -> "ManagedTpm":
        """The resource manager; there is one from the first use on."""
        if self._managed is None:
            from swtpm_svc.frontends.managed_tpm import ManagedTpm  # many TPMs never have a client of it

            self._managed = ManagedTpm(self.tpm, self.controller)
        return self._managed

    def open_space(self, caller: Caller) -> "Client":
        """A space for what a client of a managed way in sends: `tpm` of `run`. It ends with `close_space`."""
        return self.managed.client(caller)

    def close_space(self, client: "Client") -> None:
        """Flush all that the client has; now, or when the TPM is done with what came before."""
        if self.is_long(0):
            self.executor.submit(client.close, lambda _nothing: None, user=client.caller.uid, is_essential=True)
        else:
            client.close()

    # --- commands ------------------------------------------------------------------------------------------------

    @property
    def is_free(self) -> bool:
        """May `serve_stream` and `serve_device` be called: does the TPM run, with nothing in work, and does nobody want
        to see each command?"""
        is_plain = not self.trace and not self._is_captured and self.tpm.give_way is None
        return is_plain and self.tpm.is_running and self.tpm.has_lock and not self.executor.busy

    def serve_stream(self, fd: int, epoll: int, deadline_s: float) -> Left:
        """Run the plain commands of a stream socket as far as that takes no Python: `Tpm.serve_stream`. What is left
        of a command is for `run_rest`."""
        executed, left = self.tpm.serve_stream(fd, epoll, deadline_s)
        self.commands += executed
        return left

    def serve_device(self, device: Device, fd: int, epoll: int, deadline_s: float) -> Optional[Unanswered]:
        """The same at the character device: `Tpm.serve_device`."""
        try:
            return self.tpm.serve_device(device, fd, epoll, deadline_s)
        finally:
            self.commands += device.executed

    def run_rest(self, caller: Caller, left: Unsent, done: Callable[[bytes], None]) -> bool:
        """`done` with what is to be sent of a command's response; now or later, as `run`."""
        # a response that waits for a store has not been sent in part
        return self._finish(
            caller, bytearray(left.command), left.response, lambda response: done(response[left.sent :]), None
        )

    def capture(self, write: Callable[[bytes, bytes], None]) -> None:
        """`write` hears of each command and its response from here on."""
        tell = self.tell

        def told(caller: Caller, command: Union[bytes, bytearray, memoryview], response: bytes) -> None:
            write(bytes(command), response)
            tell(caller, command, response)

        # in its place, as who captures nothing should not pay for asking
        self.tell = told  # type: ignore[method-assign]
        self._is_captured = True

    def tell(self, caller: Caller, command: Union[bytes, bytearray, memoryview], response: bytes) -> None:
        """Tell the service of a command that was executed, if it wants to hear of it; of a failure once."""
        if not self.trace:
            if response[RESULT] not in self._notable:
                return
            failure = self.tpm.failure
            if failure is not None and failure is self._told:
                return
            self._told = failure
        self.events.executed(caller, bytes(command), response)

    def run(
        self,
        caller: Caller,
        command: bytearray,
        done: Callable[[bytes], None],
        *,
        locality: Optional[int] = None,
        rights: Optional[Rights] = None,
        owner: object = None,
        is_essential: bool = False,
        tpm: "Optional[Client]" = None,
    ) -> bool:
        """Execute a command, at `locality` if one is given and the caller may use it, then `done(response)`.

        Returns whether that is done; False: the command waits, for the worker or until it is known what its caller may
        do, and `done` comes later. `command` is the dispatcher's from here on. `rights` stand in for those of the
        caller's account. `tpm` is the space of a client, if it has one. The rest is that of `execute_later`.
        """
        self.commands += 1

        def execute() -> bool:
            return self._execute(caller, command, done, locality, owner, tpm, is_essential=is_essential)

        if not locality:  # none is given, or that of everybody
            return execute()

        def go_on(known: Rights) -> bool:
            if known.control:
                return execute()
            done(self.tpm.dialect.bad_locality)
            return True

        known = _NO_RIGHTS if locality > MAX_LOCALITY else rights or self._rights_of(caller)
        if known is not None:
            return go_on(known)

        def found(known: Rights) -> None:
            go_on(known)

        self._look_up(caller, found)
        return False

    def _execute(
        self,
        caller: Caller,
        command: bytearray,
        done: Callable[[bytes], None],
        locality: Optional[int],
        owner: object,
        tpm: "Optional[Client]",
        *,
        is_essential: bool,
    ) -> bool:
        code = HEADER.unpack_from(command)[2] if len(command) >= HEADER_SIZE else 0
        if self.is_long(code):
            self.execute_later(
                caller, command, code, done, locality=locality, owner=owner, is_essential=is_essential, tpm=tpm
            )
            return False
        if locality is None:
            response = (tpm or self.tpm).begin(memoryview(command), code)
        else:
            response = (tpm or self.tpm).begin_at(locality, memoryview(command), code)
        return self._finish(caller, command, response, done, owner, tpm)

    def _finish(
        self,
        caller: Caller,
        command: bytearray,
        response: bytes,
        done: Callable[[bytes], None],
        owner: object,
        tpm: "Optional[Client]" = None,
    ) -> bool:
        if self.tpm.unstored:
            self.store_later(caller, command, response, done, owner=owner, tpm=tpm)
            return False
        self.tell(caller, command, response)
        done(response)
        return True

    def execute_later(
        self,
        caller: Caller,
        command: bytearray,
        code: int,
        done: Callable[[bytes], None],
        *,
        locality: Optional[int] = None,
        owner: object = None,
        is_essential: bool = False,
        tpm: "Optional[Client]" = None,
    ) -> None:
        """Execute a command on the worker, then `done(response)`. `command` is the dispatcher's from here on.

        `is_essential`: also when the service ends; else `done` is then not called if the command has still to wait.
        """

        def work() -> bytes:
            if locality is None:
                return (tpm or self.tpm).execute(memoryview(command), code)
            return (tpm or self.tpm).execute_at(locality, memoryview(command), code)

        self._submit(caller, command, work, done, owner, is_essential=is_essential)

    def store_later(
        self,
        caller: Caller,
        command: bytearray,
        response: bytes,
        done: Callable[[bytes], None],
        *,
        owner: object = None,
        tpm: "Optional[Client]" = None,
    ) -> None:
        """Have the worker store what a command left `unstored`, then call `done` with the response, or with the error
        that takes its place."""
        self._submit(caller, command, lambda: (tpm or self.tpm).finish(response), done, owner, is_essential=True)

    def _submit(
        self,
        caller: Caller,
        command: bytearray,
        work: Callable[[], bytes],
        done: Callable[[bytes], None],
        owner: object,
        *,
        is_essential: bool,
    ) -> None:
        def guarded() -> bytes:
            try:
                return work()
            except Exception as error:
                self.events.failed(internal("while executing a command", error))
                return self.tpm.dialect.fatal

        def finish(response: bytes) -> None:
            self.tell(caller, command, response)
            done(response)

        self.executor.submit(guarded, finish, user=caller.uid, owner=owner, is_essential=is_essential)

    def control(
        self,
        caller: Caller,
        request: ptm.Request,
        done: Callable[[ptm.Reply], None],
        *,
        perform: Optional[Callable[[ptm.Request], ptm.Reply]] = None,
        refuse: Optional[Callable[[VtpmError], None]] = None,
        is_own: bool = False,
        owner: object = None,
        rights: Optional[Rights] = None,
    ) -> None:
        """Carry out a control request, now or after what it `must_wait` for, then `done(reply)`.

        `perform` stands in for the controller where a front end has more to do. `refuse` hears NOT_PERMITTED in place
        of `done`, which otherwise gets its result code. `is_own`: the command in work is the caller's, who may cancel
        it whatever his rights. `rights` stand in for those of the caller's account.
        """

        def go_on(known: Rights) -> None:
            self._control_with(known, caller, request, done, perform, refuse, owner)

        if not _needs_rights(request, is_own=is_own):
            go_on(ALL_RIGHTS)
            return
        known = rights or self._rights_of(caller)
        if known is not None:
            go_on(known)
            return

        def found(rights: Rights) -> None:
            if owner is None or owner in self._looking_up:
                self._looking_up.discard(owner)
                go_on(rights)

        if owner is not None:
            self._looking_up.add(owner)
        self._look_up(caller, found)

    def _control_with(
        self,
        rights: Rights,
        caller: Caller,
        request: ptm.Request,
        done: Callable[[ptm.Reply], None],
        perform: Optional[Callable[[ptm.Request], ptm.Reply]],
        refuse: Optional[Callable[[VtpmError], None]],
        owner: object,
    ) -> None:
        try:
            in_clear = isinstance(request, ptm.GetStateBlob) and self.controller.gives_clear(request)
            authorize(request, rights, in_clear=in_clear)
        except VtpmError as error:
            self.events.refused(caller, error)
            if refuse is not None:
                refuse(error)
            else:
                done(ptm.Result(error.fault.tpm_result))
            return
        handle = perform or self.controller.handle

        def work() -> ptm.Reply:
            try:
                return handle(request)
            except Exception as error:
                self.events.failed(internal(f"while carrying out {ptm.command_of(request).name}", error))
                return ptm.Result(TpmResult.FAIL)

        def finish(reply: ptm.Reply) -> None:
            if needs_control(request):
                self.events.controlled(
                    caller, request, 0 if isinstance(reply, ptm.CapabilityReply) else reply.tpm_result
                )
            done(reply)

        if isinstance(request, ptm.CancelTpmCommand) and self.tpm.is_powered and not self.executor.busy:
            finish(ptm.Result(TpmResult.SUCCESS))  # nothing runs: nothing to cancel
        elif self._is_for_worker(request):
            self.executor.submit(work, finish, user=caller.uid, owner=owner)
        else:
            finish(work())
