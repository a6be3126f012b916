"""What can be known about an instance: its unit, its daemon, its device node, its state files.

Each is asked on its own, and each may be missing: a daemon that is down, a machine without systemd, a node that udev
has not dressed yet. What cannot be known is a problem in the report, with what to do about it, and the rest is still
told.
"""

import errno
import grp
import json
import os
import pwd
import socket
import stat
import subprocess
import time
from typing import Any, NamedTuple, Optional

import swtpm_svc
from swtpm_svc.cli.vtpmctl.host import Places
from swtpm_svc.config import loading
from swtpm_svc.config.loading import Config
from swtpm_svc.errors import Code, VtpmError, quote
from swtpm_svc.state import state_directory
from swtpm_svc.state.backend import NAMES, PERMALL

ANSWER_TIME_S = 5.0
ANSWER_MAX_BYTES = 1024 * 1024
UNIT_PROPERTIES = (
    "Id",
    "LoadState",
    "ActiveState",
    "SubState",
    "Result",
    "UnitFileState",
    "MainPID",
    "NRestarts",
    "StatusText",
)


class Unit(NamedTuple):
    """systemd's view. `properties` is None when systemd could not be asked, and `reason` then says why."""

    name: str
    properties: "Optional[dict[str, str]]"
    reason: str = ""


class Node(NamedTuple):
    """The device node. `served`: the kernel has a CUSE device of this name."""

    path: str
    exists: bool
    served: bool
    owner: str = ""
    group: str = ""
    mode: int = 0
    major: int = 0
    minor: int = 0


class StateFiles(NamedTuple):
    """What lies in the state directory: sizes in bytes by libtpms' names, and the permanent state's time, since
    1970."""

    sizes: "dict[str, int]"
    generation: Optional[str]


class Status(NamedTuple):
    """`daemon` is the status socket's answer, None without one; `files` is None when they may not be looked at.

    `node` is None where the instance is to have no device. `installed` is the version that a restart would run.
    """

    instance: str
    config: Optional[Config]
    unit: Unit
    node: Optional[Node]
    daemon: "Optional[dict[str, Any]]"
    files: Optional[StateFiles]
    problems: "list[VtpmError]"
    installed: str

    @property
    def running(self) -> Optional[str]:
        """The daemon's version, None where none answers or it does not say."""
        version = (self.daemon or {}).get("version")
        return version if isinstance(version, str) else None

    @property
    def restart_pending(self) -> bool:
        """An upgrade leaves daemons running, so the one that runs may not be the one that is installed."""
        return self.running not in (None, self.installed)


def gather(instance: str, places: Places) -> Status:
    """Everything about one instance.

    Raises:
        VtpmError USAGE: that is not a name for an instance.
            CONFIG_MISSING: there is no such instance, running or not.
    """
    loading.check_instance(instance)
    problems: list[VtpmError] = []
    loaded = None
    try:
        loaded = loading.load(f"{places.config}/{instance}.toml", instance)
    except VtpmError as error:
        problems.append(error)
    daemon = None
    unit = ask_systemd([instance])[0]
    try:
        daemon = ask_daemon(instance, places)
    except VtpmError as error:
        if problems and problems[0].code is Code.CONFIG_MISSING and error.errno == errno.ECONNREFUSED:
            problems[0].remedy = f"see those that there are: vtpmctl list; or make it: vtpmctl create {instance}"
            raise problems[0] from None
        problems.append(_explained(error, unit, f"{places.config}/{instance}.toml"))
    problems += _tpm_problems(daemon or {})
    path = _device_path(instance, loaded, daemon)
    node = look_at_node(path, places) if path is not None else None
    if node is not None:
        problems += _node_problems(node, loaded, is_up=daemon is not None)
    problems = [problem.of(instance) for problem in problems]
    return Status(instance, loaded, unit, node, daemon, _state_files(loaded), problems, swtpm_svc.__version__)


