"""The TPM: power, command execution, locality and state blobs, over libtpms. What a command says is not read here.

INIT powers on or, when running, is a hardware reset; STOP powers off so that state blobs can be exchanged (tpm/power).

Rule 1: a TPM 2.0 that was started is shut down in order (TPM2_Shutdown) before its power goes, so that the
dictionary-attack counter does not rise (TPM 2.0 Part 1, "Dictionary Attack Protection"), unless its volatile state was
just stored and will be resumed, in which case nothing was interrupted; and unless `shuts_down` says not to.
Rule 2: a TPM that is resumed from volatile state gets fresh entropy before it serves: libtpms restores its generator
too, and would give the random bytes once more that it gave after the snapshot (measured).
Rule 3: a command that could not be stored has not happened: the TPM is the one before it again, with its PCRs and
sessions, and has failed until something can be stored again, which each command finds out (docs/decisions/0014).
Rule 4: where storage is shared with another host, the one that has its lock executes commands. A TPM that is powered on
without it stores nothing, and is powered on once more when it has it; one that gave it up goes on as it was.
"""

import time
from os import urandom

from swtpm_svc.errors import VtpmError
from swtpm_svc.tpm import libtpms
from swtpm_svc.tpm.device import Device, Unanswered
from swtpm_svc.tpm.libtpms import Left, LibtpmsError, Stream, Unsent
from swtpm_svc.tpm.power import (
    STEPS,
    TRANSITIONS,
    Event,
    Failure,
    Last,
    Power,
    Snapshot,
    Step,
    in_failure_mode,
)
from swtpm_svc.tpm.staging import Staging, Storage
from swtpm_svc.tpm.state_blobs import PERMANENT_STATE, SAVE_STATE, VOLATILE_STATE, StateBlobs, refusal
from swtpm_svc.wire.command_codes import LONG_RUNNING, STORES_NOTHING, CommandCode
from swtpm_svc.wire.dialect import DIALECTS, STIR_BYTES
from swtpm_svc.wire.hints import Callable, Optional
from swtpm_svc.wire.results import TpmResult
from swtpm_svc.wire.tpm_header import RESULT, SUCCESS

_RUNNING, _WORK = Power.RUNNING, Last.WORK  # each command asks, and looking one up takes 0.1 us (Python 3.11)


