"""Instances by the names that people type: x, vtpm@x, vtpm@x.service, /dev/x; and a word for who mistypes one."""

import re

from swtpm_svc.cli.command_line import did_you_mean
from swtpm_svc.cli.vtpmctl.host import Places
from swtpm_svc.config import loading
from swtpm_svc.errors import Code, VtpmError

_UNIT = re.compile(r"vtpm@([^/]+?)(?:\.(?:service|socket))?")


def without_unit(name: str) -> str:
    """The instance's own name, where its unit was named."""
    found = _UNIT.fullmatch(name)
    return found[1] if found else name


def instance(name: str, places: Places) -> str:
    """The instance's name, whichever way it was typed: also by a path that is its own, that of its device or a socket.

    Raises:
        VtpmError USAGE: it is not a name, or no configuration has the path.
    """
    if not name.startswith("/"):
        return loading.check_instance(without_unit(name))
    found = loading.instance_at(name, places.config)
    if found is None:
        cause = f"no configuration in {places.config} has {name}"
        raise VtpmError(Code.USAGE, cause, remedy="name an instance: vtpmctl list has them, with their devices")
    return found


def suggest(error: VtpmError, name: str, places: Places) -> None:
    """Add the name that was meant, perhaps, to the error about an instance that there is not."""
    if error.code is not Code.CONFIG_MISSING or "/" in name:
        return
    try:
        meant = did_you_mean(without_unit(name), loading.instances(places.config))
    except VtpmError:
        return
    error.message += meant
