"""One run of swtpm: the order of its start, of its service and of its end, over the parts of the daemon.

Order of a start (swtpm(8); measured): sockets, pid, TPM with its state unless an INIT is awaited, signals, filter of
system calls, and then READY, at which the first process ends if this one is in the background. What fails before that
leaves neither sockets nor pid. A failed INIT of a client ends nothing.
"""

import gc
import os

from swtpm_svc.errors import Code, VtpmError, internal
from swtpm_svc.frontends.dispatch import ALL_RIGHTS, Dispatcher
from swtpm_svc.frontends.sockets.socket_frontend import Manners, SocketFrontend
from swtpm_svc.service.classic.background import Background, WrittenPid
from swtpm_svc.service.classic.emulation import CHARDEV, CUSE, Emulation
from swtpm_svc.service.classic.emulation_log import LIBRARY_LEVEL, EmulationLog
from swtpm_svc.service.classic.late_state import LateState
from swtpm_svc.service.classic.listening import Listening
from swtpm_svc.service.classic.logged_control import LoggedController
from swtpm_svc.service.classic.traffic import Traffic
from swtpm_svc.service.classic.user import become
from swtpm_svc.service.loop import Loop
from swtpm_svc.service.opened_state import open_state
from swtpm_svc.state import lock
from swtpm_svc.state.store import Store
from swtpm_svc.tpm import libtpms
from swtpm_svc.tpm.executor import Executor
from swtpm_svc.tpm.tpm import Tpm
from swtpm_svc.wire.hints import Callable, Optional, Protocol
from swtpm_svc.wire.results import TpmRc, TpmResult
from swtpm_svc.wire.small_tools import signal, suppress

#: The status of a start of swtpm_cuse whose TPM fails.
CUSE_START_FAILED = 255
_NOT_INITIALIZED = "Error: Could not initialize libtpms."
#: Errors of a state for which a TPM 2.0's INIT has a return code of that version.
_STATE_IS_BAD = (Code.STATE_KEY, Code.STATE_CORRUPT, Code.STATE_FOREIGN, Code.LIBTPMS)


def serve(emulation: Emulation, log: EmulationLog) -> int:
    """Serve until something ends it; the exit status. Errors are told, never raised."""
    background = Background()
    if emulation.is_background:
        background.enter()
    with Loop() as loop:
        emulator = Emulator(emulation, log, loop, background)
        status = _run(emulator, log)
    background.failed(status)
    return status


