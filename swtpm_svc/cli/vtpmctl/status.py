"""What can be known about an instance: its unit, its daemon, its device node, its state files.

Each is asked on its own, and each may be missing: a daemon that is down, a machine without systemd, a node that udev
has not dressed yet. What cannot be known is a problem in the report, with what to do about it, and the rest is still
told.
"""

import grp
import os
import pwd
import stat
from typing import Any, NamedTuple, Optional, Union

import swtpm_svc
from swtpm_svc.cli.vtpmctl.asking import Answer, Unit, ask_daemons, ask_systemd
from swtpm_svc.cli.vtpmctl.condition import Condition, Kind, judge
from swtpm_svc.cli.vtpmctl.host import Places
from swtpm_svc.config import loading
from swtpm_svc.config.loading import Config
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.state import state_directory
from swtpm_svc.state.backend import NAMES, PERMALL


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
    condition: Condition

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
    (found,) = gather_all([loading.check_instance(instance)], places)
    absent = missing(found)
    if absent is not None:
        raise absent
    return found


def missing(found: Status) -> Optional[VtpmError]:
    """What to say where there is no such instance, running or not; None: there is one."""
    absent = next((one for one in found.problems if one.code is Code.CONFIG_MISSING), None)
    if absent is None or found.daemon is not None or found.condition.kind not in (Kind.NOT_STARTED, Kind.UNKNOWN):
        return None
    absent.remedy = f"see those that there are: vtpmctl list; or make it: vtpmctl create {found.instance}"
    return absent


def gather_all(instances: "list[str]", places: Places) -> "list[Status]":
    """Everything about instances, given by their names: systemd and the daemons are asked once for all of them."""
    units = ask_systemd(instances)
    answers = ask_daemons(instances, places)
    return [_gather(name, unit, answer, places) for name, unit, answer in zip(instances, units, answers)]


def _gather(instance: str, unit: Unit, answer: "Union[Answer, VtpmError]", places: Places) -> Status:
    problems: list[VtpmError] = []
    loaded = None
    try:
        loaded = loading.load(f"{places.config}/{instance}.toml", instance)
    except VtpmError as error:
        problems.append(error)
    condition = judge(instance, unit, answer, places)
    if condition.problem is not None:
        problems.append(condition.problem)
    daemon = None if isinstance(answer, VtpmError) else answer
    path = _device_path(instance, loaded, daemon)
    node = look_at_node(path, places) if path is not None else None
    if node is not None:
        problems += _node_problems(node, loaded, instance, is_up=daemon is not None)
    problems = [problem.of(instance, f"device:{path}" if path else "TCTI") for problem in problems]
    files = _state_files(loaded)
    return Status(instance, loaded, unit, node, daemon, files, problems, swtpm_svc.__version__, condition)


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


def _removed(node: Node, instance: str) -> VtpmError:
    unit = f"vtpm@{instance}.service"
    if node.served:
        return VtpmError(
            Code.DEVICE_REJECTED,
            f"{node.path} was removed, though the service runs and the kernel has the device",
            remedy=f"have it made anew, which shuts the TPM down in order: systemctl stop {unit}; systemctl start {unit}",
        )
    return VtpmError(
        Code.DEVICE_REJECTED,
        f"{node.path} does not exist, though the service runs",
        remedy="see whether /dev is a devtmpfs (findmnt /dev), or who else makes the nodes there",
    )


def _node_problems(node: Node, loaded: Optional[Config], instance: str, *, is_up: bool) -> "list[VtpmError]":
    if not node.exists:
        if not is_up:
            return []  # no node without a daemon is as it should be
        return [_removed(node, instance)]
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
