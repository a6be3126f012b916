"""The daemon of one instance: from its configuration to READY, what it does on signals, and how it ends.

Order of a start: configuration, /dev/cuse, privileges, state and its lock, TPM, device node, READY. Whatever fails before
the node exists leaves no trace; READY means that a client can open the device and get answers (design D11).
"""

import os
import signal
import time
from typing import Any, Optional

from swtpm_svc import __version__
from swtpm_svc.errors import TABLE, Code, VtpmError, internal
from swtpm_svc.frontends import cuse_device
from swtpm_svc.frontends.cuse import CuseFrontend
from swtpm_svc.frontends.dispatch import Dispatcher
from swtpm_svc.frontends.sockets import SocketFrontend, adopt_listener, parse_address
from swtpm_svc.service import config as configuration
from swtpm_svc.service import journal as entries
from swtpm_svc.service.authorization import Authorization
from swtpm_svc.service.config import Config
from swtpm_svc.service.journal import Journal
from swtpm_svc.service.loop import Loop
from swtpm_svc.service.main import Options
from swtpm_svc.service.notify import Notifier, passed_descriptors
from swtpm_svc.service.parking import Handover, Park
from swtpm_svc.service.privileges import Privileges, find_account
from swtpm_svc.service.status import OPENERS_SHOWN, StatusServer, runtime_path
from swtpm_svc.state.store import Store
from swtpm_svc.tpm.controller import Controller
from swtpm_svc.tpm.executor import Executor
from swtpm_svc.tpm.tpm import Power, Tpm
from swtpm_svc.wire import ptm, return_codes
from swtpm_svc.wire.command_codes import name as command_name
from swtpm_svc.wire.cuse import Caller

#: Names in systemd's descriptor store.
PARKED_DEVICE = "cuse-live"
PARKED_MEMORY = "journal"
SOCKET_CONTROL = "socket-control"
SOCKET_DATA = "socket-data"
#: The name that OpenFile= gives to a new /dev/cuse.
PASSED_DEVICE = "cuse"

#: How long udev may take to give the node its owner and mode.
NODE_TIMEOUT_S = 30
#: What is asked of systemd before anything that may take long: making a TPM, a key in work at the time of a stop.
LONG_WORK_S = 120


def serve(options: Options) -> int:
    """Run the daemon; returns its exit status. Errors are reported, never raised."""
    journal = Journal(options.instance, "", "info", to_stderr=options.foreground)
    try:
        path = options.config or configuration.default_path(options.instance)
        config = configuration.load(path, options.instance)
        journal = Journal(config.instance, config.tpm.version, config.log.level, to_stderr=options.foreground)
        with Loop() as loop:
            return Daemon(config, options, journal, loop).run()
    except VtpmError as error:
        Notifier().status(error.message)
        journal.error(error)
        return error.fault.exit_status


