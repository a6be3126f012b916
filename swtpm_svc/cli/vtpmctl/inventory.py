"""All instances at a glance (`list`), and one configuration looked at before it is started (`check`)."""

import os
import stat
from typing import Any, NamedTuple, Optional

from swtpm_svc.cli.vtpmctl.host import Places
from swtpm_svc.cli.vtpmctl.status import ask_daemon, ask_systemd
from swtpm_svc.config import loading
from swtpm_svc.config import places as configured
from swtpm_svc.config.loading import Config
from swtpm_svc.config.name_order import natural
from swtpm_svc.errors import Code, VtpmError, quote
from swtpm_svc.service.privileges import find_account
from swtpm_svc.state import keys


class Entry(NamedTuple):
    """One instance in the list. `active` is systemd's word, `power` the daemon's; None: not known, `error`: why not."""

    instance: str
    config: Optional[Config]
    active: Optional[str]
    power: Optional[str]
    error: Optional[VtpmError]


def entries(places: Places) -> "list[Entry]":
    """Every instance with a configuration, and those that run without one (vtpmd --config).

    Raises:
        VtpmError CONFIG_MISSING, CONFIG_UNREADABLE: there is no directory of configurations.
    """
    names = sorted({*loading.instances(places.config), *_running(places)}, key=natural)
    units = ask_systemd(names) if names else []
    return [_entry(name, (unit.properties or {}).get("ActiveState"), places) for name, unit in zip(names, units)]


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


def _entry(instance: str, active: Optional[str], places: Places) -> Entry:
    loaded, power, error = None, None, None
    try:
        power = _power(ask_daemon(instance, places))
    except VtpmError as unreachable:
        # a service that is not started cannot answer: there is nothing to tell
        error = unreachable if unreachable.code is not Code.DAEMON_UNREACHABLE else None
    try:
        loaded = loading.load(f"{places.config}/{instance}.toml", instance)
    except VtpmError as wrong:
        error = wrong.of(instance)
    return Entry(instance, loaded, active, power, error)


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
    if loaded.device.enabled:
        loading.user_id(loaded.device.owner)
        loading.group_id(loaded.device.group)
    _refuse_sharing(loaded, places)
    _refuse_obstacles(loaded, places)
    return loaded, [*_notes(loaded), *_check_keys(loaded)]


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


def _refuse_sharing(loaded: Config, places: Places) -> None:
    try:
        names = loading.instances(places.config)
    except VtpmError:
        return  # a file that is checked where nothing is installed
    for name in names:
        if name == loaded.instance:
            continue
        try:
            other = loading.load(f"{places.config}/{name}.toml", name)
        except VtpmError:
            continue
        if loaded.device.enabled and other.device.enabled and other.device.name == loaded.device.name:
            raise VtpmError(
                Code.DEVICE_NAME_TAKEN,
                f'{loaded.path}: [device] name: found "{loaded.device.name}", which {other.path} has too',
                remedy="give one of them another name",
            )
        number = (loaded.device.major, loaded.device.minor)
        if (
            loaded.device.enabled
            and other.device.enabled
            and number[0]
            and number == (other.device.major, other.device.minor)
        ):
            raise VtpmError(
                Code.DEVICE_NUMBER_TAKEN,
                f"{loaded.path}: [device] major, minor: found {number[0]} and {number[1]}, which {other.path} has too",
                remedy="give one of them other numbers, or leave them out: the kernel then chooses",
            )
        configured.refuse_shared(loaded, other, _resolved)


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