class Tpm:
    """The process's one TPM. All methods but `cancel` belong to one thread at a time.

    A client only gets a TPM return code when its command could not be stored; `on_storage_failure` hears the cause.
    Storage may be slow: `execute` waits for it, `begin` leaves that to `finish`.
    """

    def __init__(self, version: str, storage: Storage, on_storage_failure: Callable[[VtpmError], None]) -> None:
        self.version = version
        self._on_storage_failure = on_storage_failure
        self.power = Power.OFF
        self.locality = 0
        self._storage = Staging(storage)
        #: Has it what is stored for itself? Without, it executes no command, and stores nothing (rule 4).
        self.has_lock = storage.is_locked
        #: May it be powered on without the lock?
        self.is_incoming = False
        #: Called when the lock of what is stored was taken, or given up: see `has_lock`. From any thread.
        self.on_lock: Callable[[], None] = lambda: None
        #: It has run no command yet that others could know of, and was powered on without the lock: the Startup it was
        #: sent, "" for none.
        self._unlocked: Optional[str] = None
        #: Of a TPM 2.0 that is made at a power-on: as in profiles.py.
        self.profile = "none"
        #: Does it get a TPM2_Shutdown before its power goes (rule 1)?
        self.shuts_down = True
        #: Is the locality that a command brings along that of those that follow, too?
        self.keeps_locality = False
        #: While `power` is FAILED.
        self.failure: Optional[Failure] = None
        #: Was a Startup sent that succeeded, or does it go on from where there was one? None: it is a predecessor's.
        self.was_started: Optional[bool] = False
        #: How often a failed TPM has gone on.
        self.healed = 0
        #: Called when it has failed, and when it goes on (None). From any thread.
        self.on_failure: Callable[[Optional[Failure]], None] = lambda _failure: None
        #: The TPM before the command in execution, if that may change what is stored.
        self._before: Optional[Snapshot] = None
        #: What this version of the TPM says, and wants to hear.
        self.dialect = DIALECTS[version]
        #: What it is sent before its power goes, unless it was shut down: the next one where one is refused.
        self.farewell: tuple[bytes, ...] = () if self.dialect.shutdown is None else (self.dialect.shutdown,)
        #: Hears of commands of the service's own, with their responses.
        self.on_own_command: Callable[[bytes, bytes], None] = lambda _command, _response: None
        #: Commands that, if they succeed, do more to the TPM than others.
        self._turning = frozenset((self.dialect.startup_code, self.dialect.shutdown_code))
        #: Called with each command before it is executed, while there is somebody who has to give way to it (a resource
        #: manager; docs/decisions/0029).
        self.give_way: Optional[Callable[[memoryview], None]] = None
        #: Called when it was powered on: what it had loaded is gone.
        self.on_reset: Callable[[], None] = lambda: None
        #: Called when it can answer from now on: it was started, or goes on with its volatile state. From any thread.
        self.on_started: Callable[[], None] = lambda: None
        self._last = Last.WORK
        #: libtpms has a TPM: else it cannot be asked for anything (a TPM 1.2 of 0.9.2 crashes then).
        self.is_there = False
        #: Between start and end of a hash sequence: tpm/dynamic_launch keeps it, and the end of power ends it.
        self.is_hashing = False
        self.blobs = StateBlobs(self._storage)
        self._stores_nothing = STORES_NOTHING[version]
        libtpms.set_plain(self._stores_nothing - LONG_RUNNING[version])
        self._stream = Stream()
        libtpms.open_library(tpm2=version == "2.0", storage=self._storage)

    @property
    def is_running(self) -> bool:
        return self.power is _RUNNING

    @property
    def is_powered(self) -> bool:
        return self.power is _RUNNING or self.power is Power.FAILED

    @property
    def storing_since(self) -> Optional[float]:
        """When storage was asked for what it has not done yet, of time.monotonic(); None: it is idle. From any
        thread."""
        return self._storage.since

    @property
    def can_be_asked(self) -> bool:
        """It runs, and the last command was not TPM2_Shutdown, which the next one undoes (TPM 2.0 Part 3, section
        9.4)."""
        return self.is_running and self.has_lock and not self._last.is_shut_down

    # --- power ---------------------------------------------------------------------------------------------------

    def power_on(self, *, delete_volatile: bool) -> None:
        """PTM_INIT: power on, or reset when running. Goes on with the stored volatile state where there is one.

        `delete_volatile` removes the stored volatile state once it has been read, so that it is resumed from once.

        Raises:
            VtpmError: the state cannot be read, was not accepted, or cannot be stored; the TPM is then off.
        """
        self._power_off(Event.STOP)
        if not self.has_lock and not self.is_incoming:
            self.hold()
        offered = self.blobs.take_offered()
        if PERMANENT_STATE in offered:
            # what else is stored belongs to the TPM that the new permanent state replaces
            self._storage.blobs = {VOLATILE_STATE: None, SAVE_STATE: None}
        try:
            volatile = offered.get(VOLATILE_STATE) or self._storage.load(VOLATILE_STATE)
            if self.profile != "none" and PERMANENT_STATE not in offered:
                self._choose_profile()
            self._main_init(offered)
        finally:
            self._storage.blobs = {}
        self.on_reset()
        if offered:
            self.blobs.settle(offered)
        self.was_started = volatile is not None
        if volatile is not None:
            self._stir()
            if delete_volatile:
                self._storage.delete(VOLATILE_STATE, must_exist=False)
        if not self.has_lock:
            self._unlocked = ""
            return
        try:
            self._storage.commit()
        except VtpmError:
            self._terminate(Event.STOP)
            raise
        if volatile is not None:
            if not delete_volatile:
                self._take(Step.STORE)
            self.on_started()

    def _choose_profile(self) -> None:
        if self.version == "2.0" and self._storage.load(PERMANENT_STATE) is None:
            from swtpm_svc.tpm import profiles  # and json: once in a TPM's life

            profiles.set_profile(self.profile)

    def startup(self, kind: str) -> bytes:
        """Send TPM_Startup / TPM2_Startup: `kind` is clear, state, or (1.2) deactivated. Returns the response."""
        command = self.dialect.startup[kind]
        if self._unlocked is None:
            response = self.execute(memoryview(bytearray(command)), self.dialect.startup_code)
        else:
            self._unlocked = kind
            response = self.begin(memoryview(bytearray(command)), self.dialect.startup_code)
        self.on_own_command(command, response)
        return response

    def hold(self) -> None:
        """Have the lock of what is stored; what may be stored was read with it then.

        Raises:
            VtpmError STATE_LOCKED: another host has it; and as power_on().
        """
        if self.has_lock:
            return
        self._storage.lock()
        self.has_lock = True
        startup, self._unlocked = self._unlocked, None
        try:
            if startup is not None:
                self._terminate(Event.STOP)
                self.power_on(delete_volatile=True)
                if startup:
                    self.startup(startup)
            elif self.is_running:
                self._store_what_differs()
        except VtpmError:
            self._let_go()
            raise
        self.on_lock()

    def _let_go(self) -> None:
        self.has_lock = False
        self._storage.unlock()

    def _store_what_differs(self) -> None:
        """Storage has what another one left, who did not go on with it after all."""
        permanent = libtpms.get_state(libtpms.PERMANENT)
        if self._storage.load(PERMANENT_STATE) != permanent:
            self._storage.store(PERMANENT_STATE, permanent)
            self._storage.commit()

    def release(self) -> None:
        """Give the lock up, for another host that goes on with this TPM.

        Raises:
            VtpmError: what the last command left cannot be stored; the lock stays.
        """
        if self.has_lock:
            self._storage.commit()
            self._let_go()
            self.on_lock()

    def holds_lock(self) -> bool:
        """Has it, or gets it now, what it must have to execute commands?"""
        return self.has_lock or not self.is_powered or self._holds()

    def _holds(self) -> bool:
        try:
            self.hold()
        except VtpmError as error:
            self._on_storage_failure(error)
            return False
        return True

    def stop(self) -> None:
        """PTM_STOP: power off; state blobs can then be set."""
        self._power_off(Event.STOP)

    def shut_down(self) -> None:
        """Power off for good, in order."""
        self._power_off(Event.SHUT_DOWN)

    def snapshot(self) -> Snapshot:
        """The TPM for `resume` in another process. One that does not heal is powered on there anew."""
        runs = self.is_running or (self.failure is not None and self.failure.heals)
        return Snapshot(
            power=Power.RUNNING.value if runs else Power.OFF.value if self.failure is not None else self.power.value,
            locality=self.locality,
            permanent=libtpms.get_state(libtpms.PERMANENT) if runs else b"",
            volatile=libtpms.volatile_state() if runs else b"",
            is_shut_down=self._last.is_shut_down,
            volatile_is_stored=self._last.volatile_is_stored,
            offered=self.blobs.offered,
        )

    def resume(self, snapshot: Snapshot) -> None:
        """Go on with a TPM as it was at `snapshot`, whatever storage has meanwhile; it has failed if that cannot be
        stored.

        Raises:
            VtpmError: the snapshot was not accepted; the TPM is then off.
        """
        self.set_locality(snapshot.locality)
        self.blobs.offer_all(snapshot.offered)
        if snapshot.power != Power.RUNNING.value:
            self.power = Power(snapshot.power)
            return
        self._restore(snapshot)
        self.was_started = None
        try:
            # Storage has what a shutdown left, which says that all was in order; from here on it no longer is, and
            # libtpms, which was not shut down in its own view, would not write that by itself.
            if self._storage.load(PERMANENT_STATE) != snapshot.permanent:
                self._storage.store(PERMANENT_STATE, snapshot.permanent)
            self._storage.commit()
        except VtpmError as error:
            self._storage.store(PERMANENT_STATE, snapshot.permanent)
            self._fail(error, heals=True)
        self.on_started()

    def _restore(self, snapshot: Snapshot) -> None:
        """Be the TPM of `snapshot`, which ran. Raises: VtpmError: it was not accepted; the TPM is then off."""
        self._storage.blobs = {PERMANENT_STATE: snapshot.permanent, VOLATILE_STATE: snapshot.volatile}
        try:
            self._main_init({})
        finally:
            self._storage.blobs = {}
        self._stir()
        self._last = Last((snapshot.is_shut_down, snapshot.volatile_is_stored))

    def _main_init(self, offered: "dict[str, bytes]") -> None:
        self.blobs.validate(offered)  # here, and not half-way through its start
        try:
            libtpms.main_init()
        except VtpmError as error:
            self._terminate()
            if isinstance(error, LibtpmsError):
                raise self._storage.damaged(PERMANENT_STATE, refusal(error)) from error
            raise
        self._go(Event.POWER_ON)
        self.failure, self.is_there, self._last = None, True, Last.WORK

    def _go(self, event: Event) -> None:
        self.power = TRANSITIONS[self.power, event]

    def _take(self, step: Step) -> None:
        self._last = STEPS[self._last, step]

    def _power_off(self, event: Event) -> None:
        self._unlocked = None
        if self.is_powered:
            if self.shuts_down and self.has_lock and self.revive() and self.farewell and self._last is Last.WORK:
                self._say_farewell()
            self._terminate(event)
        else:
            self._go(event)

    def _say_farewell(self) -> None:
        """A TPM that was not started answers TPM_RC_INITIALIZE, which is as good.

        What is not stored is as after a power cut.
        """
        for command in self.farewell:
            response = self.begin(memoryview(bytearray(command)), CommandCode.SHUTDOWN)
            self.on_own_command(command, response)
            if response[RESULT] == SUCCESS or response == self.dialect.unstarted:
                break
        try:
            self._storage.commit()
        except VtpmError as error:
            self._on_storage_failure(error)

    def _terminate(self, event: Optional[Event] = None) -> None:
        """Take libtpms' TPM away, because of `event`; None: the power state stays as it is."""
        libtpms.terminate()
        self._storage.staged = {}
        self.is_hashing = self.is_there = False
        self.failure = None
        if event is not None:
            self._go(event)

    def _stir(self) -> None:
        if self.dialect.stir is not None:
            libtpms.process(memoryview(bytearray(self.dialect.stir + urandom(STIR_BYTES))))

    # --- commands ------------------------------------------------------------------------------------------------

    def execute(self, command: memoryview, code: int) -> bytes:
        """Execute a command, whose header has `code`; always gives a response, if only "the TPM failed"."""
        if not self.holds_lock():
            return self.dialect.fatal
        response = self.begin(command, code)
        return self.finish(response) if self.unstored else response

    def execute_at(self, locality: int, command: memoryview, code: int) -> bytes:
        """Execute one command at another locality than that of the others: see `keeps_locality`."""
        if not self.holds_lock():
            return self.dialect.fatal
        response = self.begin_at(locality, command, code)
        return self.finish(response) if self.unstored else response

    def begin(self, command: memoryview, code: int) -> bytes:
        """Execute a command without waiting for storage. While something is `unstored` then, its response is for
        `finish`.

        A failed TPM asks storage first whether it can go on, which may take long.
        """
        if self.power is not _RUNNING and not self._takes_commands():
            return self.dialect.fatal if self.power is not Power.FAILED else self.dialect.in_failure
        if self.give_way is not None:
            self.give_way(command)
        if self._last is not _WORK:
            self._take(Step.BEGIN)
        self._before = None if code in self._stores_nothing or self.failure is not None else self.snapshot()
        try:
            response = libtpms.process(command)
        except LibtpmsError:
            return self.dialect.fatal
        self._last = _WORK  # in line what Step.COMMAND says, as nearly all commands come this way
        result = response[RESULT]
        if result == SUCCESS:
            if code in self._turning:
                self._turn(code)
        elif result in self.dialect.failing and libtpms.Callbacks.failure is None:
            self._look_for_failure_mode()
        return response

    def _turn(self, code: int) -> None:
        """A Startup or a Shutdown has succeeded."""
        if code == self.dialect.shutdown_code:
            self._take(Step.SHUTDOWN)
        else:
            self.was_started = True
            self.on_started()

    def begin_at(self, locality: int, command: memoryview, code: int) -> bytes:
        """`begin` at another locality than that of the others: see `keeps_locality`."""
        if self.keeps_locality:
            self.locality = locality
        libtpms.set_locality(locality)
        try:
            return self.begin(command, code)
        finally:
            libtpms.set_locality(self.locality)

    @property
    def unstored(self) -> bool:
        """Did the last command change what is stored, or fail to load it?"""
        if self._unlocked is not None:
            return False
        return bool(self._storage.staged) or libtpms.Callbacks.failure is not None

    def finish(self, response: bytes) -> bytes:
        """Store what the last command wants stored; returns what its client gets, `response` if that succeeds.

        If it does not, the TPM has failed, and a command that may change what is stored has not happened. One that does
        not (its authorization failed, and was counted) has, and is as true as before: what it left is stored when it
        can be.
        """
        before, self._before = self._before, None
        committed = 0
        try:
            if libtpms.Callbacks.failure is not None:
                raise libtpms.take_failure()
            wanted = len(self._storage.staged)
            try:
                self._storage.commit()
            finally:
                committed = wanted - len(self._storage.staged)
            return response
        except VtpmError as error:
            if before is None:
                self._fail(error, heals=True)
                return response
            self._undo(before, error, is_torn=committed > 0)
            return self.dialect.in_failure

    def _undo(self, before: Snapshot, cause: VtpmError, *, is_torn: bool) -> None:
        self._terminate(Event.FAILURE)  # it has power still, also for who looks while it goes back
        try:
            self._restore(before)
        except VtpmError as error:
            self._on_storage_failure(cause)
            self._fail(error, heals=False)
            return
        if is_torn:
            self._storage.store(PERMANENT_STATE, before.permanent)
        self._fail(cause, heals=True)

    def _fail(self, cause: VtpmError, *, heals: bool) -> None:
        self._go(Event.FAILURE)
        self.failure = Failure(cause, time.time(), heals)
        self._on_storage_failure(cause)
        self.on_failure(self.failure)

    def _look_for_failure_mode(self) -> None:
        """libtpms has answered with failure: is it for good? Then it answers each command so."""
        if self.power is Power.FAILED:
            return
        dialect = self.dialect
        try:
            if not dialect.is_in_failure(libtpms.process(memoryview(bytearray(dialect.test)))):
                return
        except LibtpmsError:
            pass  # it does not answer at all
        self._fail(in_failure_mode(), heals=False)

    def revive(self) -> bool:
        """Does it run, or does it now, having failed? Asks storage, which may take long."""
        return self.power is _RUNNING or (self.failure is not None and self.failure.heals and self._heal())

    def _takes_commands(self) -> bool:
        """A TPM that has failed for good answers itself, if it is there: TPM2_GetTestResult may tell why."""
        return self.failure is not None and (self._heal() if self.failure.heals else self.is_there)

    def _heal(self) -> bool:
        try:
            self.hold()
            self._storage.probe()
        except VtpmError:
            return False
        self._go(Event.HEALING)
        self.failure = None
        self.healed += 1
        self.on_failure(None)
        self.on_started()
        return True

    def serve_stream(self, fd: int, epoll: int, deadline_s: float) -> "tuple[int, Left]":
        """Execute the plain commands that come on a stream socket, while the TPM runs: `libtpms.Stream.serve_plain`.

        Returns how many were executed, and what is left to do; a response that is left is as one of `begin`.
        """
        self._before = None
        left = self._stream.serve_plain(fd, epoll, deadline_s)
        executed = self._stream.executed
        if executed:
            self._take(Step.COMMAND)
        return executed, left._replace(response=self._judge(left.response)) if isinstance(left, Unsent) else left

    def serve_device(self, device: Device, fd: int, epoll: int, deadline_s: float) -> Optional[Unanswered]:
        """The same at the character device: `Device.serve_plain`."""
        self._before = None
        try:
            left = device.serve_plain(fd, epoll, deadline_s)
        finally:
            if device.executed:
                self._take(Step.COMMAND)
        if left is None or left.response is None:
            return left
        return left._replace(response=self._judge(left.response))

    def _judge(self, response: bytes) -> bytes:
        """The response to a command that was executed in C, and is left."""
        if response[RESULT] in self.dialect.failing:
            self._look_for_failure_mode()
        return response or self.dialect.fatal

    def ask(self, command: bytes) -> bytes:
        """Execute a command of the service's own that only asks; see `can_be_asked`.

        Not by `execute`: what a client did last must stay what the client did last.
        """
        if not self.is_running:
            return self.dialect.fatal
        if self.give_way is not None:
            self.give_way(memoryview(command))
        self._before = None
        try:
            response = libtpms.process(memoryview(bytearray(command)))
        except LibtpmsError:
            return self.dialect.fatal
        return self.finish(response) if self.unstored else response

    def cancel(self) -> None:
        """Ask the command in execution to give up; any thread. It answers TPM_RC_CANCELED if it does."""
        # a command that waits to be stored is executed: libtpms would cancel the next one
        if self._storage.since is None:
            libtpms.cancel()

    def set_locality(self, locality: int) -> None:
        """The locality of the commands that follow, 0 to 4."""
        self.locality = locality
        libtpms.set_locality(locality)

    # --- the control operations that need libtpms ----------------------------------------------------------------

    def is_started(self) -> bool:
        """Was a running TPM started (TPM_Startup)?"""
        return self.ask(self.dialect.test) != self.dialect.unstarted

    def guarded(self, operation: Callable[[], int]) -> int:
        """An operation that is not a command and may change what is stored; returns its TPM result code."""
        if not self.is_running or (not self.has_lock and not self._holds()):
            return TpmResult.FAIL
        self._take(Step.BEGIN)
        self._before = self.snapshot()
        result = operation()
        if self.unstored:
            self.finish(b"")
        return TpmResult.FAIL if self.power is Power.FAILED else result

    def store_volatile(self) -> None:
        """PTM_STORE_VOLATILE: the next power-on goes on from here. Raises: VtpmError: it cannot be stored."""
        self.hold()
        self._storage.store(VOLATILE_STATE, libtpms.volatile_state())
        try:
            self._storage.commit()
        except VtpmError:
            self._storage.staged = {}
            raise
        self._take(Step.STORE)

    def buffer_size(self, wanted: int) -> libtpms.BufferSize:
        """Set (only while off) or, with 0, ask for the buffer size in bytes."""
        return libtpms.set_buffer_size(wanted)

    def info(self, flags: int) -> str:
        return libtpms.info(flags)
