"""All instances at a glance (`list`), and one configuration looked at before it is started (`check`)."""

import os
import re
import stat
from contextlib import suppress
from typing import Any, NamedTuple, Optional, Union

from swtpm_svc.cli.vtpmctl.asking import Answer, Unit, ask_daemons, ask_systemd
from swtpm_svc.cli.vtpmctl.condition import Condition, Kind, judge
from swtpm_svc.cli.vtpmctl.host import Places
from swtpm_svc.config import loading
from swtpm_svc.config import places as configured
from swtpm_svc.config.loading import Config
from swtpm_svc.config.name_order import natural
from swtpm_svc.config.places import Place
from swtpm_svc.errors import Code, VtpmError, quote
from swtpm_svc.service.privileges import find_account
from swtpm_svc.state import keys

#: Names that Linux gives to nodes in /dev, of which there may be none yet: Documentation/admin-guide/devices.txt, and
#: drivers/char/tpm.
_NAMES_OF_OTHERS = re.compile(
    r"tpm(?:rm)?[0-9]+|vtpmx|tty(?:S|USB|ACM)?[0-9]+|rtc[0-9]*|loop[0-9]+|[hsv]d[a-z]+[0-9]*|watchdog[0-9]*|kvm|hwrng"
)


class Entry(NamedTuple):
    """One instance in the list. `active` is systemd's word, `power` the daemon's; None: not known, `error`: why not."""

    instance: str
    config: Optional[Config]
    active: Optional[str]
    power: Optional[str]
    error: Optional[VtpmError]
    condition: Condition


def entries(places: Places) -> "list[Entry]":
    """Every instance with a configuration, and those that run without one (vtpmd --config).

    Raises:
        VtpmError CONFIG_MISSING, CONFIG_UNREADABLE: there is no directory of configurations.
    """
    found = names(places)
    asked = zip(found, ask_systemd(found), ask_daemons(found, places))
    return [_entry(name, unit, answer, places) for name, unit, answer in asked]


def names(places: Places) -> "list[str]":
    """Of all instances that there are: those with a configuration, and those that run.

    Raises:
        VtpmError CONFIG_MISSING, CONFIG_UNREADABLE: there is no directory of configurations.
    """
    return sorted({*loading.instances(places.config), *_running(places)}, key=natural)


def _running(places: Places) -> "list[str]":
    try:
        names = os.listdir(places.run)
    except OSError:
        return []
    return [name for name in names if _is_name(name) and os.path.exists(f"{places.run}/{name}/status")]


def _is_name(name: str) -> bool:
    try:
        loading.check_instance(name)
    except VtpmError:
        return False
    return True


def _entry(instance: str, unit: Unit, answer: "Union[Answer, VtpmError]", places: Places) -> Entry:
    condition = judge(instance, unit, answer, places)
    power = _power(answer) if isinstance(answer, dict) else None
    # a service that is not started cannot answer: there is nothing to tell
    error = condition.problem if condition.kind is not Kind.NOT_STARTED else None
    loaded = None
    try:
        loaded = loading.load(f"{places.config}/{instance}.toml", instance)
    except VtpmError as wrong:
        error = wrong
    active = (unit.properties or {}).get("ActiveState")
    if error is not None:
        error.of(instance, f"device:{loaded.device.node}" if loaded and loaded.device.enabled else "TCTI")
    return Entry(instance, loaded, active, power, error, condition)


def _power(answer: "dict[str, Any]") -> Optional[str]:
    tpm = answer.get("tpm")
    power = tpm.get("power") if isinstance(tpm, dict) else None
    return power if isinstance(power, str) else None