def ask_daemon(instance: str, places: Places) -> "dict[str, Any]":
    """The status socket's answer.

    Raises:
        VtpmError DAEMON_UNREACHABLE, NOT_PERMITTED, PROTOCOL.
    """
    path = f"{places.run}/{instance}/status"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
            channel.settimeout(ANSWER_TIME_S)
            channel.connect(path)
            answer = json.loads(_read_to_end(channel))
    except PermissionError as error:
        remedy = (
            f"see what keeps root from it: ls -lZ {path}"
            if os.geteuid() == 0
            else "run this as root, or see who may: ls -l " + path
        )
        raise VtpmError(Code.NOT_PERMITTED, f"{path} may not be opened ({error.strerror})", remedy=remedy) from error
    except (ValueError, RecursionError) as error:
        raise VtpmError(Code.PROTOCOL, f"{path} gave no JSON", remedy=f"see journalctl -u vtpm@{instance}") from error
    except OSError as error:  # a timeout is one too
        why = error.strerror or "no answer in time"
        raise VtpmError(
            Code.DAEMON_UNREACHABLE,
            f"the service does not answer at {path} ({why})",
            remedy=f"systemctl start vtpm@{instance}",
        ) from error
    if not isinstance(answer, dict):
        raise VtpmError(Code.PROTOCOL, f"{path} gave no JSON object", remedy=f"see journalctl -u vtpm@{instance}")
    return answer


def _read_to_end(channel: socket.socket) -> bytes:
    received = b""
    deadline = time.monotonic() + ANSWER_TIME_S
    while len(received) <= ANSWER_MAX_BYTES and time.monotonic() < deadline:
        chunk = channel.recv(65536)
        if not chunk:
            return received
        received += chunk
    raise socket.timeout


def ask_systemd(instances: "list[str]") -> "list[Unit]":
    """One call for all of them, in their order."""
    names = [f"vtpm@{instance}.service" for instance in instances]
    command = ["systemctl", "show", "--no-pager", "--property=" + ",".join(UNIT_PROPERTIES), "--", *names]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=ANSWER_TIME_S,
            check=False,
            encoding="utf-8",
            errors="replace",
        )
    except FileNotFoundError:
        return [Unit(name, None, "systemctl is not installed") for name in names]
    except (OSError, subprocess.TimeoutExpired):
        return [Unit(name, None, "systemd does not answer") for name in names]
    blocks = [_properties(block) for block in done.stdout.split("\n\n") if block.strip()]
    if done.returncode != 0 or len(blocks) != len(names):
        reason = (done.stderr.strip().splitlines() or ["systemctl failed"])[0]
        return [Unit(name, None, reason) for name in names]
    return [Unit(name, block) for name, block in zip(names, blocks)]


def _properties(block: str) -> "dict[str, str]":
    pairs = (line.partition("=") for line in block.strip().splitlines())
    return {key: value for key, _, value in pairs}


def look_at_node(path: str, places: Places) -> Node:
    served = os.path.isdir(f"{places.sysfs}/{os.path.basename(path)}")
    try:
        found = os.stat(path)
    except OSError:
        return Node(path, exists=False, served=served)
    if not stat.S_ISCHR(found.st_mode):
        return Node(path, exists=False, served=served)
    return Node(
        path,
        exists=True,
        served=served,
        owner=user_name(found.st_uid),
        group=_group_name(found.st_gid),
        mode=stat.S_IMODE(found.st_mode),
        major=os.major(found.st_rdev),
        minor=os.minor(found.st_rdev),
    )


def user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except (KeyError, OverflowError):
        return str(gid)


def _device_path(instance: str, loaded: Optional[Config], daemon: "Optional[dict[str, Any]]") -> Optional[str]:
    """The running daemon's word goes before the file's: the file may have been edited since."""
    if daemon is not None and "device" in daemon:
        device = daemon["device"]
        path = device.get("path") if isinstance(device, dict) else None
        if device is None or (isinstance(path, str) and path.isprintable()):
            return path
    if loaded is None:
        return f"/dev/{instance}"
    return loaded.device.node if loaded.device.enabled else None