class Daemon:
    """One instance at work."""

    def __init__(self, config: Config, options: Options, journal: Journal, loop: Loop) -> None:
        self._config = config
        self._options = options
        self._journal = journal
        self._loop = loop
        self._notifier = Notifier()
        self._authorization = Authorization(config.control.group)
        self._executor = Executor(loop.post)
        self._started = time.time()
        self._restarts = 0
        self._last_error: Optional[dict[str, Any]] = None
        self._store: Store
        self._tpm: Tpm
        self._dispatcher: Dispatcher
        self._frontend: CuseFrontend
        self._sockets: SocketFrontend
        self._power_shown: Optional[Power] = None
        #: A client has shut the TPM down: the service ends, and nothing is left to a successor.
        self._is_shut_down = False
        self._device_is_gone = False

    # --- start ---------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Start, serve, stop. Returns the exit status.

        Raises:
            VtpmError: it could not start.
        """
        self._loop.on_fault = lambda error: self.failed(internal("while serving", error))
        node = self._resolve_node()
        descriptors = passed_descriptors()
        park = self._adopt_park(descriptors)
        fd = self._device_descriptor(descriptors, resumes=park is not None)
        privileges = self._leave_root(udev=park is not None or cuse_device.udev_is_running())
        self._store = Store.open(self._config.state.directory, self._config.tpm.version)
        with self._store:
            self._tpm = Tpm(self._config.tpm.version, self._store, self.failed)
            handover = park.read() if park is not None else None
            resumed = handover is not None and self._resume(handover)
            if not resumed:
                self._power_on()
            if park is None:
                park = self._make_device(fd, node, privileges)
                privileges.drop()
            self._frontend = self._make_frontend(fd, park)
            self._sockets = SocketFrontend(self._loop, self._dispatcher)
            try:
                self._open_sockets(descriptors)
                self._succeed(park, handover, resumed=resumed)
                return self._serve(fd, park)
            finally:
                self._sockets.close(keep_files=self._notifier.active)

    def _resolve_node(self) -> cuse_device.Node:
        device = self._config.device
        owner, group = configuration.user_id(device.owner), configuration.group_id(device.group)
        return cuse_device.Node(device.name, owner, group, device.mode)

    def _adopt_park(self, descriptors: "dict[str, list[int]]") -> Optional[Park]:
        """The park of a predecessor, if its device is still the one that is asked for."""
        devices, memories = descriptors.pop(PARKED_DEVICE, []), descriptors.pop(PARKED_MEMORY, [])
        if not devices and not memories:
            return None
        if len(devices) == len(memories) == 1:
            try:
                park = Park.adopt(memories[0])
                memories = []
                name = park.device_name
                if name == self._config.device.name and cuse_device.is_alive(devices[0]):
                    descriptors[PARKED_DEVICE] = devices
                    return park
                park.close()
                self._journal.log("notice", f"/dev/{name} is given up, {self._config.device.node} is made: clients open that")
            except VtpmError as error:
                memories = []
                self._journal.error(error, level="warning")
        self._unpark()
        for fd in devices + memories:
            os.close(fd)  # the last descriptor: the old device goes
        return None

    def _unpark(self) -> None:
        for name in (PARKED_DEVICE, PARKED_MEMORY, SOCKET_CONTROL, SOCKET_DATA):
            self._notifier.unpark(name)

    def _device_descriptor(self, descriptors: "dict[str, list[int]]", *, resumes: bool) -> int:
        """/dev/cuse: the live one of a predecessor, or a new one from systemd, or one that we open."""
        passed = descriptors.get(PASSED_DEVICE, [])
        if resumes:
            for spare in passed:  # OpenFile= opens a new one at every start
                os.close(spare)
            return descriptors[PARKED_DEVICE][-1]
        device = self._config.device
        fd = passed[0] if passed else cuse_device.open_cuse()
        cuse_device.check_free(device.name, device.major, device.minor)
        return fd

    def _leave_root(self, *, udev: bool) -> Privileges:
        user = self._options.user
        privileges = Privileges(find_account(user) if os.geteuid() == 0 and user != "root" else None)
        if udev:
            privileges.drop()
        return privileges

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

    def _make_device(self, fd: int, node: cuse_device.Node, privileges: Privileges) -> Park:
        device = self._config.device
        cuse_device.initialise(fd, device.name, device.major, device.minor)
        park = Park.create(device.name)
        if not cuse_device.udev_is_running():
            with privileges.raised():
                cuse_device.finish_by_hand(node)
        cuse_device.wait_until_finished(node, NODE_TIMEOUT_S)
        # only now: a node that nobody can open must not be a successor's start
        self._notifier.park(PARKED_MEMORY, park.fd)
        self._notifier.park(PARKED_DEVICE, fd)
        return park

    def _make_frontend(self, fd: int, park: Park) -> CuseFrontend:
        controller = Controller(self._tpm, on_shutdown=self._shut_down, on_error=self.failed)
        self._dispatcher = Dispatcher(self._tpm, controller, self._executor, self._authorization.rights, events=self)
        self._dispatcher.trace = self._config.log.level == "debug"
        return CuseFrontend(fd, park.slot, park.waiters, park.polls, self._dispatcher)

    def _open_sockets(self, descriptors: "dict[str, list[int]]") -> None:
        """Listen where the configuration says, on the sockets of a predecessor where they are the same."""
        config = self._config.socket
        gid = self._control_group()
        for name, text, listen in (
            (SOCKET_CONTROL, config.control, self._sockets.listen_control),
            (SOCKET_DATA, config.data, self._sockets.listen_data),
        ):
            address = parse_address(text)
            passed = adopt_listener(descriptors.pop(name, []), address)
            if passed is None:
                self._notifier.unpark(name)
            if address is None:
                continue
            directory = os.path.dirname(address.path)
            if directory == f"/run/vtpm/{self._config.instance}" and not os.path.isdir(directory):
                self._journal.log("info", f"no {address.path}: its directory is made by systemd, which did not start this")
                continue
            fd = listen(address, mode=config.mode, gid=gid, passed=passed)
            if passed is None:
                self._notifier.park(name, fd)

    def _control_group(self) -> Optional[int]:
        """The group for the UNIX sockets; None where the process cannot give them to it."""
        try:
            gid = configuration.group_id(self._config.control.group)
        except VtpmError as error:
            self._journal.error(error, level="warning")
            return None
        if os.geteuid() == 0 or gid in (os.getegid(), *os.getgroups()):
            return gid
        name = self._config.control.group
        self._journal.log(
            "warning", f"the control socket stays with the service's own group; remedy: add the service's user to {name}"
        )
        return None

    def _succeed(self, park: Park, handover: Optional[Handover], *, resumed: bool) -> None:
        """Take on what a predecessor owed its clients."""
        unanswered = park.unanswered()
        if handover is not None:
            self._dispatcher.commands = handover.commands
            self._restarts = handover.restarts + 1
            self._frontend.adopt(handover.openers)
        if resumed and handover is not None:
            self._journal.log(
                "info", f"goes on where its predecessor stopped, {len(handover.openers)} openers", message_id=entries.RESUMED_ID
            )
        elif handover is None and park.was_adopted:
            self._journal.log(
                "warning",
                f"its predecessor was killed: {len(unanswered)} requests get an I/O error, PCRs and sessions are lost",
                message_id=entries.RECOVERED_ID,
            )
        self._frontend.give_up(unanswered)
        self._frontend.wake_all(park.polls.take_over())
        park.forget()

    # --- service -------------------------------------------------------------------------------------------------

    def _serve(self, fd: int, park: Park) -> int:
        loop = self._loop
        loop.on_signal(signal.SIGTERM, loop.stop)
        loop.on_signal(signal.SIGINT, loop.stop)
        loop.on_signal(signal.SIGHUP, self._reload)
        period_s = self._notifier.watchdog_period_s()
        if period_s is not None:
            loop.every(period_s, self._notifier.watchdog)
        loop.add(fd, self._frontend.serve_one)
        status = self._open_status()
        self._notifier.ready(self._status_line())
        self._journal.log("info", f"ready: {self._status_line()}", message_id=entries.READY_ID)
        try:
            loop.run()
            return self._stop(fd, park)
        finally:
            status.close()

    def _open_status(self) -> StatusServer:
        status = StatusServer(runtime_path(self._config.instance, "status"), self._describe)
        try:
            self._loop.add(status.open(), status.serve_one)
        except OSError as error:
            self._journal.log("debug", f"no status socket: {status.path}: {error.strerror}")
        return status

    def _stop(self, fd: int, park: Park) -> int:
        """In order: what is in work is finished and answered, the TPM is shut down, and a successor finds everything."""
        self._loop.remove(fd)  # the kernel keeps what comes now for a successor
        self._notifier.stopping("Stopping")
        while self._executor.busy:
            self._notifier.extend_timeout(LONG_WORK_S)
            self._executor.join()
            self._loop.run_posted()
        if self._is_shut_down or self._device_is_gone:
            self._unpark()  # with the last descriptor the device goes, and whoever still waits on it is released
        elif self._notifier.active:
            # whether this is a stop or a restart only systemd knows: after a stop it drops the park
            self._leave(park)
        self._tpm.shut_down()
        self._journal.log("info", "stopped", message_id=entries.STOPPED_ID)
        # a device that was taken away is no end that anybody asked for: systemd is to start the service again
        return TABLE[Code.DEVICE_NOT_READY].exit_status if self._device_is_gone else 0

    def _leave(self, park: Park) -> None:
        park.leave(
            Handover(
                tpm_version=self._tpm.version,
                state_directory=self._config.state.directory,
                commands=self._dispatcher.commands,
                restarts=self._restarts,
                snapshot=self._tpm.snapshot(),
                openers=[record for record, _pending in self._frontend.openers()],
            )
        )

    def _reload(self) -> None:
        """SIGHUP: take over what can be changed at run time, and say what cannot."""
        self._notifier.reloading()
        try:
            config = configuration.load(self._config.path, self._config.instance)
        except VtpmError as error:
            self._journal.error(error)
        else:
            self._apply(config)
        self._notifier.ready(self._status_line())

    def _apply(self, config: Config) -> None:
        for table, key, reloads in configuration.changes(self._config, config):
            what = "now in force" if reloads else "not before a restart of the service"
            self._journal.log("notice", f"[{table}] {key} has changed: {what}", message_id=entries.RELOADED_ID)
        self._config = self._config._replace(log=config.log, control=config.control)
        self._journal.level = entries.LEVELS[config.log.level]
        self._dispatcher.trace = config.log.level == "debug"
        self._authorization.group = config.control.group
        self._journal.log("info", "configuration reloaded", message_id=entries.RELOADED_ID)

    # --- what the front end tells --------------------------------------------------------------------------------

    def refused(self, caller: Caller, error: VtpmError) -> None:
        self._journal.error(error, level="warning", CLIENT_PID=caller.pid, CLIENT_UID=caller.uid)

    def executed(self, caller: Caller, command: bytes, response: bytes) -> None:
        code, result = int.from_bytes(command[6:10], "big"), int.from_bytes(response[6:10], "big")
        version = self._tpm.version
        self._journal.log(
            "debug" if self._dispatcher.trace else "warning",
            f"{command_name(version, code)}: {return_codes.describe(version, result)}",
            message_id=entries.COMMAND_ID,
            TPM_CC=f"{code:#x}",
            TPM_RC=f"{result:#x}",
            CLIENT_PID=caller.pid,
            CLIENT_UID=caller.uid,
        )

    def failed(self, error: VtpmError) -> None:
        self._last_error = {"time": time.time(), "code": error.code.value, "message": error.message}
        self._journal.error(error)

    def controlled(self, caller: Caller, request: ptm.Request, result: int) -> None:
        """A control operation was carried out: the journal says who did what, systemd what came of it."""
        words = return_codes.describe("1.2", result)
        name = ptm.command_of(request).name
        # pieces of a blob or of a hash are one operation
        level = "debug" if isinstance(request, (ptm.GetStateBlob, ptm.SetStateBlob, ptm.HashData)) else "info"
        self._journal.log(level, f"{name}: {words}", TPM_RC=f"{result:#x}", CLIENT_PID=caller.pid, CLIENT_UID=caller.uid)
        if self._power_shown is not self._tpm.power:
            self._notifier.status(self._status_line())

    def _shut_down(self) -> None:
        self._is_shut_down = True
        self._loop.stop()

    def device_gone(self) -> None:
        self.failed(VtpmError(Code.DEVICE_REJECTED, f"the kernel has taken {self._config.device.node} away"))
        self._device_is_gone = True
        self._loop.stop()

    # --- status --------------------------------------------------------------------------------------------------

    def _status_line(self) -> str:
        self._power_shown = power = self._tpm.power
        return f"TPM {self._tpm.version} at {self._config.device.node}, {power.value}"

    def _describe(self) -> "dict[str, Any]":
        config, tpm = self._config, self._tpm
        major, minor = cuse_device.device_numbers(config.device.name)
        openers = self._frontend.openers()
        return {
            "instance": config.instance,
            "version": __version__,
            "pid": os.getpid(),
            "tpm": {
                "version": tpm.version,
                "power": tpm.power.value,
                "locality": tpm.locality,
                "buffer_size": tpm.buffer_size(0).size,
                "pcr_banks": [] if self._executor.busy else tpm.pcr_banks(),
            },
            "device": {"path": config.device.node, "major": major, "minor": minor},
            "state": {
                "directory": config.state.directory,
                "generation": self._store.generation,
                "bytes": self._store.sizes(),
            },
            "openers": [
                {"handle": record.handle, "pid": record.pid, "uid": record.uid, "pending": pending or bool(record.response)}
                for record, pending in openers[:OPENERS_SHOWN]
            ],
            "opener_count": len(openers),
            "connections": self._sockets.connections,
            "commands": self._dispatcher.commands,
            "restarts": self._restarts,
            "started": self._started,
            "last_error": self._last_error,
        }
