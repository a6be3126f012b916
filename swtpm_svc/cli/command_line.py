"""A program's command line, as its table says it: argparse's part, and its errors as ours."""

import argparse
import os
import re
import sys
from collections.abc import Iterable
from typing import Any, NoReturn, Optional

from swtpm_svc import __version__
from swtpm_svc.cli import output
from swtpm_svc.cli.command import Argument, Command, Program, load
from swtpm_svc.errors import Code, VtpmError

#: What argparse says of a word that is none of those that can be chosen; before 3.12 it quotes each of these.
_INVALID_CHOICE = re.compile(r"(.*invalid choice: '([^']*)')( \(choose from .*\))")
_WORDS = re.compile(r"[^\s,'()]+")


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """What to add to the complaint about a word: the one of `words` that it looks like, if there is one."""
    from difflib import get_close_matches

    found = get_close_matches(word, list(words), 1)
    return f"; did you mean {found[0]}?" if found else ""


class _Parser(argparse.ArgumentParser):
    #: Of the parser of all commands.
    program: Optional[Program] = None

    def format_help(self) -> str:
        program = self.program
        return _grouped_help(self, program) if program and program.headings else super().format_help()

    def error(self, message: str) -> NoReturn:
        found = _INVALID_CHOICE.match(message)
        if found:
            message = found[1] + did_you_mean(found[2], _WORDS.findall(found[3])) + found[3]
        raise VtpmError(Code.USAGE, message, remedy=f"{self.prog} --help")

    def _print_message(self, message: str, file: object = None) -> None:
        # --help and --version; argparse's own way leaves a full disk or a closed pipe to the interpreter's end
        output.write(sys.stdout, _emphasized(message))


def parse(program: Program, arguments: "list[str]") -> "tuple[Command, dict[str, Any]]":
    """What was chosen, and the values of all arguments by name: those of the program's own, too.

    Only the chosen command's parser is made, and only what its values need is imported: to make all parsers takes as
    long as many a command. Where none is chosen the help has their names.

    Raises:
        VtpmError USAGE: the command line is wrong.
        SystemExit: --help or --version was printed.
    """
    chosen = next((word for word in arguments if not word.startswith("-")), "")  # no option before it has a value
    parser = make_parser(program, chosen)
    values = vars(parser.parse_args(arguments))
    return program.find(values.pop("command"), values.pop("action", None)), values


def make_parser(program: Program, chosen: Optional[str] = None) -> argparse.ArgumentParser:
    """`chosen`: the only command that is wanted; one that does not exist: all, by name only; None: all, whole."""
    parser = _Parser(
        prog=program.name, description=program.description, epilog=program.epilog or None, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"{program.name} {__version__}")
    for argument in (*program.everywhere, *program.arguments):
        _add(parser, argument)
    parser.program = program
    if program.commands:
        commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
        rows = tuple(row for row in program.commands if row.name == chosen)
        _add_commands(commands, program, rows or program.commands, whole=bool(rows) or chosen is None)
    return parser


def _emphasized(text: str) -> str:
    """The headings of a help, on a terminal."""
    if not sys.stdout or not sys.stdout.isatty():
        return text
    from swtpm_svc.cli import terminal

    return terminal.paint(text, terminal.HEADINGS) if terminal.has_colour(sys.stdout) else text


def _grouped_help(parser: argparse.ArgumentParser, program: Program) -> str:
    """What argparse says, but with the commands below headings: forty of them in a row are not looked through."""
    rows = {row.name: row for row in program.commands}
    width = max(map(len, rows)) + 2
    lines = [parser.format_usage().rstrip(), "", program.description]
    for heading, names in program.headings:
        lines += ["", f"{heading}:", *(f"    {name:<{width}}{rows[name].help}" for name in names)]
    lines += ["", "options:", f"    {'-h, --help':<{width}}show this help, or with a command its own"]
    lines += [f"    {'--version':<{width}}show the version"]
    lines += [f"    {', '.join(one.names):<{width}}{one.help}" for one in (*program.everywhere, *program.arguments)]
    return "\n".join([*lines, *(["", program.epilog] if program.epilog else [])]) + "\n"


def _add_commands(commands: Any, program: Program, rows: "tuple[Command, ...]", *, whole: bool) -> None:
    for row in rows:
        parser = commands.add_parser(
            row.name, help=row.help, description=row.help[0].upper() + row.help[1:] + ".", allow_abbrev=False
        )
        if not whole:
            continue
        for argument in program.everywhere:
            _add(parser, argument, again=True)
        if row.actions:
            actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
            _add_commands(actions, program, row.actions, whole=True)
        for argument in row.arguments:
            _add(parser, argument)


def _add(parser: argparse.ArgumentParser, argument: Argument, *, again: bool = False) -> None:
    """`again`: the option stands before the command, too, and its absence here changes nothing there."""
    options: dict[str, Any] = {"help": argument.help}
    if argument.takes_value:
        options["type"] = load(argument.type) if isinstance(argument.type, str) else argument.type
        options["default"] = os.environ.get(argument.variable) if argument.variable else argument.default
        options.update(
            nargs="*" if argument.many else "?" if argument.optional else None, choices=argument.choices or None
        )
        options["metavar"] = argument.metavar or None
    else:
        options.update(action="store_true", default=False)
    if again:
        options["default"] = argparse.SUPPRESS
    if argument.dest:
        options["dest"] = argument.dest
    parser.add_argument(*argument.names, **options)
