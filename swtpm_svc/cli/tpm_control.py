"""A TPM from the administrator's side: NAME or path in, control requests out, to its device or its control socket.

Every failure becomes a VtpmError: what the kernel said to open() or ioctl(), and the TPM's result in a reply, in words.
"""

import errno
import fcntl
import grp
import os
import socket
import stat
from types import TracebackType
from typing import Callable, NamedTuple, NoReturn, Optional, TypeVar

from swtpm_svc.config import loading
from swtpm_svc.config.loading import Config
from swtpm_svc.errors import Code, VtpmError, quote
from swtpm_svc.wire import ptm, ptm_ioctl, ptm_socket, return_codes
from swtpm_svc.wire.protocol_error import ProtocolError
from swtpm_svc.wire.results import TpmResult

#: How long a control socket's answer may take: a key that is made meanwhile goes before it.
ANSWER_TIME_S = 300.0

#: What open() and ioctl() say of a device, and connect() of a socket, that nobody serves any more.
_GONE = (errno.ENODEV, errno.ENXIO, errno.ECONNABORTED, errno.ENOTCONN)

#: The TPM results that say more than "it failed", and what they are to a person.
RESULT_CODES: "dict[int, Code]" = {
    TpmResult.BAD_ORDINAL: Code.TPM_NOT_RUNNING,
    TpmResult.INVALID_POSTINIT: Code.TPM_NOT_RUNNING,
    TpmResult.BAD_LOCALITY: Code.BAD_LOCALITY,
    TpmResult.NOSPACE: Code.STATE_FULL,
    TpmResult.KEYNOTFOUND: Code.STATE_KEY,
    TpmResult.DECRYPT_ERROR: Code.STATE_KEY,
}


#: What only a TPM without power takes; the result for "not now" is the same for these and for all others.
NEEDS_POWER_OFF = (ptm.SetStateBlob, ptm.SetBufferSize)


ReplyType = TypeVar("ReplyType", bound="ptm.Reply")


class Target(NamedTuple):
    """What the operator named. `name` is for messages; `instance` is None when it was a path.

    `directory`: where configurations are.
    """

    name: str
    path: str
    instance: Optional[str]
    directory: str = loading.CONFIG_DIRECTORY

    @property
    def start(self) -> str:
        """How it is started, for a remedy."""
        instance = self.serving_instance
        return (
            f"start it: systemctl start vtpm@{instance}.service"
            if instance
            else "start what makes it; the instances: vtpmctl list"
        )

    @property
    def journal(self) -> str:
        """Where its service says more, for a remedy."""
        instance = self.serving_instance
        return f"journalctl -u vtpm@{instance}.service" if instance else "journalctl, of what serves it"

    @property
    def serving_instance(self) -> Optional[str]:
        """The instance whose configuration names the path: looked for only when something is wrong with it."""
        return self.instance or loading.instance_at(self.path, self.directory)


def control_path(loaded: Config) -> str:
    """The device; without one the control socket, which the configuration may have put elsewhere, or nowhere.

    Raises:
        VtpmError USAGE
    """
    if loaded.device.enabled:
        return loaded.device.node
    control = loaded.socket.control
    if not control.startswith("/"):
        raise VtpmError(
            Code.USAGE,
            f'{loaded.path}: there is neither a device nor a UNIX control socket ([socket] control = "{control}")',
            remedy=f"give [socket] control a path in {loaded.path}",
        )
    return control


def resolve(
    name: str, directory: str = loading.CONFIG_DIRECTORY, path_of: Callable[[Config], str] = control_path
) -> Target:
    """A path is used as it is; a NAME is an instance, in whose configuration `path_of` finds the place.

    Raises:
        VtpmError CONFIG_MISSING, CONFIG_UNREADABLE, CONFIG_INVALID, USAGE.
    """
    if "/" in name:
        return Target(name, name, None, directory)
    instance = loading.check_instance(name)
    try:
        loaded = loading.load(f"{directory}/{instance}.toml", instance)
    except VtpmError as error:
        if error.code is Code.CONFIG_MISSING:
            error.remedy = f"see vtpmctl list; for a device without a configuration give its path: /dev/{name}"
        raise
    return Target(name, path_of(loaded), instance, directory)