def _run(emulator: "Emulator", log: EmulationLog) -> int:
    try:
        return emulator.run()
    except VtpmError as error:
        log.error(error)
    except OSError as error:
        log.line(f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
    return emulator.failure_status


def describe(version: str, flags: int, emulation: Optional[Emulation]) -> str:
    """JSON about the TPM, as --print-info has it; with an `emulation` about that one, which is powered for it.

    Raises:
        VtpmError
    """
    if emulation is None:
        libtpms.silence()
        libtpms.supports(version)
        return libtpms.info(flags)
    with Loop() as loop:
        emulator = Emulator(emulation, EmulationLog(None), loop, Background())
        return emulator.describe(flags)


class Device(Protocol):
    """What an interface serves besides sockets."""

    def serve(self, loop: Loop, dispatcher: Dispatcher) -> "Callable[[], None]":
        """Serve it; what is given back ends that. Raises: VtpmError, OSError."""


class Emulator:
    """What is there before anything is opened, and the steps from there to READY and to the end."""

    def __init__(self, emulation: Emulation, log: EmulationLog, loop: Loop, background: Background) -> None:
        self._emulation = emulation
        self._log = log
        self._is_cuse = emulation.interface == CUSE
        #: The exit status, if it fails now.
        self.failure_status = CUSE_START_FAILED if self._is_cuse else 1
        self._loop = loop
        self._background = background
        self._executor = Executor(loop.post)
        self._traffic = Traffic(log, loop.stop)
        self._state = LateState(self._open_state)
        #: What is to be undone at the end, whatever it is: the last first.
        self._undo: list[Callable[[], None]] = []

    def run(self) -> int:
        """
        Raises:
            VtpmError, OSError: it could not start.
        """
        self._loop.on_fault = lambda error: self._log.error(internal("while serving", error))
        try:
            self._refuse_held_state()
            sockets = self._listen()
            device = self._obtain_device()
            if not self._is_cuse:
                self._write_pid()
            tpm = self._make_tpm()
            dispatcher = self._make_dispatcher(tpm)
            self._capture(tpm, dispatcher)
            self._power_on(tpm)
            self._serve_sockets(dispatcher, sockets)
            if device is not None:
                self.failure_status = 1
                self._undo.append(device.serve(self._loop, dispatcher))
            if self._is_cuse:
                self._write_pid()
                become(self._emulation.later_user)
            self._take_signals()
            self._confine()
            self._announce()
            self._loop.run()
            self._end(tpm)
            return 0
        finally:
            for undo in reversed(self._undo):
                undo()
            self._state.close()

    def describe(self, flags: int) -> str:
        """Raises: VtpmError."""
        tpm = self._make_tpm()
        try:
            tpm.power_on(delete_volatile=False)
            text = tpm.info(flags)
            tpm.shut_down()
            return text
        finally:
            self._state.close()

    # --- start ---------------------------------------------------------------------------------------------------

    def _refuse_held_state(self) -> None:
        """Before anything is made: the sockets and the pid file may be those of the process that has the state."""
        config = self._emulation.config
        state = config.state
        if (
            config.tpm.power_on != "manual"
            and state.file == "none"
            and state.directory
            and state.lock
            and not config.migration.incoming
        ):
            try:
                lock.refuse_held(state.directory)
            except VtpmError as error:
                self._log.error(error)
                raise VtpmError(error.code, _NOT_INITIALIZED, remedy=error.remedy) from error

    def _listen(self) -> "dict[str, Listening]":
        sockets = {}
        for service, endpoint in (("control", self._emulation.control), ("data", self._emulation.data)):
            if endpoint is not None:
                sockets[service] = listening = Listening(endpoint)
                self._undo.append(listening.remove_file)
        return sockets

    def _obtain_device(self) -> "Optional[Device]":
        """What is needed of it before there is a TPM: that it can be had."""
        if self._emulation.interface == CHARDEV:
            from swtpm_svc.service.classic.kernel_device import CallersDevice

            return CallersDevice(self._emulation, self._log)
        if self._is_cuse:
            from swtpm_svc.service.classic.cuse_device import NewDevice

            return NewDevice(self._emulation, self._log)
        return None

    def _write_pid(self) -> None:
        wanted = self._emulation.pid_file
        if wanted is not None:
            try:
                self._undo.append(WrittenPid(wanted).remove)
            except OSError as error:
                where = wanted.path or f"descriptor {wanted.fd}"
                raise OSError(error.errno, f"Could not open pidfile {where} : {error.strerror}") from error

    def _open_state(self) -> Store:
        emulation = self._emulation
        config = emulation.config
        if not config.state.place:
            cause = "SWTPM_NVRAM_Init: Missing backend URI."
            raise VtpmError(Code.STATE_MISSING, cause, remedy="name the state's folder: --tpmstate, or TPM_PATH")
        store = open_state(
            config.state,
            config.tpm.version,
            emulation.keys.state,
            is_incoming=config.migration.incoming,
            is_classic=True,
            keeps_modes=emulation.keeps_modes,
        )
        for remark in store.take_remarks():
            self._log.line(remark)
        if config.tpm.profile != "none" and config.tpm.version == "2.0" and store.sizes():
            store.close()
            cause = "Error: Profile could not be applied to an existing TPM 2 instance."
            raise VtpmError(Code.STATE_FOREIGN, cause, remedy="leave --profile out")
        return store

    def _make_tpm(self) -> Tpm:
        emulation, log = self._emulation, self._log
        tpm = Tpm(emulation.config.tpm.version, self._state, log.error)
        if log.fd is not None and log.level >= LIBRARY_LEVEL:
            libtpms.write_log(log.fd, log.level - LIBRARY_LEVEL + 1, f"{log.prefix}    ")
        tpm.on_own_command = self._traffic.own_command
        tpm.farewell = self._farewell(tpm)
        config = emulation.config
        tpm.profile, tpm.shuts_down = config.tpm.profile, not config.tpm.disable_auto_shutdown
        tpm.is_incoming = config.migration.incoming
        tpm.keeps_locality = True
        return tpm

    def _farewell(self, tpm: Tpm) -> "tuple[bytes, ...]":
        wanted = (tpm.dialect.shutdown_state, tpm.dialect.shutdown)
        return tuple(command for command in wanted if command is not None)

    def _make_dispatcher(self, tpm: Tpm) -> Dispatcher:
        emulation = self._emulation
        controller = LoggedController(
            tpm,
            log=self._log.line,
            tells_blobs=self._is_cuse,
            on_shutdown=self._loop.stop,
            on_error=self._log.error,
            keys=emulation.keys,
            max_locality=emulation.max_locality,
            result_of=self._init_result,
        )
        controller.releases_lock = emulation.config.migration.release_lock
        # the mode of a socket or device has let everybody in who comes
        dispatcher = Dispatcher(tpm, controller, self._executor, lambda _caller: ALL_RIGHTS, self._traffic)
        dispatcher.trace = self._log.has_traffic
        return dispatcher

    def _capture(self, tpm: Tpm, dispatcher: Dispatcher) -> None:
        if self._emulation.capture_fd < 0:
            return
        from swtpm_svc.service.capture import Capture

        capture = Capture(self._emulation.capture_fd, checksums=self._emulation.captures_checksums)
        self._undo.append(capture.close)
        dispatcher.capture(capture.exchange)
        show = tpm.on_own_command

        def own_command(command: bytes, response: bytes) -> None:
            capture.exchange(command, response)
            show(command, response)

        tpm.on_own_command = own_command

    def _init_result(self, error: VtpmError) -> int:
        if self._emulation.config.tpm.version == "2.0" and error.code in _STATE_IS_BAD:
            return TpmRc.FAILURE
        return error.fault.tpm_result if error.code is not Code.STATE_KEY else TpmResult.DECRYPT_ERROR

    def _power_on(self, tpm: Tpm) -> None:
        """Resumed from its volatile state where there is one, which stays; and its Startup, once: an INIT brings none.

        Raises:
            VtpmError
        """
        config = self._emulation.config.tpm
        if config.power_on == "manual":
            return
        try:
            tpm.power_on(delete_volatile=False)
        except VtpmError as error:
            self._log.error(error)
            raise VtpmError(error.code, _NOT_INITIALIZED, remedy=error.remedy) from error
        if config.startup in tpm.dialect.startup:
            tpm.startup(config.startup)

    # --- service -------------------------------------------------------------------------------------------------

    def _serve_sockets(self, dispatcher: Dispatcher, sockets: "dict[str, Listening]") -> None:
        emulation = self._emulation
        if not sockets:
            return
        ends = {"data": emulation.ends_with_data, "control": emulation.ends_with_control}

        def on_last_closed(service: str) -> None:
            if service == "data":
                self._log.line("Data client disconnected")
            if ends[service]:
                self._loop.stop()

        manners = Manners(
            network_rights=ALL_RIGHTS,
            disconnects=emulation.disconnects,
            obeys_set_locality=emulation.obeys_set_locality,
            trace=self._log.traffic if self._log.has_traffic else None,
            on_last_closed=on_last_closed,
        )
        frontend = SocketFrontend(self._loop, dispatcher, manners)
        self._undo.append(lambda: frontend.close(keep_files=True))
        for service, listening in sockets.items():
            if listening.is_connected:
                frontend.serve(listening.sock, service)
            else:
                frontend.accept_on(listening.sock, service)

    def _take_signals(self) -> None:
        numbers = [signal.SIGTERM, signal.SIGINT]
        if self._is_cuse:
            numbers.append(signal.SIGHUP)
        for number in numbers:
            self._loop.on_signal(number, self._loop.stop)

    def _confine(self) -> None:
        if self._emulation.seccomp != "none":
            failure = libtpms.deny_system_calls(self._emulation.seccomp)
            if failure:
                raise OSError(failure, f"The filter of system calls cannot be set: {os.strerror(failure)}")

    def _announce(self) -> None:
        self._background.ready()
        gc.freeze()  # what there is now stays
        gc.enable()
        if os.environ.get("NOTIFY_SOCKET"):
            from systemd._daemon import notify

            with suppress(OSError):
                notify("READY=1")

    # --- end -----------------------------------------------------------------------------------------------------

    def _end(self, tpm: Tpm) -> None:
        """What is in work is finished and answered; the TPM is shut down in order."""
        self._executor.end()
        while self._executor.busy:
            self._executor.join()
            self._loop.run_posted()
        tpm.shut_down()