def _explained(error: VtpmError, unit: Unit, path: str) -> VtpmError:
    """A daemon that does not answer, with what systemd knows about the reason."""
    known = unit.properties or {}
    if error.code is not Code.DAEMON_UNREACHABLE or not known:
        return error
    if known.get("LoadState") == "not-found":
        error.remedy = f"install the unit vtpm@.service, or run vtpmd --config {quote(path)} --foreground"
    elif known.get("ActiveState") == "failed":
        error.message = f"{unit.name} failed ({known.get('Result')})"
        error.remedy = f"see why: journalctl -u {unit.name}; then: systemctl start {unit.name}"
    elif known.get("ActiveState") == "inactive":
        error.message = f"{unit.name} is not started"
        error.remedy = f"start it: systemctl start {unit.name}"
    return error


def _tpm_problems(daemon: "dict[str, Any]") -> "list[VtpmError]":
    tpm = daemon.get("tpm")
    if not isinstance(tpm, dict) or tpm.get("power") != "failed":
        return []
    failure = tpm.get("failure")
    words = failure if isinstance(failure, dict) else {}
    message, remedy = (_printable(words.get(name)) for name in ("message", "remedy"))
    heals = "it then goes on by itself, with its PCRs and sessions" if words.get("heals") else ""
    remedies = "; ".join(part for part in (remedy, heals) if part)
    return [
        VtpmError(
            Code.TPM_FAILED, f"the TPM has failed: {message or 'the daemon does not say why'}", remedy=remedies or None
        )
    ]


def _printable(text: object) -> str:
    """What another process says, for a line of a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text) if isinstance(text, str) else ""


def _node_problems(node: Node, loaded: Optional[Config], *, is_up: bool) -> "list[VtpmError]":
    if not node.exists:
        if not is_up:
            return []  # no node without a daemon is as it should be
        return [
            VtpmError(
                Code.DEVICE_REJECTED,
                f"{node.path} does not exist, though the service runs",
                remedy="see whether /dev is a devtmpfs (findmnt /dev), or who else makes the nodes there",
            )
        ]
    if loaded is None or not loaded.device.enabled:
        return []
    device = loaded.device
    try:
        wanted = (user_name(loading.user_id(device.owner)), _group_name(loading.group_id(device.group)), device.mode)
    except VtpmError as error:
        return [error]
    if wanted == (node.owner, node.group, node.mode):
        return []
    message = (
        f"{node.path} is {describe_access(node.owner, node.group, node.mode)}, the configuration says "
        f"{describe_access(*wanted)}"
    )
    return [
        VtpmError(
            Code.DEVICE_NOT_READY,
            message,
            remedy=f"check that 70-vtpm.rules is installed, then: udevadm trigger {node.path}",
        )
    ]


def describe_access(owner: str, group: str, mode: int) -> str:
    return f"{owner}:{group} {mode:04o}"


def _state_files(loaded: Optional[Config]) -> Optional[StateFiles]:
    """Needs no daemon, but the rights to look: the directory is the service's own, 0700."""
    from swtpm_svc.frontends.fuse import mounts

    if loaded is None or mounts.has_on_it(loaded.state.place):
        return None
    if loaded.state.is_file:
        return _in_one_file(loaded.state.file)
    sizes, generation = {}, None
    for name in NAMES:
        try:
            found = os.stat(os.path.join(loaded.state.directory, state_directory.file_name(loaded.tpm.version, name)))
        except FileNotFoundError:
            continue
        except OSError:
            return None
        sizes[name] = found.st_size
        if name == PERMALL:
            generation = f"{found.st_mtime_ns // 10**9}.{found.st_mtime_ns % 10**9:09d}"  # as store.Store.generation
    return StateFiles(sizes, generation)


def _in_one_file(path: str) -> Optional[StateFiles]:
    from swtpm_svc.state import linear, state_file

    try:
        header, size, generation = state_file.look(path)
        layout = linear.decode(header, size) if linear.is_linear(header) else {}
    except FileNotFoundError:
        return StateFiles({}, None)
    except (OSError, ValueError):
        return None
    sizes = {name: layout[number].length for name, number in linear.NUMBERS.items() if number in layout}
    return StateFiles(sizes, generation if PERMALL in sizes else None)