def check(name: str, places: Places) -> "tuple[Config, list[str]]":
    """Check an instance's configuration, or a file, and what it names, without starting anything.

    Returns what is in force, and notes about what is allowed but hardly meant.

    Raises:
        VtpmError CONFIG_MISSING, CONFIG_UNREADABLE, CONFIG_INVALID, KEY_UNUSABLE, USAGE: as the daemon would say it.
        VtpmError USER_MISSING: [device] owner or group does not exist here.
        VtpmError DEVICE_NAME_TAKEN, DEVICE_NUMBER_TAKEN, STATE_LOCKED, SOCKET_UNAVAILABLE, MOUNT_FAILED: another
            instance's
            configuration has the same device, state, socket or mount, or something else is in its place.
        VtpmError STATE_MISSING, CA_UNUSABLE: there is a file in a directory's place.
    """
    if "/" in name or name.endswith(".toml"):
        instance = os.path.basename(name)
        instance = instance[: -len(".toml")] if instance.endswith(".toml") else instance
        loaded = loading.load(name, instance)
    else:
        loaded = loading.load(f"{places.config}/{loading.check_instance(name)}.toml", name)
    return loaded, examine(loaded, neighbours(_others(places)), places)


class Neighbour(NamedTuple):
    """Another instance, and its places with links followed, which is looked up once for all that are compared with it."""

    config: Config
    places: "list[Place]"


def neighbours(configs: "list[Config]") -> "list[Neighbour]":
    return [Neighbour(one, configured.places(one, _resolved)) for one in configs]


def examine(loaded: Config, others: "list[Neighbour]", places: Places, *, is_served: bool = False) -> "list[str]":
    """Notes about what a configuration names. `others`: its own may be among them; `is_served`: what is in a place is its
    own.

    Raises:
        VtpmError: as check(), of what is wrong with it.
    """
    if loaded.device.enabled:
        loading.user_id(loaded.device.owner)
        loading.group_id(loaded.device.group)
    own = configured.places(loaded, _resolved)
    for other in others:
        if other.config.instance != loaded.instance:
            _refuse_sharing(loaded, own, other)
    if not is_served:
        _refuse_obstacles(loaded, places)
    if loaded.device.enabled:
        _refuse_names_of_others(loaded)
    return [*_notes(loaded), *_check_keys(loaded)]


def refuse_sharing(loaded: Config, places: Places) -> None:
    """Raises: VtpmError as check(): another instance has the same device, state, socket or mount."""
    own = configured.places(loaded, _resolved)
    for other in neighbours(_others(places)):
        if other.config.instance != loaded.instance:
            _refuse_sharing(loaded, own, other)


def _others(places: Places) -> "list[Config]":
    """The configurations that can be read, of a file that is checked too."""
    found = []
    with suppress(VtpmError):  # a file that is checked where nothing is installed
        for name in loading.instances(places.config):
            with suppress(VtpmError):
                found.append(loading.load(f"{places.config}/{name}.toml", name))
    return found


def _refuse_names_of_others(loaded: Config) -> None:
    """Names that the kernel gives, whether it has done so yet or not."""
    name = loaded.device.name
    if _NAMES_OF_OTHERS.fullmatch(name):
        what = "the kernel's own TPMs" if name.startswith("tpm") else "a device of the kernel"
        raise VtpmError(
            Code.DEVICE_NAME_TAKEN,
            f'{loaded.path}: [device] name: found "{name}", which is a name for {what}',
            remedy=f'write another, for example: name = "v{name}"; a TPM of the kernel is made by [vtpm-proxy]',
        )


def _notes(loaded: Config) -> "list[str]":
    notes = []
    try:
        loading.group_id(loaded.control.group)
    except VtpmError as error:
        notes.append(f"{error.message}: only root and the service's user may use the control operations")
    missing = os.path.dirname(loaded.state.file) if loaded.state.is_file else loaded.state.directory
    if missing != f"{loading.STATE_DIRECTORY}/{loaded.instance}" and not (
        _is_on_mount(missing) or os.path.lexists(missing)
    ):
        notes.append(
            f"there is no {missing}: mount what belongs there, or make it: install -d -m 0700 -o vtpm -g vtpm "
            f"{quote(missing)}"
        )
    return notes


