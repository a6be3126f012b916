"""The examination: which questions are asked, of the host and of which instances, and in which order."""

from typing import Optional

from swtpm_svc.cli.vtpmctl import inventory, status, typed_name
from swtpm_svc.cli.vtpmctl.condition import Kind
from swtpm_svc.cli.vtpmctl.doctor import ca_checks, configuration_checks, host_checks, instance_checks, selinux_checks
from swtpm_svc.cli.vtpmctl.doctor.findings import FAIL, Finding, bad
from swtpm_svc.cli.vtpmctl.host import Places
from swtpm_svc.cli.vtpmctl.status import Status
from swtpm_svc.config import loading
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.service.identity import clones

#: Conditions of an instance that somebody has to do something about.
_BAD = (Kind.RESTARTING, Kind.FAILED, Kind.SILENT)


def examine(names: "list[str]", places: Places, *, only_failed: bool = False) -> "list[Finding]":
    """All findings about the host and these instances; none are named: all that there are. `only_failed`: of these, those
    that have failed, hang, or are started again and again.

    Raises:
        VtpmError USAGE: that is not a name for an instance.
    """
    missing: list[Finding] = []
    found: list[Status] = []
    try:
        # no configurations, or not the one that was asked for: that is found of the host, which is examined all the
        # same
        wanted = [loading.check_instance(typed_name.instance(name, places)) for name in names] or inventory.names(
            places
        )
        found = status.gather_all(wanted, places)
    except VtpmError as error:
        if error.code is Code.USAGE:
            raise
        missing.append(Finding(FAIL, "instances", error.message, error))
    examined = [one for one in found if not only_failed or one.condition.kind in _BAD]
    findings = [*host_checks.examine(found), *configuration_checks.examine(found, places), *missing]
    others = inventory.neighbours([one.config for one in found if one.config is not None])
    for one in examined:
        absent = _absent(one, places)
        findings += [absent] if absent else instance_checks.examine(one, others, places)
    return [*findings, *_clones(), *ca_checks.authorities(examined), *selinux_checks.examine(examined)]


def _absent(found: Status, places: Places) -> Optional[Finding]:
    """There is no such instance, running or not."""
    missing = status.missing(found)
    if missing is None:
        return None
    typed_name.suggest(missing, found.instance, places)
    return Finding(FAIL, found.instance, missing.message, missing)


def _clones() -> "list[Finding]":
    """Instances that are served with one TPM: the state of all but one is a copy."""
    return [
        bad(
            "copies",
            f"{', '.join(names)} have the same TPM: one state is a copy of the other",
            f"vtpmctl identity {names[0]} shows its keys; stop the copy, move its state away, and make it a TPM of its "
            "own",
            code=Code.ALREADY_PROVISIONED,
        )
        for names in clones.shared()
    ]
