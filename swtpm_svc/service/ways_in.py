"""The ways into an instance besides its device: opened, described and closed together, as its configuration says."""

import os

from swtpm_svc.config import loading as configuration
from swtpm_svc.config.addresses import Address, parse_address
from swtpm_svc.config.loading import Config, ControlConfig
from swtpm_svc.errors import NAME, Code, VtpmError
from swtpm_svc.frontends import plain_socket as socket
from swtpm_svc.frontends import socket_file
from swtpm_svc.frontends.dispatch import Dispatcher
from swtpm_svc.frontends.kernel.kernel_frontend import KernelFrontend
from swtpm_svc.frontends.kernel.vtpmx import KernelTpm
from swtpm_svc.frontends.sockets.socket_frontend import SocketFrontend, adopt_listener
from swtpm_svc.service.kernel_tpm import kernel_tpm
from swtpm_svc.service.loop import Loop
from swtpm_svc.service.systemd.journal import Journal
from swtpm_svc.service.systemd.notify import Descriptors, Notifier
from swtpm_svc.wire.hints import Any, Callable, Optional

TYPE_CHECKING = False  # to mypy it is True
if TYPE_CHECKING:
    from swtpm_svc.frontends.fuse.fuse_frontend import FuseFrontend

#: Before a socket's service, its name in systemd's descriptor store: clients wait on it while there is no process.
PARKED_SOCKET = "socket-"
#: Names that a socket unit gives to those it passes (FileDescriptorName=, vtpm@.socket).
SERVICES = ("control", "data", "managed", "mssim", "mssim-platform")


