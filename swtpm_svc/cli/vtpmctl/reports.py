"""vtpmctl list, status, check and doctor: what is found, as a `Report`.

Each imports its own part of them only: a status that is asked for every second does not wait for the doctor.
"""

from swtpm_svc.cli.command import Report
from swtpm_svc.cli.vtpmctl import render
from swtpm_svc.cli.vtpmctl.host import Places
from swtpm_svc.errors import Code, VtpmError


def list_instances(places: Places) -> Report:
    from swtpm_svc.cli.vtpmctl import inventory

    entries = inventory.entries(places)
    return Report(render.list_text(entries), render.list_values(entries))


def status(places: Places, *, name: str) -> Report:
    from swtpm_svc.cli.vtpmctl.status import gather

    found = gather(name, places)
    exit_status = found.problems[0].fault.exit_status if found.problems else 0
    return Report(render.status_text(found), render.status_values(found), status=exit_status)


def check(places: Places, *, name: str) -> Report:
    from swtpm_svc.cli.vtpmctl import inventory

    loaded, notes = inventory.check(name, places)
    values = {"path": loaded.path, "config": render.config_values(loaded), "notes": notes}
    return Report(render.config_text(loaded, notes), values)


def doctor(places: Places, *, names: "list[str]", every: bool, failed: bool, ima: bool) -> Report:
    """
    Raises:
        VtpmError USAGE: --all and names at a time, or a name that is none.
    """
    from swtpm_svc.cli.vtpmctl.doctor.examination import examine
    from swtpm_svc.cli.vtpmctl.doctor.findings import FAIL

    if names and every:
        raise VtpmError(Code.USAGE, "--all and names exclude each other", remedy="vtpmctl doctor --help")
    findings = examine(names, places, only_failed=failed)
    if ima:
        from swtpm_svc.cli.vtpmctl.ima import examine as examine_signatures

        findings += examine_signatures()
    wrong = (one.problem for one in findings if one.verdict == FAIL and one.problem is not None)
    exit_status = next((problem.fault.exit_status for problem in wrong), 0)
    return Report(render.doctor_text(findings), render.doctor_values(findings, exit_status), status=exit_status)