class Device:
    """A TPM that takes control requests; a context manager. `open_device` gives the one that fits a target."""

    def __init__(self, target: Target) -> None:
        self.target = target

    @property
    def blob_chunk(self) -> Optional[int]:
        """Bytes of a state blob that one SET_STATEBLOB carries; None: all of them."""
        raise NotImplementedError

    def control(self, request: ptm.Request) -> ptm.Reply:
        """Send one control request and return the reply, whatever its TPM result.

        Raises:
            VtpmError NOT_PERMITTED, DAEMON_UNREACHABLE, BUSY, PROTOCOL, LIBTPMS: what the kernel or the service
                answered.
        """
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> "Device":
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def ask(self, request: ptm.Request, kind: "type[ReplyType]") -> ReplyType:
        """Send one control request; its reply must be a success, of this kind.

        Raises:
            VtpmError: as control(); TPM_RUNNING, TPM_NOT_RUNNING, BAD_LOCALITY, STATE_FULL, LIBTPMS for a TPM result.
        """
        reply = self.control(request)
        if not isinstance(reply, ptm.CapabilityReply) and reply.tpm_result:
            refuse_result(self.target, request, reply.tpm_result)
        if not isinstance(reply, kind):
            raise TypeError(f"{type(reply).__name__} is not a reply to {_name(request)}")
        return reply

    def perform(self, request: ptm.Request) -> None:
        """As ask(), for a request whose reply says no more than success."""
        self.ask(request, ptm.Result)


def open_device(target: Target) -> Device:
    """Open the character device, or connect to the control socket, that is there.

    Raises:
        VtpmError DAEMON_UNREACHABLE, NOT_PERMITTED, USAGE, BUSY, LIBTPMS.
    """
    try:
        # stat first: opening some other device can have an effect of its own (a watchdog, a tape)
        mode = os.stat(target.path).st_mode
        if stat.S_ISCHR(mode):
            return CharacterDevice(target)
        if stat.S_ISSOCK(mode):
            return ControlSocket(target)
    except OSError as error:
        refuse_open(target, error)
    raise VtpmError(
        Code.USAGE,
        f"{target.path} is neither a character device nor a socket",
        remedy="name an instance, a /dev path or a control socket: vtpmctl list",
    )


class CharacterDevice(Device):
    """Requests are ioctls."""

    def __init__(self, target: Target) -> None:
        """
        Raises:
            OSError
        """
        super().__init__(target)
        self._descriptor = os.open(target.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)

    @property
    def blob_chunk(self) -> Optional[int]:
        return ptm.STATE_BLOB_CHUNK

    def close(self) -> None:
        os.close(self._descriptor)

    def control(self, request: ptm.Request) -> ptm.Reply:
        try:
            number, buffer = ptm_ioctl.pack(request)
            while True:
                try:
                    fcntl.ioctl(self._descriptor, number, buffer, True)  # True: the reply goes into buffer
                    break
                except InterruptedError:  # a signal that Python did not turn into an exception
                    continue
            return ptm_ioctl.unpack(request, buffer)
        except OSError as error:
            _refuse_control(self.target, request, error)
        except ProtocolError as error:
            raise VtpmError(
                Code.PROTOCOL,
                f"{self.target.name}: {error}",
                remedy="check that the device is one of ours: vtpmctl list",
            ) from error


class ControlSocket(Device):
    """Requests are messages: for an instance without a character device, and for other programs with such a socket."""

    def __init__(self, target: Target) -> None:
        """
        Raises:
            OSError
        """
        super().__init__(target)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(ANSWER_TIME_S)
        try:
            self._socket.connect(target.path)
        except OSError:
            self._socket.close()
            raise

    @property
    def blob_chunk(self) -> Optional[int]:
        return None

    def close(self) -> None:
        self._socket.close()

    def control(self, request: ptm.Request) -> ptm.Reply:
        received = b""
        try:
            self._socket.sendall(ptm_socket.pack(request))
            while True:
                piece = self._socket.recv(65536)
                if not piece:
                    raise ConnectionAbortedError(errno.ECONNABORTED, "the connection was closed")
                received += piece
                reply = ptm_socket.unpack(request, received)
                if reply is not None:
                    return reply
        except OSError as error:  # a timeout is one too
            _refuse_control(self.target, request, error)
        except ProtocolError as error:
            raise VtpmError(
                Code.PROTOCOL,
                f"{self.target.name}: {error}",
                remedy="check that the socket is a control socket: vtpmctl list",
            ) from error


def describe_result(tpm_result: int) -> str:
    """A ptm_res in words. It is a TPM 1.2 code, but libtpms' own TPM 2.0 codes (0x100 to 0x1ff) come through too."""
    version = "2.0" if tpm_result & ~0xFF == 0x100 else "1.2"
    return f"0x{tpm_result:x} ({return_codes.describe(version, tpm_result)})"