def _check_keys(loaded: Config) -> "list[str]":
    """Key files as the service would see them, which only root can check.

    A credential is not there before the unit runs.
    """
    if os.geteuid() != 0:
        return []
    try:
        account = find_account("vtpm")
    except VtpmError:
        return []
    notes = []
    for source in (loaded.state.key, loaded.state.migration_key):
        if source is None or source.kind != "file":
            continue
        keys.load(source, keys.Trusted((account.uid,), (account.gid,)))
        found = os.stat(source.name)
        right = 0o400 if found.st_uid == account.uid else 0o040 if found.st_gid == account.gid else 0
        if not found.st_mode & right:
            path = quote(source.name)
            notes.append(
                f"{source.name} cannot be read by user vtpm, as which the service runs: chgrp vtpm {path}; chmod 0640 "
                f"{path}"
            )
    return notes


def _refuse_sharing(loaded: Config, own: "list[Place]", neighbour: Neighbour) -> None:
    other = neighbour.config
    have_devices = loaded.device.enabled and other.device.enabled
    if have_devices and other.device.name == loaded.device.name:
        raise VtpmError(
            Code.DEVICE_NAME_TAKEN,
            f'{loaded.path}: [device] name: found "{loaded.device.name}", which {other.path} has too',
            remedy="give one of them another name",
        )
    number = (loaded.device.major, loaded.device.minor)
    if have_devices and number[0] and number == (other.device.major, other.device.minor):
        raise VtpmError(
            Code.DEVICE_NUMBER_TAKEN,
            f"{loaded.path}: [device] major, minor: found {number[0]} and {number[1]}, which {other.path} has too",
            remedy="give one of them other numbers, or leave them out: the kernel then chooses",
        )
    configured.refuse_shared(loaded, own, other, neighbour.places)


def _refuse_obstacles(loaded: Config, places: Places) -> None:
    """What is in the place of something that the service makes or uses, as far as this may be looked at."""
    device, provision = loaded.device, loaded.provision
    if device.enabled and os.path.lexists(device.node) and not os.path.isdir(f"{places.sysfs}/{device.name}"):
        raise VtpmError(
            Code.DEVICE_NAME_TAKEN,
            f'{loaded.path}: [device] name: found "{device.name}", but there is a {device.node}, which is not ours',
            remedy=f"see what it is: ls -ld {device.node}; give the TPM's device another name",
        )
    for place in configured.places(loaded):
        mode = _mode(place.where)
        if mode and place.is_directory and not stat.S_ISDIR(mode):
            code = Code.STATE_MISSING if place.code is Code.STATE_LOCKED else place.code
            raise _obstacle(loaded, code, f'{place.what}: found "{place.where}", which is not a directory', place.where)
        if place.is_state_file:
            if mode and not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
                cause = f'{place.what}: found "{place.where}", which is neither a file nor a block device'
                raise _obstacle(loaded, Code.STATE_MISSING, cause, place.where)
        elif mode and not place.is_directory and place.what.startswith("[") and not stat.S_ISSOCK(mode):
            cause = f'{place.what}: found "{place.where}", which is not a socket'
            raise _obstacle(loaded, place.code, cause, place.where)
    mode = _mode(provision.ca) if provision.enabled and provision.certificates else None
    if mode and not stat.S_ISDIR(mode):
        raise _obstacle(
            loaded, Code.CA_UNUSABLE, f'[provision] ca: found "{provision.ca}", which is not a directory', provision.ca
        )


def _obstacle(loaded: Config, code: Code, cause: str, path: str) -> VtpmError:
    return VtpmError(
        code, f"{loaded.path}: {cause}", remedy=f"see what it is: ls -ld {quote(path)}; name another place"
    )


def _resolved(path: str) -> str:
    """Where links lead to. A mount of ours, and what is below one, is where it is."""
    return path if _is_on_mount(path) else os.path.realpath(path)


def _is_on_mount(path: str) -> bool:
    from swtpm_svc.frontends.fuse import mounts

    return mounts.has_on_it(path)


def _mode(path: str) -> Optional[int]:
    """Of what a path leads to; None: nothing, or it may not be looked at."""
    if _is_on_mount(path):
        return None
    try:
        return os.stat(path).st_mode
    except (OSError, ValueError):
        return None
