"""The daemon of one instance: the order of its start, of its service and of its end.

Order of a start: configuration, /dev/cuse, privileges, state and its lock, TPM, device node, READY. Whatever fails
before the node exists leaves no trace; READY means that a client can open the device and get answers (decisions/0024).
Without udev the node comes before the privileges: to finish it takes root, which nothing that reads the state may
become again.

What the steps do is elsewhere: service/succession.py, service/reload.py, service/description.py.
"""

import gc
import os
import time

from swtpm_svc.config import loading as configuration
from swtpm_svc.config.loading import Config
from swtpm_svc.continuity.handover import Handover
from swtpm_svc.continuity.parking import Park
from swtpm_svc.errors import Code, VtpmError, internal
from swtpm_svc.frontends.cuse.cuse_frontend import CuseFrontend
from swtpm_svc.frontends.dispatch import Dispatcher
from swtpm_svc.service import description, failed_start, later, state_keys, succession
from swtpm_svc.service.authorization import Authorization
from swtpm_svc.service.callers import Callers
from swtpm_svc.service.description import Parts, StatusLine
from swtpm_svc.service.ending import Ending
from swtpm_svc.service.events import EventLog
from swtpm_svc.service.firmware import starter
from swtpm_svc.service.identity import clones
from swtpm_svc.service.identity.identity_record import RecordFile
from swtpm_svc.service.identity.identity_watch import Chores, IdentityWatch
from swtpm_svc.service.kernel_tpm import kernel_tpm
from swtpm_svc.service.loop import Loop
from swtpm_svc.service.opened_state import open_state
from swtpm_svc.service.options import Options
from swtpm_svc.service.privileges import become, find_account
from swtpm_svc.service.reload import Reload, Subjects, shows_commands
from swtpm_svc.service.served_device import ServedDevice
from swtpm_svc.service.stall import StallWatch
from swtpm_svc.service.status_socket import StatusServer, runtime_path
from swtpm_svc.service.systemd import journal as entries
from swtpm_svc.service.systemd import udev
from swtpm_svc.service.systemd.journal import Journal
from swtpm_svc.service.systemd.notify import Notifier, passed_descriptors
from swtpm_svc.service.throttle import Throttle
from swtpm_svc.service.ways_in import WaysIn
from swtpm_svc.state.encryption import Keys
from swtpm_svc.state.store import Store
from swtpm_svc.tpm import libtpms
from swtpm_svc.tpm.controller import Controller
from swtpm_svc.tpm.executor import Executor
from swtpm_svc.tpm.power import Failure
from swtpm_svc.tpm.tpm import Tpm
from swtpm_svc.wire.hints import Callable, Optional
from swtpm_svc.wire.small_tools import signal

TYPE_CHECKING = False  # to mypy it is True
if TYPE_CHECKING:
    from swtpm_svc.service.capture import Capture

#: What is asked of systemd before anything that may take long: making a TPM, a key in work at the time of a stop.
LONG_WORK_S = 120


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
        journal.error(error.of(options.instance))
        status = error.fault.exit_status
        _leave_word(error, options.instance)
    if status:
        journal.wait_until_taken()
    return status


def _leave_word(error: VtpmError, instance: str) -> None:
    """For systemd, for those who ask it, and for the next try: the end of this one takes as long as that is to wait."""
    notifier = Notifier()
    if not notifier.active:
        return
    notifier.status(failed_start.line(error))
    if error.fault.exit_status not in failed_start.FINAL:
        time.sleep(failed_start.pause_s(failed_start.leave(runtime_path(instance, failed_start.NOTE), error)))


