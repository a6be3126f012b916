"""vtpmctl's command line: the commands' tables as argparse wants them, and its errors as ours.

A parser for all the commands, with all that they import, takes longer than many a command: a report has one of its own.
"""

import argparse
import os
import sys
from typing import NoReturn

from swtpm_svc import __version__
from swtpm_svc.cli import output
from swtpm_svc.cli.vtpmctl import create, rekey
from swtpm_svc.cli.vtpmctl.command import Argument
from swtpm_svc.errors import Code, VtpmError

TARGET = "an instance (vtpmctl list), or a device's path such as /dev/vtpm0"
ANY_TPM = f"{TARGET}, a socket's, or tcp:HOST:PORT; default: $TPM_DEVICE"

#: The commands that are no control operations: help, the argument's placeholder, the argument's help.
REPORTS = {
    "list": ("list the instances", None, ""),
    "status": ("show what is known about an instance", "NAME", "an instance (vtpmctl list), or a path that is its own"),
    "check": ("check a configuration without starting anything", "NAME|FILE", "an instance, or the path of a file"),
    "doctor": (
        "examine this host: accounts, devices, SELinux",
        "[NAME]",
        "an instance; without it all that are configured",
    ),
    "create": ("make a TPM as a manufacturer does, and its configuration", "NAME", "the new instance's name"),
    "rekey": ("encrypt the state of a stopped instance with another key", "NAME", "an instance, see vtpmctl list"),
}
#: Their options, which take no value.
REPORT_OPTIONS = {"doctor": {"--ima": "compare each installed file with its IMA signature"}}

#: Their other arguments.
REPORT_ARGUMENTS = {"create": create.ARGUMENTS, "rekey": rekey.ARGUMENTS}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise VtpmError(Code.USAGE, message, remedy=f"{self.prog} --help")

    def _print_message(self, message: str, file: object = None) -> None:
        # --help and --version; argparse's own way leaves a full disk or a closed pipe to the interpreter's end
        output.write(sys.stdout, message)


def parse(arguments: "list[str]") -> argparse.Namespace:
    """The namespace has `command`, `json`, `name` (but for list and ca; None: left out), and the command's own
    arguments by name.

    That of ca has `action` and `directory`.

    Raises:
        VtpmError USAGE: the command line is wrong.
        SystemExit: --help or --version was printed.
    """
    command = next((word for word in arguments if not word.startswith("-")), None)  # no option before it takes a value
    parser, commands = _parser()
    if command in REPORTS:
        _add_report(commands, command)
    else:
        _add_all(commands)
    return parser.parse_args(arguments)


def _parser() -> "tuple[_Parser, argparse._SubParsersAction[_Parser]]":
    parser = _Parser(
        prog="vtpmctl",
        description="Look at and control virtual TPMs.",
        epilog="Exit statuses and all details: vtpmctl(8)",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"vtpmctl {__version__}")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser, parser.add_subparsers(dest="command", metavar="COMMAND", required=True)


def _add_report(commands: "argparse._SubParsersAction[_Parser]", name: str) -> None:
    help_text, placeholder, argument_help = REPORTS[name]
    command = _command(commands, name, help_text)
    if placeholder:
        optional = placeholder.startswith("[")
        command.add_argument(
            "name", metavar=placeholder.strip("[]"), nargs="?" if optional else None, help=argument_help
        )
    for option, option_help in REPORT_OPTIONS.get(name, {}).items():
        command.add_argument(option, action="store_true", help=option_help)
    _add_arguments(command, REPORT_ARGUMENTS.get(name, ()))


def _add_all(commands: "argparse._SubParsersAction[_Parser]") -> None:
    from swtpm_svc.cli.vtpmctl.authority import GROUPS, PLACE
    from swtpm_svc.cli.vtpmctl.operations import OPERATIONS
    from swtpm_svc.cli.vtpmctl.tpm_commands import TPM_COMMANDS

    for name in REPORTS:
        _add_report(commands, name)
    for name, operation in {**OPERATIONS, **TPM_COMMANDS}.items():
        command = _command(commands, name, operation.help)
        if name in OPERATIONS:
            command.add_argument("name", metavar="NAME", help=TARGET)
        else:
            command.add_argument("name", metavar="NAME", nargs="?", default=os.environ.get("TPM_DEVICE"), help=ANY_TPM)
        _add_arguments(command, operation.arguments)
    for name, (help_text, actions) in GROUPS.items():
        subcommands = _command(commands, name, help_text).add_subparsers(dest="action", metavar="ACTION", required=True)
        for action, operation in actions.items():
            _add_arguments(_command(subcommands, action, operation.help), (*operation.arguments, PLACE))


def _add_arguments(command: _Parser, arguments: "tuple[Argument, ...]") -> None:
    for argument in arguments:
        command.add_argument(*argument.names, help=argument.help, **argument.options)


def _command(commands: "argparse._SubParsersAction[_Parser]", name: str, help_text: str) -> _Parser:
    command = commands.add_parser(
        name, help=help_text, description=help_text[0].upper() + help_text[1:] + ".", allow_abbrev=False
    )
    # SUPPRESS: a --json before the command is not undone by its absence after it
    command.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    return command
