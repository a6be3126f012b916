"""The daemon of one instance: from its configuration to READY, what it does on signals, and how it ends.

Order of a start: configuration, /dev/cuse, privileges, state and its lock, TPM, device node, READY. Whatever fails
before the node exists leaves no trace; READY means that a client can open the device and get answers (design D11).
Without udev the node comes before the privileges: to finish it takes root, which nothing that reads the state may
become again.
"""

import gc
import os
import signal
import time
from contextlib import suppress
from threading import Thread, current_thread, main_thread
from typing import Any, Callable, Optional

from swtpm_svc import __version__
from swtpm_svc.config import loading as configuration
from swtpm_svc.config.loading import Config, ControlConfig
from swtpm_svc.continuity.handover import Handover, OpenerRecord
from swtpm_svc.continuity.parking import Park
from swtpm_svc.errors import TABLE, Code, VtpmError, internal
from swtpm_svc.frontends.cuse.cuse_frontend import CuseFrontend
from swtpm_svc.frontends.dispatch import Dispatcher
from swtpm_svc.service import later, state_keys
from swtpm_svc.service.authorization import Authorization
from swtpm_svc.service.events import EventLog
from swtpm_svc.service.identity import clones
from swtpm_svc.service.identity.identity_record import RecordFile
from swtpm_svc.service.identity.identity_watch import IdentityWatch
from swtpm_svc.service.kernel_tpm import kernel_tpm
from swtpm_svc.service.loop import Loop
from swtpm_svc.service.options import Options
from swtpm_svc.service.privileges import become, find_account
from swtpm_svc.service.served_device import ServedDevice
from swtpm_svc.service.stall import StallWatch
from swtpm_svc.service.status_socket import OPENERS_SHOWN, StatusServer, runtime_path
from swtpm_svc.service.systemd import journal as entries
from swtpm_svc.service.systemd import udev
from swtpm_svc.service.systemd.journal import Journal
from swtpm_svc.service.systemd.notify import Notifier, passed_descriptors
from swtpm_svc.service.throttle import Throttle
from swtpm_svc.service.ways_in import WaysIn
from swtpm_svc.state.encryption import NO_KEYS
from swtpm_svc.state.store import Store
from swtpm_svc.tpm import libtpms
from swtpm_svc.tpm.controller import Controller
from swtpm_svc.tpm.executor import Executor
from swtpm_svc.tpm.pcr import pcr_banks
from swtpm_svc.tpm.power import Failure, Power
from swtpm_svc.tpm.tpm import Tpm
from swtpm_svc.wire import cuse, return_codes

#: What is asked of systemd before anything that may take long: making a TPM, a key in work at the time of a stop.
LONG_WORK_S = 120
#: How long a start that failed for its storage takes to end: systemd tries such a start again, for as long as the disk
#: is full, if it is not more often than StartLimitBurst= allows.
STORAGE_PAUSE_S = 2.0
_STORAGE_FAILED = 74


def serve_instance(options: Options) -> int:
    """Run the daemon; returns its exit status. Errors are reported, never raised."""
    journal = Journal(options.instance, "", "info", to_stderr=options.foreground)
    try:
        path = options.config or configuration.default_path(options.instance)
        config = configuration.load(path, options.instance)
        journal = Journal(config.instance, config.tpm.version, config.log.level, to_stderr=options.foreground)
        with Loop() as loop:
            status = Daemon(config, options, journal, loop).run()
    except VtpmError as error:
        Notifier().status(error.message)
        journal.error(error)
        status = error.fault.exit_status
        if status == _STORAGE_FAILED and Notifier().active:
            time.sleep(STORAGE_PAUSE_S)
    if status:
        journal.wait_until_taken()
    return status


