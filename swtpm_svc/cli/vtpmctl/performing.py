"""From a row of the table to its report: makes what the command's function is given, and closes it afterwards."""

from typing import Any, Optional

from swtpm_svc.cli.command import Command, Cryptography, Given, Report, load, require_cryptography
from swtpm_svc.cli.vtpmctl.host import Places
from swtpm_svc.errors import Code, VtpmError


def perform(command: Command, values: "dict[str, Any]", places: Places) -> Report:
    """
    Raises:
        VtpmError INSTALLATION: cryptography is needed and missing. And what the command raises.
    """
    if command.cryptography is Cryptography.ALWAYS:
        require_cryptography()
    name = values.get("name")
    if not name:
        return _perform(command, values, places)
    from swtpm_svc.cli.vtpmctl import typed_name

    whole = typed_name.instance(name, places) if command.given is Given.INSTANCE else typed_name.without_unit(name)
    values["name"] = whole
    try:
        return _perform(command, values, places)
    except VtpmError as error:
        typed_name.suggest(error, whole, places)
        raise


def _perform(command: Command, values: "dict[str, Any]", places: Places) -> Report:
    if command.given is Given.DEVICE:
        return _to_device(command, values, places)
    if command.given not in (Given.NOTHING, Given.HOST, Given.INSTANCE):
        return _to_tpm(command, values, places)
    host = () if command.given is Given.NOTHING else (places,)
    report: Report = load(command.function)(*host, **values)
    return report


def _to_device(command: Command, values: "dict[str, Any]", places: Places) -> Report:
    from swtpm_svc.cli.tpm_control import open_device, resolve

    with open_device(resolve(values.pop("name"), places.config)) as device:
        report: Report = load(command.function)(device, **values)
        return _named(report, command, device.target.path)


def _to_tpm(command: Command, values: "dict[str, Any]", places: Places) -> Report:
    from swtpm_svc.cli.passwords import Password
    from swtpm_svc.cli.tpm_connection import TpmConnection, find_tpm
    from swtpm_svc.cli.vtpmctl import naming
    from swtpm_svc.provision import startup
    from swtpm_svc.provision.ownership import connect
    from swtpm_svc.provision.refused import RefusedByTpm
    from swtpm_svc.wire.protocol_error import ProtocolError

    name = values.pop("name")
    if not name:
        raise VtpmError(
            Code.USAGE,
            "no TPM is named",
            remedy="name one: an instance (vtpmctl list), a path, tcp:HOST:PORT or vsock:CID:PORT; or set TPM_DEVICE to it",
        )
    for role in ("owner", "srk"):
        if f"{role}_password_file" in values:
            values[role] = Password.of(role, values)
    target = find_tpm(name, places.config)
    watched = (_record(target.instance, places),) if command.given is Given.WATCHED_TPM else ()
    function = load(command.function)
    try:
        with TpmConnection(target) as connection:
            starts = command.given is Given.STARTED_TPM
            execute = startup.when_needed(connection.execute) if starts else connection.execute
            try:
                report: Report = function(connect(execute), *watched, **values)
            except VtpmError as error:
                naming.name(error, target, takes_control=connection.takes_control)
                raise
    except ProtocolError as error:
        broken = f"{target.name} does not answer as a TPM does: {error}"
        raise VtpmError(Code.PROTOCOL, broken, remedy="name a TPM: vtpmctl list") from error
    except RefusedByTpm as error:
        error.message = f"{target.name}: {error.message}"
        raise
    return _named(report, command, target.path)


def _named(report: Report, command: Command, path: str) -> Report:
    return report._replace(values={"device": path, "operation": command.name, **report.values})


def _record(instance: Optional[str], places: Places) -> "Optional[dict[str, Any]]":
    """What the daemon of the instance knows of its TPM's keys; None: there is no such daemon, or it knows nothing
    yet."""
    from swtpm_svc.cli.vtpmctl.asking import ask_daemon

    if instance is None:
        return None
    try:
        record = ask_daemon(instance, places).get("identity")
    except VtpmError:
        return None
    return record if isinstance(record, dict) else None