class WaysIn:
    """`open` once, then `close`. `on_fault` hears of what ends the service while it serves."""

    def __init__(
        self,
        config: Config,
        loop: Loop,
        dispatcher: Dispatcher,
        notifier: Notifier,
        journal: Journal,
        on_fault: Callable[[VtpmError], None],
    ) -> None:
        self._config = config
        self._loop = loop
        self._dispatcher = dispatcher
        self._notifier = notifier
        self._journal = journal
        self._on_fault = on_fault
        self._sockets = SocketFrontend(loop, dispatcher)
        self._kernel: Optional[KernelFrontend] = None
        self._fuse: Optional[FuseFrontend] = None
        self._has_made_directory = False

    def open(self, passed: Descriptors, kernel: Optional[KernelTpm], describe: "Callable[[], dict[str, Any]]") -> None:
        """Serve on all of them; `kernel` is the kernel's TPM of this instance, `describe` gives the status.

        Raises:
            VtpmError SOCKET_UNAVAILABLE, FUSE_UNAVAILABLE, MOUNT_FAILED, USER_MISSING
        """
        self._open_fuse(passed, describe)
        left = passed.pop(kernel_tpm.PARKED_KERNEL_TPM, [])
        if left:  # of a predecessor whose configuration was another
            kernel_tpm.discard(self._config.instance, left, self._notifier)
        if kernel is not None:
            self._kernel = KernelFrontend(self._loop, self._dispatcher, kernel, self._on_kernel_tpm_gone)
            self._kernel.give_up()
        for name in SERVICES:
            for fd in passed.pop(name, []):
                self._sockets.accept_on(socket.socket(fileno=fd), name)
        config = self._config.socket
        mssim = parse_address(config.mssim)
        self._listen("control", parse_address(config.control), self._config.control.group, passed)
        self._listen("data", parse_address(config.data), self._config.device.group, passed)
        self._listen("managed", parse_address(config.managed), self._config.device.group, passed)
        self._listen("mssim", mssim, "", passed)
        self._listen("mssim-platform", mssim.next_port if mssim else None, "", passed)

    def _open_fuse(self, passed: Descriptors, describe: "Callable[[], dict[str, Any]]") -> None:
        config, device = self._config.fuse, self._config.device
        if not config.enabled:
            return
        # these bring subprocess and more, which most instances do not need
        from swtpm_svc.frontends.fuse import mounts
        from swtpm_svc.frontends.fuse.fuse_frontend import FuseFrontend

        fds = passed.pop(mounts.PASSED_NAME, [])
        if fds or os.geteuid() == 0:
            owner, group = configuration.user_id(device.owner), configuration.group_id(device.group)
            control_group = self._group_id(self._config.control.group)
        else:
            # a user's own mount: nobody else may look at it, and he can give nothing away
            owner, group, control_group = os.geteuid(), os.getegid(), None
        fuse = FuseFrontend(
            self._loop,
            self._dispatcher,
            describe,
            owner=owner,
            group=group,
            mode=device.mode,
            control_group=control_group,
        )
        if not fds:
            self._has_made_directory = mounts.make_directory(config.directory)
        self._fuse = fuse
        fuse.open(config.directory, fds[-1] if fds else None)

    def _listen(self, service: str, address: Optional[Address], group: str, passed: Descriptors) -> None:
        """Listen where the configuration says, on the socket of a predecessor where it is the same."""
        parked = PARKED_SOCKET + service
        listener = adopt_listener(passed.pop(parked, []), address)
        if listener is None:
            self._notifier.unpark(parked)
        if address is None:
            return
        directory = os.path.dirname(address.path)
        if directory == f"/run/vtpm/{self._config.instance}" and not os.path.isdir(directory):
            self._journal.log("info", f"no {address.path}: its directory is made by systemd, which did not start this")
            return
        gid = self._usable_group(group) if address.path and listener is None else None
        fd = self._sockets.listen(address, service, mode=self._config.socket.mode, gid=gid, passed=listener)
        if listener is None:
            self._notifier.park(parked, fd)

    def _group_id(self, name: str) -> Optional[int]:
        """None where there is no such group: nobody is in it."""
        try:
            return configuration.group_id(name)
        except VtpmError as error:
            self._journal.error(error, level="warning")
            return None

    def _usable_group(self, name: str) -> Optional[int]:
        """The group for a UNIX socket; None where the process cannot give the socket to it."""
        return self._usable(name, self._group_id(name))

    def _usable(self, name: str, gid: Optional[int]) -> Optional[int]:
        if gid is None or os.geteuid() == 0 or gid in (os.getegid(), *os.getgroups()):
            return gid
        self._journal.error(
            VtpmError(
                Code.NOT_PERMITTED,
                f"a socket stays with the service's own group: its user is not in {name}",
                remedy=f"let systemd make the socket, with SocketGroup={name}: systemctl edit vtpm@{NAME}.socket; "
                "or, if the group may no more than that, let the service's user into it",
            ),
            level="warning",
        )
        return None

    def set_control_group(self, control: ControlConfig, number: Optional[int]) -> None:
        """After a reload: give the control socket and the control file to the group.

        `number` is that of the group; None: there is no such group.
        """
        if control == self._config.control:
            return
        self._config = self._config._replace(control=control)
        address = parse_address(self._config.socket.control)
        if address is not None and address.path in self._sockets.addresses:
            gid = self._usable(control.group, number)
            try:
                socket_file.give(address.path, os.getegid() if gid is None else gid)
            except OSError as error:
                self._journal.log("warning", f"{address.path} keeps the group that it has: {error.strerror}")
        if self._fuse is not None:
            self._fuse.set_control_group(number)

    def when_ready(self, done: Callable[[Optional[VtpmError]], None]) -> None:
        """Call `done` from the loop, which must run meanwhile, when clients find everything there, or with what
        failed."""
        if self._kernel is None:
            done(None)
            return
        tpm, version = self._kernel.tpm, self._config.tpm.version

        def wait() -> None:
            failure = None
            try:
                kernel_tpm.wait_until_made(tpm, version)
            except VtpmError as error:
                failure = error
                # one that the kernel did not finish is of no use to a successor either
                self._loop.post(lambda: kernel_tpm.discard(self._config.instance, [], self._notifier))
            self._loop.post(lambda: done(failure))

        from threading import Thread  # most starts have no use for it

        Thread(target=wait, name="wait-for-nodes", daemon=True).start()

    def _on_kernel_tpm_gone(self) -> None:
        kernel_tpm.discard(self._config.instance, [], self._notifier)
        self._on_fault(kernel_tpm.gone())

    @property
    def places(self) -> "list[str]":
        """Where clients find the TPM."""
        kernel = [self._kernel.tpm.path] if self._kernel is not None else []
        files = [f"{self._config.fuse.directory}/tpm"] if self._fuse is not None else []
        return kernel + files + self._sockets.addresses

    def describe(self) -> "dict[str, Any]":
        """For the status."""
        return {
            "kernel_tpm": None if self._kernel is None else self._kernel.tpm.path,
            "fuse": None if self._fuse is None else self._fuse.describe(),
            "connections": self._sockets.connections,
            "listening": self._sockets.addresses,
        }

    def unpark(self) -> None:
        """Leave nothing to a successor."""
        for name in SERVICES:
            self._notifier.unpark(PARKED_SOCKET + name)
        self._notifier.unpark(kernel_tpm.PARKED_KERNEL_TPM)

    def close(self, *, has_successor: bool) -> None:
        """End all connections; what a successor may go on with stays."""
        self._sockets.close(keep_files=has_successor)
        if self._kernel is not None:
            self._kernel.close()
        if self._fuse is not None:
            self._fuse.close()
        if self._has_made_directory:
            try:
                os.rmdir(self._config.fuse.directory)
            except OSError:
                pass