class Daemon:
    """One instance at work."""

    def __init__(self, config: Config, options: Options, journal: Journal, loop: Loop) -> None:
        self._config = config
        self._options = options
        self._journal = journal
        self._loop = loop
        self._notifier = Notifier()
        self._authorization = Authorization(config.control.group, loop.post)
        self._executor = Executor(loop.post)
        self._started = time.time()
        self._restarts = 0
        #: SIGHUPs so far.
        self._reloads = 0
        self._throttle = Throttle(
            loop, lambda more: journal.log("warning", f"{more} entries of other kinds within a minute")
        )
        self._events = EventLog(journal, self._throttle, config.tpm.version, self._show_status, self._lose_device)
        self._device = ServedDevice(config.device, self._notifier, journal)
        self._keys = NO_KEYS
        self._store: Store
        self._tpm: Tpm
        self._identity: IdentityWatch
        self._dispatcher: Dispatcher
        self._cuse: Optional[CuseFrontend] = None
        self._ways_in: WaysIn
        self._is_announced = False
        self._stall: Optional[StallWatch] = None
        #: The status line that systemd has.
        self._shown = ""
        #: A client has shut the TPM down: the service ends, and nothing is left to a successor.
        self._is_shut_down = False
        self._device_is_gone = False
        #: Requests that waited with a predecessor.
        self._taken_on: list[bytes] = []
        #: What ended the service.
        self._fault: Optional[VtpmError] = None

    # --- start ---------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Start, serve, stop. Returns the exit status.

        Raises:
            VtpmError: it could not start.
        """
        if self._notifier.active:
            libtpms.hide_process()  # systemd before 253: hidden already, since it was root
        failure = libtpms.confine()
        if failure:
            what = f"this kernel has no filter of system calls ({os.strerror(failure)})"
            self._journal.log("warning", f"{what}: one instance that was taken over could signal the others")
        self._loop.on_fault = lambda error: self._events.failed(internal("while serving", error))
        passed = passed_descriptors()
        park = self._device.adopt(passed)
        self._device.obtain(passed)
        kernel = kernel_tpm.obtain(self._config, passed, self._notifier)
        by_hand = park is None and not udev.is_running()
        if by_hand:
            self._device.make(by_hand=True)
        self._leave_root()
        self._keys = state_keys.load(self._config.state)
        self._store = Store.open(self._config.state.directory, self._config.tpm.version, self._keys.state)
        with self._store, RecordFile.open(self._store, self._journal) as record:
            self._refuse_unprovisioned()
            self._tpm = Tpm(self._config.tpm.version, self._store, self._events.failed)
            self._identity = IdentityWatch(self._tpm, record, self._journal, clones.own_directory(), later=self._submit)
            self._tpm.on_started = lambda: self._loop.post(
                self._check_identity
            )  # from the loop: READY does not wait for it
            handover = park.read() if park is not None else None
            resumed = handover is not None and self._resume(handover)
            if not resumed:
                self._power_on()
            self._tpm.on_failure = self._tell_failure
            if self._tpm.failure is not None:
                self._tell_failure(self._tpm.failure)
            if park is None:
                if not by_hand:
                    self._device.make(by_hand=False)
                park = self._device.park()
            self._dispatcher = self._make_dispatcher()
            self._stall = StallWatch(self._loop, self._tpm, self._executor, self._journal, self._show_status)
            if self._device.fd is not None:
                self._cuse = CuseFrontend(self._device.fd, park.slot, park.waiters, park.polls, self._dispatcher)
            self._ways_in = WaysIn(
                self._config,
                self._loop,
                self._dispatcher,
                self._notifier,
                self._journal,
                on_fault=self._end_with,
                describe=self._describe,
            )
            try:
                self._ways_in.open(passed, kernel)
                self._succeed(park, handover, resumed=resumed)
                return self._serve_clients(park)
            finally:
                self._ways_in.close(has_successor=self._notifier.active)

    def _leave_root(self) -> None:
        user = self._options.user
        if os.geteuid() == 0 and user != "root":
            account = find_account(user)
            if not later.is_readable_by(account):
                later.import_all(self._config)
            become(account)

    def _refuse_unprovisioned(self) -> None:
        """What vtpm-attach has not made is not made here without keys and certificates."""
        if self._config.provision.enabled and not self._store.sizes():
            raise VtpmError(
                Code.STATE_MISSING,
                f"{self._config.state.directory} is empty: the TPM that [provision] describes was not made",
                remedy=f"see why, in the entry before: journalctl -u vtpm@{self._config.instance}; then start it again",
            )

    def _power_on(self) -> None:
        """The TPM as the configuration says."""
        tpm = self._config.tpm
        if tpm.power_on == "manual":
            return
        if not self._store.sizes():
            self._notifier.extend_timeout(LONG_WORK_S)
            self._notifier.status(f"Making a new TPM {tpm.version}")
            self._journal.log("notice", f"{self._config.state.directory} is empty: a new TPM {tpm.version} is made")
        self._tpm.power_on(delete_volatile=True)
        if tpm.startup != "none":
            response = self._tpm.startup(tpm.startup)
            result = int.from_bytes(response[6:10], "big")
            if self._tpm.failure is not None:
                raise self._tpm.failure.cause
            if result:
                words = return_codes.describe(tpm.version, result)
                self._journal.log("warning", f"startup {tpm.startup}: {words}", TPM_RC=f"{result:#x}")

    def _resume(self, handover: Handover) -> bool:
        same = (self._config.tpm.version, self._config.state.directory)
        if (handover.tpm_version, handover.state_directory) != same:
            self._journal.log("notice", "another TPM is configured now: clients meet a TPM that was just powered on")
            return False
        if handover.snapshot.power == Power.OFF.value and self._config.tpm.power_on == "auto":
            return False  # it was waiting for INIT, and does not have to any more
        try:
            self._tpm.resume(handover.snapshot)
        except VtpmError as error:
            self._journal.error(error, level="warning")
            return False
        return True

    def _make_dispatcher(self) -> Dispatcher:
        controller = Controller(self._tpm, on_shutdown=self._shut_down, on_error=self._events.failed, keys=self._keys)
        authorization = self._authorization
        dispatcher = Dispatcher(
            self._tpm,
            controller,
            self._executor,
            authorization.rights,
            events=self._events,
            look_up=authorization.look_up,
        )
        dispatcher.trace = self._config.log.level == "debug"
        return dispatcher

    def _succeed(self, park: Park, handover: Optional[Handover], *, resumed: bool) -> None:
        """Take on what a predecessor owed its clients."""
        unanswered = park.unanswered()
        if handover is not None and resumed:
            self._taken_on = handover.requests
            again = {cuse.unique_of(memoryview(frame)) for frame in handover.requests}
            unanswered = [unique for unique in unanswered if unique not in again]
            for unique in again:  # until they are taken on: a kill before that would leave nobody to answer them
                park.waiters.add(unique)
        if handover is not None:
            self._dispatcher.commands = handover.commands
            self._restarts = handover.restarts + 1
            if self._cuse is not None:
                self._cuse.adopt(handover.openers)
                if not resumed:
                    self._cuse.lose(handover.requests)
        if resumed and handover is not None:
            self._journal.log(
                "info",
                f"goes on where its predecessor stopped, {len(handover.openers)} openers",
                message_id=entries.RESUMED_ID,
            )
        elif handover is None and park.was_adopted:
            self._journal.log(
                "warning",
                f"its predecessor was killed: {len(unanswered)} requests get an I/O error, PCRs and sessions are lost",
                message_id=entries.RECOVERED_ID,
            )
        if self._cuse is not None:
            self._cuse.give_up(unanswered)
            self._cuse.wake_all(park.polls.take_over())
        park.forget()

    # --- service -------------------------------------------------------------------------------------------------

    def _serve_clients(self, park: Park) -> int:
        loop = self._loop
        loop.on_signal(signal.SIGTERM, loop.stop)
        loop.on_signal(signal.SIGINT, loop.stop)
        loop.on_signal(signal.SIGHUP, self._reload)
        period_s = self._notifier.watchdog_period_s()
        if period_s is not None:
            loop.every(period_s, self._notifier.watchdog)
        if self._cuse is not None:
            loop.post(self._serve_device)
        status = self._open_status()
        self._ways_in.when_ready(self._announce)
        try:
            loop.run()
            return self._stop(park)
        finally:
            status.close()

    def _serve_device(self) -> None:
        """From the loop: what waited with a predecessor, before what comes now."""
        if self._cuse is not None:
            self._cuse.take_on(self._taken_on)
            self._taken_on = []
            self._loop.add(self._cuse.fd, self._cuse.serve_one)

    def _announce(self, failure: Optional[VtpmError]) -> None:
        if failure is not None:
            self._end_with(failure)
            return
        self._is_announced = True
        self._notifier.ready(self._status_line())
        self._journal.log("info", f"ready: {self._status_line()}", message_id=entries.READY_ID)
        gc.freeze()  # what there is now stays
        gc.enable()

    def _open_status(self) -> StatusServer:
        status = StatusServer(
            runtime_path(self._config.instance, "status"), self._describe, self._loop, self._events.failed
        )
        try:
            status.open()
        except OSError as error:
            self._journal.log("debug", f"no status socket: {status.path}: {error.strerror}")
        return status

    def _stop(self, park: Park) -> int:
        """In order: what is in work is finished and answered, the TPM is shut down, and a successor finds everything.

        What waits is not carried out: a successor does that for the device's clients; without one, theirs is an error.
        """
        if self._cuse is not None:
            self._loop.remove(self._cuse.fd)  # the kernel keeps what comes now for a successor
        self._notifier.stopping("Stopping")
        self._notifier.extend_timeout(LONG_WORK_S)  # what is stored at the end may wait for a disk
        self._executor.end()
        self._finish_work()
        if self._is_shut_down or self._device_is_gone:
            self._device.unpark()
            if self._is_shut_down:
                self._ways_in.unpark()
            # with the last descriptor the device goes, and whoever still waits on it is released
        elif self._notifier.active:
            # whether this is a stop or a restart only systemd knows: after a stop it drops the park
            self._leave(park)
        self._identity.check()  # what was made since the start is known at the next one
        self._finish_work()
        self._tpm.shut_down()
        self._throttle.flush()
        self._journal.log("info", "stopped", message_id=entries.STOPPED_ID)
        return self._fault.fault.exit_status if self._fault is not None else 0

    def _leave(self, park: Park) -> None:
        park.leave(
            Handover(
                tpm_version=self._tpm.version,
                state_directory=self._config.state.directory,
                commands=self._dispatcher.commands,
                restarts=self._restarts,
                snapshot=self._tpm.snapshot(),
                openers=[record for record, _pending in self._openers()],
                requests=self._cuse.waiting() if self._cuse is not None else [],
            )
        )

    def _reload(self) -> None:
        """SIGHUP: take over what can be changed at run time, and say what cannot.

        What takes a disk, or a database of accounts that may be far away, is done beside the loop.
        """
        self._notifier.reloading()
        self._reloads += 1
        try:
            Thread(
                target=self._read_again, args=(self._reloads, self._config.control), name="reload", daemon=True
            ).start()
        except RuntimeError:  # no thread to be had (TasksMax=, memory): late is better than never
            self._read_again(self._reloads, self._config.control)

    def _read_again(self, number: int, current: ControlConfig) -> None:
        config, group = None, None
        try:
            config = configuration.load(self._config.path, self._config.instance)
            config = config._replace(control=self._usable_control(config.control, current))
        except VtpmError as error:
            self._journal.error(error)
        except Exception as error:  # systemd waits for the end of a reload
            config = None
            self._events.failed(internal("while reading the configuration", error))
        else:
            with suppress(VtpmError):  # the start has said that there is no such group
                group = configuration.group_id(config.control.group)
        self._loop.post(lambda: self._take_over(number, config, group))

    def _take_over(self, number: int, config: Optional[Config], group: Optional[int]) -> None:
        if number != self._reloads:
            return  # there was another SIGHUP since
        if config is not None:
            self._apply(config, group)
        self._notifier.ready(self._status_line())

    def _apply(self, config: Config, group: Optional[int]) -> None:
        for table, key, reloads in configuration.changes(self._config, config):
            what = "now in force" if reloads else "not before a restart of the service"
            self._journal.log("notice", f"[{table}] {key} has changed: {what}", message_id=entries.RELOADED_ID)
        self._config = self._config._replace(log=config.log, control=config.control)
        self._journal.level = entries.LEVELS[config.log.level]
        self._dispatcher.trace = config.log.level == "debug"
        self._authorization.change_group(config.control.group)
        self._ways_in.set_control_group(config.control, group)
        self._journal.log("info", "configuration reloaded", message_id=entries.RELOADED_ID)

    def _usable_control(self, wanted: ControlConfig, current: ControlConfig) -> ControlConfig:
        """The [control] of now, where that of the file names a group that does not exist: nobody would be in it."""
        try:
            if wanted.group != current.group:
                configuration.group_id(wanted.group)
            return wanted
        except VtpmError as error:
            error.message = f"[control] group has changed: {error.message}; {current.group} stays in force"
            self._journal.error(error)
            return current

    # --- what clients bring about --------------------------------------------------------------------------------

    def _show_status(self) -> None:
        shown = self._shown
        if self._status_line() != shown:
            self._notifier.status(self._shown)

    def _tell_failure(self, failure: Optional[Failure]) -> None:
        """The TPM has failed, or (None) goes on. From any thread."""
        if failure is None:
            words = "the state can be stored again: the TPM goes on from the last command that was acknowledged"
            self._events.told("notice", words, entries.HEALED_ID)
        elif failure.heals:
            self._events.told(
                "error",
                "the TPM has failed: its state cannot be stored; it answers each command with failure until it can be, "
                "and then goes on with its PCRs and sessions",
                TABLE[Code.TPM_FAILED].message_id,
                VTPM_ERROR=failure.cause.code.value,
            )
        self._loop.post(self._show_status)

    def _shut_down(self) -> None:
        self._is_shut_down = True
        self._loop.stop()

    def _lose_device(self) -> None:
        self._device_is_gone = True
        # no end that anybody asked for: the status is one of those after which systemd starts the service again
        self._end_with(
            VtpmError(
                Code.DEVICE_NOT_READY,
                f"the kernel has taken {self._config.device.node} away",
                remedy="see why: journalctl -k; systemd starts the service again",
            )
        )

    def _end_with(self, failure: VtpmError) -> None:
        self._events.failed(failure)
        self._fault = failure
        self._loop.stop()

    def _check_identity(self) -> None:
        if self._executor.busy:
            self._executor.submit(self._identity.check, lambda _none: None)
        else:
            self._identity.check()

    def _submit(self, work: Callable[[], None]) -> None:
        """Do `work`, which may take as long as a disk does, where nobody waits for it once there are clients."""
        if self._is_announced and current_thread() is main_thread():
            self._executor.submit(work, lambda _none: None, is_essential=True)
        else:  # nobody waits yet, or this is the worker, whose job it is a part of
            work()

    def _finish_work(self) -> None:
        while self._executor.busy:
            self._notifier.extend_timeout(LONG_WORK_S)
            self._executor.join()
            self._loop.run_posted()

    # --- status --------------------------------------------------------------------------------------------------

    def _status_line(self) -> str:
        failure = self._tpm.failure
        power = self._tpm.power.value if failure is None else f"{Power.FAILED.value}: {failure.cause.message}"
        places = [self._config.device.node] if self._config.device.enabled else self._ways_in.places
        where = f" at {places[0]}" if places else ""
        stalled = ", its storage does not answer" if self._stall is not None and self._stall.stalled else ""
        self._shown = f"TPM {self._tpm.version}{where}, {power}{stalled}"
        return self._shown

    def _describe_files(self) -> "dict[str, Any]":
        """What was stored last: a disk may keep everybody waiting who looks at it."""
        generation, sizes = self._store.seen
        return {"generation": generation, "bytes": sizes}

    def _openers(self) -> "list[tuple[OpenerRecord, bool]]":
        return self._cuse.openers() if self._cuse is not None else []

    def _describe_failure(self) -> "Optional[dict[str, Any]]":
        failure = self._tpm.failure
        if failure is None:
            return None
        cause = failure.cause
        return {
            "code": cause.code.value,
            "message": cause.message,
            "remedy": cause.of(self._config.instance).remedy,
            "since": failure.since,
            "heals": failure.heals,
        }

    def _describe(self) -> "dict[str, Any]":
        config, tpm = self._config, self._tpm
        openers = self._openers()
        return {
            "instance": config.instance,
            "version": __version__,
            "pid": os.getpid(),
            "tpm": {
                "version": tpm.version,
                "power": tpm.power.value,
                "failure": self._describe_failure(),
                "healed": tpm.healed,
                "locality": tpm.locality,
                "buffer_size": tpm.buffer_size(0).size,
                "pcr_banks": [] if self._executor.busy else pcr_banks(tpm),
            },
            "device": self._device.describe(),
            "state": {
                "directory": config.state.directory,
                **self._describe_files(),
                "stalled": self._stall is not None and self._stall.stalled,
                "encryption": self._keys.state.mode if self._keys.state else None,
            },
            "identity": self._identity.describe(),
            "openers": [
                {
                    "handle": record.handle,
                    "pid": record.pid,
                    "uid": record.uid,
                    "pending": pending or bool(record.response),
                }
                for record, pending in openers[:OPENERS_SHOWN]
            ],
            "opener_count": len(openers),
            **self._ways_in.describe(),
            "commands": self._dispatcher.commands,
            "restarts": self._restarts,
            "started": self._started,
            "last_error": self._events.last_error,
        }