class Daemon:
    """One instance: what is there before anything is opened, and the steps from there to READY and to the end."""

    def __init__(self, config: Config, options: Options, journal: Journal, loop: Loop) -> None:
        self._started = time.time()
        self._config = config
        self._options = options
        self._journal = journal
        self._loop = loop
        self._notifier = Notifier()
        self._authorization = Authorization(config.control.group, loop.post)
        self._executor = Executor(loop.post)
        self._chores = Chores(self._executor)
        self._status = StatusLine(self._notifier)
        self._throttle = Throttle(
            loop, lambda more: journal.log("warning", f"{more} entries of other kinds within a minute")
        )
        self._callers = Callers(loop)
        self._events = EventLog(
            journal,
            self._throttle,
            config.tpm.version,
            self._status.show,
            lambda: self._ending.lose_device(),
            self._callers.name,
        )
        self._ending = Ending(config.device.node, loop.stop, self._events.failed)
        self._device = ServedDevice(config.device, self._notifier, journal)

    def run(self) -> int:
        """Start, serve, stop. Returns the exit status.

        Raises:
            VtpmError: it could not start.
        """
        self._confine()
        self._loop.on_fault = lambda error: self._events.failed(internal("while serving", error))
        passed = passed_descriptors()
        park = self._device.adopt(passed)
        self._device.obtain(passed)
        kernel = kernel_tpm.obtain(self._config, passed, self._notifier)
        by_hand = park is None and not udev.is_running()
        if by_hand:
            self._device.make(by_hand=True)
        self._leave_root()
        keys = state_keys.load(self._config.state)
        handover = park.read() if park is not None else None
        store = self._open_state(keys, has_predecessor=handover is not None)
        with store, RecordFile.open(store, self._journal) as record:
            self._refuse_unprovisioned(store)
            tpm = self._make_tpm(store)
            capture = self._open_capture(tpm)
            identity = self._watch_identity(tpm, record)
            resumed = handover is not None and succession.resume(tpm, handover, self._config, self._journal)
            if not resumed:
                self._power_on(tpm, store)
            self._watch_failures(tpm)
            if park is None:
                if not by_hand:
                    self._device.make(by_hand=False)
                park = self._device.park()
            parts = self._put_together(keys, store, tpm, identity, park, handover)
            if capture is not None:
                parts.dispatcher.capture(capture.exchange)
            try:
                parts.ways_in.open(passed, kernel, lambda: description.describe(parts))
                requests = succession.succeed(park, handover, parts.cuse, self._journal, resumed=resumed)
                return self._serve_clients(parts, park, requests)
            finally:
                parts.ways_in.close(has_successor=self._notifier.active)
                if capture is not None:
                    capture.close()

    # --- start ---------------------------------------------------------------------------------------------------

    def _confine(self) -> None:
        if self._notifier.active:
            libtpms.hide_process()  # systemd before 253: hidden already, since it was root
        failure = libtpms.confine()
        if failure:
            what = f"this kernel has no filter of system calls ({os.strerror(failure)})"
            self._journal.log("warning", f"{what}: one instance that was taken over could signal the others")

    def _leave_root(self) -> None:
        user = self._options.user
        if os.geteuid() == 0 and user != "root":
            account = find_account(user)
            if not later.is_readable_by(account):
                later.import_all(self._config)
            become(account)

    def _open_state(self, keys: Keys, *, has_predecessor: bool) -> Store:
        is_incoming = self._config.migration.incoming and not has_predecessor
        store = open_state(self._config.state, self._config.tpm.version, keys.state, is_incoming=is_incoming)
        self._tell_remarks(store)
        if is_incoming:
            self._journal.log("info", f"{store.path} is locked when a state blob or a command comes")
        return store

    def _tell_remarks(self, store: Store) -> None:
        for remark in store.take_remarks():
            self._journal.log("warning", remark)

    def _refuse_unprovisioned(self, store: Store) -> None:
        """A TPM that vtpm-attach should have made is not made here, where it would get no keys and certificates."""
        if self._config.provision.enabled and store.is_locked and not store.sizes():
            raise VtpmError(
                Code.STATE_MISSING,
                f"{self._config.state.directory} is empty: the TPM that [provision] describes was not made",
                remedy=f"see why, in the entry before: journalctl -u vtpm@{self._config.instance}; then start it again",
            )

    def _make_tpm(self, store: Store) -> Tpm:
        """Without power yet, and as [tpm] wants it."""
        wanted = self._config.tpm
        tpm = Tpm(wanted.version, store, self._events.failed)
        tpm.profile, tpm.shuts_down = wanted.profile, not wanted.disable_auto_shutdown
        tpm.is_incoming = self._config.migration.incoming

        def tell_lock() -> None:
            did = "has taken" if tpm.has_lock else "has given up, for another host,"
            self._journal.log("notice", f"{did} the lock of {store.path}", message_id=entries.LOCK_ID)
            self._tell_remarks(store)

        tpm.on_lock = tell_lock
        if wanted.buffer_size:
            size = tpm.buffer_size(wanted.buffer_size).size
            if size != wanted.buffer_size:
                words = f"[tpm] buffer-size: found {wanted.buffer_size}; libtpms takes {size}"
                self._journal.log("warning", words)
        return tpm

    def _open_capture(self, tpm: Tpm) -> "Optional[Capture]":
        """Of what the service sends itself, too; a file that cannot be had keeps nobody from his TPM."""
        path = self._config.log.pcap
        if path == "none":
            return None
        from swtpm_svc.service import capture

        try:
            opened = capture.Capture(capture.open_file(path))
        except OSError as error:
            self._journal.log("warning", f"[log] pcap: nothing is captured: {path}: {error.strerror}")
            return None
        tpm.on_own_command = opened.exchange
        return opened

    def _watch_identity(self, tpm: Tpm, record: RecordFile) -> IdentityWatch:
        """It is looked at whenever the TPM was started: from the loop, as READY does not wait for it."""
        watch = IdentityWatch(tpm, record, self._journal, clones.own_directory(), later=self._chores.with_disk)
        tpm.on_started = lambda: self._loop.post(lambda: self._chores.with_tpm(watch.check))
        return watch

    def _power_on(self, tpm: Tpm, store: Store) -> None:
        """The TPM as the configuration says."""
        wanted = self._config.tpm
        if wanted.power_on == "manual":
            return
        if store.is_locked and not store.sizes():
            self._notifier.extend_timeout(LONG_WORK_S)
            self._notifier.status(f"Making a new TPM {wanted.version}")
            self._journal.log("notice", f"{store.path} is empty: a new TPM {wanted.version} is made")
        tpm.power_on(delete_volatile=True)
        self._starter(tpm)()
        if tpm.failure is not None:
            raise tpm.failure.cause

    def _starter(self, tpm: Tpm) -> "Callable[[], None]":
        return starter(tpm, self._config.tpm.startup, self._journal)

    def _watch_failures(self, tpm: Tpm) -> None:
        """Tell of a TPM that fails and goes on, and of one that a predecessor has left failed. Not of one that fails at
        power-on: that ends the start."""

        def tell(failure: Optional[Failure]) -> None:
            self._events.tpm_failed(failure)
            self._loop.post(self._status.show)

        tpm.on_failure = tell
        if tpm.failure is not None:
            tell(tpm.failure)

    def _put_together(
        self,
        keys: Keys,
        store: Store,
        tpm: Tpm,
        identity: IdentityWatch,
        park: Park,
        handover: Optional[Handover],
    ) -> Parts:
        controller = Controller(tpm, on_shutdown=self._ending.shut_down, on_error=self._events.failed, keys=keys)
        controller.on_power = self._starter(tpm)
        controller.releases_lock = self._config.migration.release_lock
        dispatcher = Dispatcher(
            tpm,
            controller,
            self._executor,
            self._authorization.rights,
            events=self._events,
            look_up=self._authorization.look_up,
        )
        dispatcher.trace = shows_commands(self._config.log.level)
        dispatcher.commands = handover.commands if handover is not None else 0
        fd, memory = self._device.fd, (park.slot, park.waiters, park.polls)
        parts = Parts(
            config=self._config,
            keys=keys,
            store=store,
            tpm=tpm,
            identity=identity,
            dispatcher=dispatcher,
            device=self._device,
            cuse=CuseFrontend(fd, *memory, dispatcher, self._loop.lend) if fd is not None else None,
            ways_in=WaysIn(self._config, self._loop, dispatcher, self._notifier, self._journal, self._ending.fail),
            events=self._events,
            stall=StallWatch(self._loop, tpm, self._executor, self._journal, self._status.show),
            started=self._started,
            restarts=handover.restarts + 1 if handover is not None else 0,
        )
        self._status.words = lambda: description.line(parts)
        return parts

    # --- service -------------------------------------------------------------------------------------------------

    def _serve_clients(self, parts: Parts, park: Park, requests: "list[bytes]") -> int:
        """Serve until something ends it, and end in order. `requests` waited with a predecessor."""
        loop = self._loop
        loop.on_signal(signal.SIGTERM, loop.stop)
        loop.on_signal(signal.SIGINT, loop.stop)
        self._take_reloads(parts)
        period_s = self._notifier.watchdog_period_s()
        if period_s is not None:
            loop.every(period_s, self._notifier.watchdog)
        if parts.cuse is not None:
            self._serve_device(parts.cuse, requests)
        status = self._open_status(parts)
        parts.ways_in.when_ready(self._announce)
        try:
            loop.run()
            return self._end(parts, park)
        finally:
            status.close()

    def _take_reloads(self, parts: Parts) -> None:
        subjects = Subjects(self._journal, parts.dispatcher, self._authorization, parts.ways_in)
        reload = Reload(self._config, subjects, self._loop.post, self._status.ready, self._events.failed)

        def begin() -> None:
            self._notifier.reloading()
            reload.begin()

        self._loop.on_signal(signal.SIGHUP, begin)

    def _serve_device(self, cuse: CuseFrontend, requests: "list[bytes]") -> None:
        """From the loop: what waited with a predecessor, before what comes now."""

        def begin() -> None:
            cuse.take_on(requests)
            self._loop.add(cuse.fd, cuse.serve_one)

        self._loop.post(begin)

    def _announce(self, failure: Optional[VtpmError]) -> None:
        if failure is not None:
            self._ending.fail(failure)
            return
        self._chores.has_clients = True
        failed_start.forget(runtime_path(self._config.instance, failed_start.NOTE))
        self._status.ready()
        self._journal.log("info", f"ready: {self._status.words()}", message_id=entries.READY_ID)
        gc.freeze()  # what there is now stays
        gc.enable()

    def _open_status(self, parts: Parts) -> StatusServer:
        path = runtime_path(self._config.instance, "status")
        status = StatusServer(path, lambda: description.describe(parts), self._loop, self._events.failed)
        try:
            status.open()
        except OSError as error:
            self._journal.log("debug", f"no status socket: {status.path}: {error.strerror}")
        return status

    # --- end -----------------------------------------------------------------------------------------------------

    def _end(self, parts: Parts, park: Park) -> int:
        """In order: what is in work is finished and answered, the TPM is shut down, and a successor finds everything.

        What waits is not carried out: a successor does that for the device's clients; without one, theirs is an error.
        """
        ending = self._ending
        if parts.cuse is not None:
            self._loop.remove(parts.cuse.fd)  # the kernel keeps what comes now for a successor
        self._notifier.stopping("Stopping")
        self._notifier.extend_timeout(LONG_WORK_S)  # what is stored at the end may wait for a disk
        self._executor.end()
        self._finish_work()
        if ending.is_shut_down or ending.device_is_gone:
            self._device.unpark()
            if ending.is_shut_down:
                parts.ways_in.unpark()
            # with the last descriptor the device goes, and whoever still waits on it is released
        elif self._notifier.active:
            # whether this is a stop or a restart only systemd knows: after a stop it drops the park
            succession.leave(park, parts)
        parts.identity.check()  # what was made since the start is known at the next one
        self._finish_work()
        parts.tpm.shut_down()
        self._callers.flush()
        self._throttle.flush()
        self._journal.log("info", "stopped", message_id=entries.STOPPED_ID)
        if ending.fault is None:
            return 0
        self._notifier.status(failed_start.line(ending.fault.of(self._config.instance)))
        return ending.fault.fault.exit_status

    def _finish_work(self) -> None:
        while self._executor.busy:
            self._notifier.extend_timeout(LONG_WORK_S)
            self._executor.join()
            self._loop.run_posted()