def refuse_result(target: Target, request: ptm.Request, tpm_result: int) -> NoReturn:
    code = RESULT_CODES.get(tpm_result, Code.LIBTPMS)
    if code is Code.TPM_NOT_RUNNING and isinstance(request, NEEDS_POWER_OFF):
        code = Code.TPM_RUNNING
    remedies = {
        Code.TPM_RUNNING: f"power it off first: vtpmctl power off {quote(target.name)}",
        Code.TPM_NOT_RUNNING: f"power it on first: vtpmctl power on {quote(target.name)}",
        Code.BAD_LOCALITY: "use a locality from 0 to 4 that the operation allows",
        Code.STATE_KEY: "the blob is encrypted: name its key in [state] (key-file, migration-key-file ...)",
        Code.STATE_FULL: "make room in the file system that holds the state",
        Code.LIBTPMS: f"see what the service says: {target.journal}",
    }
    raise VtpmError(
        code, f"{target.name}: {_name(request)} gave TPM result {describe_result(tpm_result)}", remedy=remedies[code]
    )


def _name(request: ptm.Request) -> str:
    return f"PTM_{ptm.command_of(request).name}"


def refuse_open(target: Target, error: OSError) -> NoReturn:
    start = target.start
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        raise VtpmError(Code.DAEMON_UNREACHABLE, f"{target.path} does not exist", remedy=start)
    if error.errno in (*_GONE, errno.ECONNREFUSED):
        raise VtpmError(Code.DAEMON_UNREACHABLE, f"nobody serves {target.path} ({error.strerror})", remedy=start)
    if error.errno in (errno.EACCES, errno.EPERM):
        remedy = f"run this as root{_or_join(target)}" if not is_root() else _of_root(target)
        raise VtpmError(Code.NOT_PERMITTED, f"{target.path} may not be opened ({error.strerror})", remedy=remedy)
    if error.errno == errno.EBUSY:
        raise VtpmError(
            Code.BUSY,
            f"{target.path} is in use ({error.strerror})",
            remedy=f"see which program has it open, and wait for it: fuser -v {quote(target.path)}",
        )
    raise VtpmError(
        Code.LIBTPMS,
        f"{target.path} cannot be opened ({error.strerror})",
        remedy=f"see what the service says: {target.journal}",
    ) from error


def is_root() -> bool:
    """Is this root? "run this as root" is not a remedy then."""
    return os.geteuid() == 0


def _of_root(target: Target) -> str:
    path = quote(target.path)
    return f"see what keeps root from it: ls -lZ {path}; lsattr -d {path}; a container must be given the device"


def _or_join(target: Target) -> str:
    """Its group, if it is a TPM's: who is let into that of some other device gets more than this."""
    if not target.serving_instance and not os.path.basename(target.path).startswith("tpm"):
        return ""
    try:
        found = os.stat(target.path)
        group = grp.getgrgid(found.st_gid).gr_name
    except (OSError, KeyError):
        return ""
    return (
        f", or be in its group: usermod -aG {quote(group)} USER"
        if found.st_gid and found.st_mode & 0o060 == 0o060
        else ""
    )


def _refuse_control(target: Target, request: ptm.Request, error: OSError) -> NoReturn:
    what = f"{target.name}: {_name(request)}"
    if error.errno in (errno.EPERM, errno.EACCES):
        remedy = "run this as root, or join the [control] group of the instance (vtpm.d(5))"
        if isinstance(request, ptm.GetStateBlob):
            remedy = "run this as root: state in clear holds every secret of the TPM"
        if is_root():
            remedy = (
                "a container's root is another user to the service: do it outside; or see what denies it: "
                "ausearch -m avc"
            )
        raise VtpmError(Code.NOT_PERMITTED, f"{what} is not permitted to you", remedy=remedy)
    if error.errno in (errno.ENOTTY, errno.ENOSYS):
        raise VtpmError(
            Code.PROTOCOL,
            f"{what} is unknown to {target.path}",
            remedy="check that the device is one of ours: vtpmctl list",
        )
    if error.errno in (*_GONE, errno.EPIPE, errno.ECONNRESET):
        remedy = target.start
        raise VtpmError(Code.DAEMON_UNREACHABLE, f"{what}: the TPM went away ({error.strerror})", remedy=remedy)
    if error.errno == errno.EBUSY:
        raise VtpmError(
            Code.BUSY, f"{what} cannot be done now ({error.strerror})", remedy="try again when the TPM is idle"
        )
    remedy = f"see what the service says: {target.journal}"
    raise VtpmError(Code.LIBTPMS, f"{what} failed ({error.strerror or error})", remedy=remedy) from error
