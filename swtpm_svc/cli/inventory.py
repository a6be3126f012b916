"""All instances at a glance (`list`), and one configuration looked at before it is started (`check`)."""

import os
from typing import Any, NamedTuple, Optional

from swtpm_svc.cli.status import Places, ask_daemon, ask_systemd
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.service import config
from swtpm_svc.service.config import Config
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
    names = sorted({*config.instances(places.config), *_running(places)})
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
        config.check_instance(name)
    except VtpmError:
        return False
    return True


def _entry(instance: str, active: Optional[str], places: Places) -> Entry:
    loaded, power, error = None, None, None
    try:
        power = _power(ask_daemon(instance, places))
    except VtpmError as unreachable:
        # that a service which is not started does not answer is no news
        error = unreachable if unreachable.code is not Code.DAEMON_UNREACHABLE else None
    try:
        loaded = config.load(f"{places.config}/{instance}.toml", instance)
    except VtpmError as wrong:
        error = wrong
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
        VtpmError DEVICE_NAME_TAKEN, STATE_LOCKED: another instance's configuration has the same device or state.
    """
    if "/" in name or name.endswith(".toml"):
        instance = os.path.basename(name)
        instance = instance[: -len(".toml")] if instance.endswith(".toml") else instance
        loaded = config.load(name, instance)
    else:
        loaded = config.load(f"{places.config}/{config.check_instance(name)}.toml", name)
    if loaded.device.enabled:
        config.user_id(loaded.device.owner)
        config.group_id(loaded.device.group)
    _refuse_sharing(loaded, places)
    return loaded, [*_notes(loaded), *_check_keys(loaded)]


def _notes(loaded: Config) -> "list[str]":
    notes = []
    try:
        config.group_id(loaded.control.group)
    except VtpmError as error:
        notes.append(f"{error.message}: only root and the service's user may use the control operations")
    if loaded.tpm.power_on == "manual" and loaded.tpm.startup != "none":
        notes.append(f'startup = "{loaded.tpm.startup}" has no effect with power-on = "manual"')
    return notes


def _check_keys(loaded: Config) -> "list[str]":
    """Key files as the service would see them; only root can look for it. A credential is not there before the unit runs."""
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
            notes.append(f"{source.name} cannot be read by user vtpm: chgrp vtpm and chmod 0640, if the service runs as vtpm")
    return notes


def _refuse_sharing(loaded: Config, places: Places) -> None:
    try:
        names = config.instances(places.config)
    except VtpmError:
        return  # a file that is checked where nothing is installed
    for name in names:
        if name == loaded.instance:
            continue
        try:
            other = config.load(f"{places.config}/{name}.toml", name)
        except VtpmError:
            continue
        if loaded.device.enabled and other.device.enabled and other.device.name == loaded.device.name:
            raise VtpmError(
                Code.DEVICE_NAME_TAKEN,
                f'{loaded.path}: [device] name: found "{loaded.device.name}", which {other.path} has too',
                remedy="give one of them another name",
            )
        if other.state.directory == loaded.state.directory:
            raise VtpmError(
                Code.STATE_LOCKED,
                f'{loaded.path}: [state] directory: found "{loaded.state.directory}", which {other.path} has too',
                remedy="give each TPM a directory of its own",
            )
