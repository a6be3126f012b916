"""vtpmctl, the administrator's command: documented in vtpmctl(8).

Arguments in, one call, text or JSON out. A failure is one line of cause and one of remedy on standard error, with the
exit status of its code in errors.TABLE; with --json also an object on standard output. There is never a traceback.
"""

import gc
import signal
import sys
from typing import TYPE_CHECKING, Any, Optional

from swtpm_svc.cli import output
from swtpm_svc.errors import Code, VtpmError

if TYPE_CHECKING:
    import argparse

    from swtpm_svc.cli.vtpmctl.status import Places

PACKAGE = __file__.rpartition("cli/")[0]
# The shells' convention for "ended by signal N": 128 + N.
STATUS_INTERRUPTED = 130
STATUS_BROKEN_PIPE = 141


def main(arguments: "Optional[list[str]]" = None, places: "Optional[Places]" = None) -> int:
    """Run one command and return the exit status. Without `arguments` it is the process's own, which then ends."""
    if arguments is not None:
        return _main(arguments, places)
    gc.disable()  # in so short a life all that the collector does is to look through what was imported
    try:
        return _main(sys.argv[1:], places)
    finally:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(
                signal.SIGINT, signal.SIG_DFL
            )  # what is said was said: from here on an interrupt is a quiet end
        gc.freeze()  # nor at the end of it (measured for create, on a busy machine: 45 ms become 15)


def _main(arguments: "list[str]", places: "Optional[Places]") -> int:
    try:
        return _run(arguments, places)
    except BrokenPipeError:
        return STATUS_BROKEN_PIPE
    except SystemExit as leaving:  # argparse has printed the help or the version
        return leaving.code if isinstance(leaving.code, int) else 0
    except KeyboardInterrupt:
        return STATUS_INTERRUPTED
    except VtpmError as error:
        return _report(error, arguments)
    except Exception as error:
        if isinstance(error, PermissionError) and str(error.filename).startswith(PACKAGE):  # IMA refuses a module
            remedy = "/usr/libexec/vtpm/vtpm-ima verify says which files are not as they were signed"
            refused = VtpmError(Code.INSTALLATION, f"a part of the program cannot be read: {error}", remedy=remedy)
            return _report(refused, arguments)
        cause = (str(error).splitlines() or [""])[0]
        fault = VtpmError(
            Code.INTERNAL,
            f"a fault of this program ({type(error).__name__}: {cause})",
            remedy="please report it, with this line",
        )
        return _report(fault, arguments)


def _run(arguments: "list[str]", places: "Optional[Places]") -> int:
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # of start.py: from here on there is who takes it
    # imported here: an interrupt or a broken installation is then reported as everything else is
    from swtpm_svc.cli.vtpmctl import parser

    options = parser.parse(arguments)
    try:
        return _perform(options, places)
    except VtpmError as error:
        error.of(getattr(options, "name", None) or "NAME")
        raise


def _perform(options: "argparse.Namespace", places: "Optional[Places]") -> int:
    if options.command == "create":  # before what it does not need is imported
        return _create(options, places)
    from swtpm_svc.cli.vtpmctl import render
    from swtpm_svc.cli.vtpmctl.operations import OPERATIONS
    from swtpm_svc.cli.vtpmctl.status import Places

    places = places or Places()
    if options.command == "list":
        from swtpm_svc.cli.vtpmctl import inventory

        entries = inventory.entries(places)
        _print(options, render.list_text(entries), render.list_values(entries))
        return 0
    if options.command == "status":
        from swtpm_svc.cli.vtpmctl import status

        found = status.gather(options.name, places)
        _print(options, render.status_text(found), render.status_values(found))
        return found.problems[0].fault.exit_status if found.problems else 0
    if options.command == "check":
        from swtpm_svc.cli.vtpmctl import inventory

        loaded, notes = inventory.check(options.name, places)
        values = {"path": loaded.path, "config": render.config_values(loaded), "notes": notes}
        _print(options, render.config_text(loaded, notes), values)
        return 0
    if options.command == "doctor":
        from swtpm_svc.cli.vtpmctl import doctor

        findings = doctor.examine(options.name, places)
        if options.ima:
            from swtpm_svc.cli.vtpmctl import ima

            findings += ima.examine()
        _print(options, render.doctor_text(findings), render.doctor_values(findings))
        failed = (one.problem for one in findings if one.verdict == doctor.FAIL and one.problem is not None)
        return next((problem.fault.exit_status for problem in failed), 0)
    if options.command == "rekey":
        from swtpm_svc.cli.vtpmctl import rekey

        report = rekey.run(options.name, options.old, options.new, places.config)
        _print(options, report.text, report.values)
        return 0
    if options.command == "ca":
        from swtpm_svc.cli.vtpmctl import authority

        report = authority.run(options)
        _print(options, report.text, report.values)
        return 0
    return _operate(options, places) if options.command in OPERATIONS else _command_tpm(options, places)


