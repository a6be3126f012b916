"""vtpmctl, the administrator's command: documented in vtpmctl(8).

Arguments in, one call, text or JSON out. A failure is one line of cause and one of remedy on standard error, with the
exit status of its code in errors.TABLE; with --json also an object on standard output. There is never a traceback.
"""

import gc
import signal
import sys
from typing import TYPE_CHECKING, Optional

from swtpm_svc.cli import output
from swtpm_svc.errors import Code, VtpmError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from swtpm_svc.cli.vtpmctl.host import Places

PACKAGE = __file__.rpartition("cli/")[0]
# The shells' convention for "ended by signal N": 128 + N.
STATUS_INTERRUPTED = 130
STATUS_BROKEN_PIPE = 141


def main(arguments: "Optional[list[str]]" = None, places: "Optional[Places]" = None) -> int:
    """Run one command and return the exit status. Without `arguments` it is the process's own, which then ends."""
    if arguments is not None:
        return _main(arguments, places)
    gc.disable()  # in so short a life the collector only looks through what was imported
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
        signal.signal(signal.SIGINT, signal.default_int_handler)  # start.py's; from here on KeyboardInterrupt is caught
    # imported here: an interrupt or a broken installation is then reported as everything else is
    from swtpm_svc.cli import command_line
    from swtpm_svc.cli.vtpmctl.commands import PROGRAM

    command, values = command_line.parse(PROGRAM, arguments)
    from swtpm_svc.cli.vtpmctl.host import Places
    from swtpm_svc.cli.vtpmctl.performing import perform

    as_json, name = values.pop("json"), values.get("name")
    if command.streams:
        values["as_json"] = as_json
    try:
        with _sign_of_life(command.waiting):
            report = perform(command, values, places or Places())
    except VtpmError as error:
        error.of(name or "INSTANCE")
        raise
    if command.streams:
        pass
    elif as_json:
        import json

        output.write(sys.stdout, json.dumps(report.values, indent=2) + "\n")
    elif report.data:
        output.write_data(sys.stdout, report.data)
    else:
        output.write(sys.stdout, _painted(report.text, command.name) + "\n")
    return report.status


def _sign_of_life(doing: str) -> "AbstractContextManager[None]":
    from contextlib import nullcontext

    if not doing:
        return nullcontext()
    from swtpm_svc.cli.terminal import sign_of_life

    return sign_of_life(doing)


def _painted(text: str, command: str) -> str:
    """As a terminal shows it."""
    if not sys.stdout or not sys.stdout.isatty():
        return text
    from swtpm_svc.cli import terminal
    from swtpm_svc.cli.vtpmctl import looks

    return terminal.paint(text, looks.REPORTS.get(command, ())) if terminal.has_colour(sys.stdout) else text


def _painted_error(text: str) -> str:
    from swtpm_svc.cli import terminal
    from swtpm_svc.cli.vtpmctl import looks

    return terminal.paint(text, looks.ERROR) if terminal.has_colour(sys.stderr) else text


def _report(error: VtpmError, arguments: "list[str]") -> int:
    try:
        if "--json" in arguments:
            import json

            output.write(sys.stdout, json.dumps({"error": output.error_values(error)}, indent=2) + "\n")
        text = error.report("vtpmctl")
        if sys.stderr and sys.stderr.isatty():
            text = _painted_error(text)
        output.write(sys.stderr, text + "\n")
    except (OSError, VtpmError):
        pass  # nobody can be told
    return error.fault.exit_status


if __name__ == "__main__":
    sys.exit(main())