def _create(options: "argparse.Namespace", places: "Optional[Places]") -> int:
    from swtpm_svc.cli.vtpmctl import create
    from swtpm_svc.config import loading

    values = {name: value for name, value in vars(options).items() if name not in ("command", "json", "name")}
    report = create.run(options.name, values, places.config if places else loading.CONFIG_DIRECTORY)
    _print(options, report.text, report.values)
    return 0


def _operate(options: "argparse.Namespace", places: "Places") -> int:
    from swtpm_svc.cli.tpm_control import open_device, resolve
    from swtpm_svc.cli.vtpmctl.operations import OPERATIONS

    values = vars(options).copy()
    operation = OPERATIONS[values.pop("command")]
    name = values.pop("name")
    values.pop("json")
    with open_device(resolve(name, places.config)) as device:
        report = operation.run(device, **values)
        _print(options, report.text, {"device": device.target.path, "operation": options.command, **report.values})
    return 0


def _command_tpm(options: "argparse.Namespace", places: "Places") -> int:
    from swtpm_svc.cli.passwords import Password
    from swtpm_svc.cli.tpm_connection import TpmConnection, find_tpm, tcti
    from swtpm_svc.cli.vtpmctl.owner_commands import STARTING
    from swtpm_svc.cli.vtpmctl.tpm_commands import TPM_COMMANDS
    from swtpm_svc.provision import startup
    from swtpm_svc.provision.ownership import connect
    from swtpm_svc.provision.refused import RefusedByTpm
    from swtpm_svc.wire.protocol_error import ProtocolError

    values = vars(options).copy()
    command, name = TPM_COMMANDS[values.pop("command")], values.pop("name")
    values.pop("json")
    if not name:
        raise VtpmError(
            Code.USAGE,
            "no TPM is named",
            remedy="name one: an instance (vtpmctl list), a path or tcp:HOST:PORT; or set TPM_DEVICE to it",
        )
    for role in ("owner", "srk"):
        if f"{role}_password_file" in values:
            values[role] = Password.of(role, values)
    target = find_tpm(name, places.config)
    if options.command == "identity":
        values["record"] = _identity_record(target.instance, places)
    try:
        import cryptography  # noqa: F401 - before anything is changed: a key that was made could not be shown without it
    except ImportError as error:
        raise VtpmError(
            Code.INSTALLATION, f"the cryptography package is missing ({error})", remedy="install python3-cryptography"
        ) from error
    try:
        with TpmConnection(target) as connection:
            starts = options.command in STARTING
            execute = startup.when_needed(connection.execute) if starts else connection.execute
            report = command.run(connect(execute), **values)
    except ProtocolError as error:
        broken = f"{target.name} does not answer as a TPM does: {error}"
        raise VtpmError(Code.PROTOCOL, broken, remedy="name a TPM: vtpmctl list") from error
    except VtpmError as error:
        if isinstance(error, RefusedByTpm):
            error.message = f"{target.name}: {error.message}"
        error.of(target.name, tcti(target))
        raise
    if report.data and not options.json:
        output.write_data(sys.stdout, report.data)
    else:
        _print(options, report.text, {"device": target.path, "operation": options.command, **report.values})
    return 0


def _identity_record(instance: "Optional[str]", places: "Places") -> "Optional[dict[str, Any]]":
    """What the daemon of the instance knows of its TPM's keys; None: there is no such daemon, or it knows nothing
    yet."""
    from swtpm_svc.cli.vtpmctl.status import ask_daemon

    if instance is None:
        return None
    try:
        record = ask_daemon(instance, places).get("identity")
    except VtpmError:
        return None
    return record if isinstance(record, dict) else None


def _print(options: "argparse.Namespace", text: str, values: Any) -> None:
    if options.json:
        import json

        text = json.dumps(values, indent=2)
    output.write(sys.stdout, text + "\n")


def _report(error: VtpmError, arguments: "list[str]") -> int:
    try:
        if "--json" in arguments:
            import json

            from swtpm_svc.cli.vtpmctl import render

            output.write(sys.stdout, json.dumps({"error": render.error_values(error)}, indent=2) + "\n")
        output.write(sys.stderr, error.report("vtpmctl") + "\n")
    except (OSError, VtpmError):
        pass  # nobody can be told
    return error.fault.exit_status


if __name__ == "__main__":
    sys.exit(main())
