#!/usr/bin/env python3
"""make_completion.py [FOLDER]: the completion of bash, zsh and fish, from the programs' tables; `make completion`.

What the scripts do is in tools/completion; here is what they know. The result (packaging/completion) is in the tree, so
that a package needs no Python of ours to be built with.
tests/unit/cli/test_completion.py says when it is out of date, and asks all three shells.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Union

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from swtpm_svc.cli.command import Argument, Command, Offer, Program  # noqa: E402
from swtpm_svc.cli.vtpmctl.commands import PROGRAM as VTPMCTL  # noqa: E402
from swtpm_svc.service import options as vtpmd  # noqa: E402

MADE = "made by tools/make_completion.py: change the table of commands instead"
HELP = Argument(("--help",), "show the help")
VERSION = Argument(("--version",), "show the version")
#: So many values of an argument that there may be many of are completed in bash and fish.
MANY = 16
#: What vtpmd's help calls a value.
PLACEHOLDERS = {"NAME": Offer.INSTANCE, "FILE": Offer.FILE, "USER": Offer.USER}


def daemon() -> Program:
    """vtpmd, whose start waits for no table: from its help."""
    found = re.findall(r"^  (?:(--[a-z]+)(?: ([A-Z]+))?|([A-Z]+)) {2,}(.+)$", vtpmd.HELP, re.MULTILINE)
    arguments = [
        Argument((option or place,), text, value or place, PLACEHOLDERS.get(value or place, Offer.NOTHING))
        for option, value, place, text in found
    ]
    return Program("vtpmd", "Serve a software TPM.", arguments=tuple(arguments))


class Context(NamedTuple):
    """What can follow: `words` of the command line so far choose it. `commands`: one of them comes next."""

    words: str
    options: "tuple[Argument, ...]"
    places: "tuple[Argument, ...]" = ()
    commands: "tuple[Command, ...]" = ()

    @property
    def valued(self) -> "list[str]":
        return [name for option in self.options if option.takes_value for name in option.names]


def contexts(program: Program) -> Iterator[Context]:
    options = tuple(one for one in program.arguments if one.is_option)
    places = tuple(one for one in program.arguments if not one.is_option)
    if not program.commands:
        yield Context("", options, places)
        return
    everywhere = (HELP, *program.everywhere)
    yield Context("", (*everywhere, VERSION, *options), places, program.commands)
    for command in program.commands:
        yield Context(command.name, (*everywhere, *command.options), command.places, command.actions)
        for action in command.actions:
            yield Context(f"{command.name} {action.name}", (*everywhere, *action.options), action.places)


Offered = Union[Offer, "tuple[str, ...]"]


def offers(program: Program) -> "Iterator[tuple[str, Offered]]":
    """For each value of an option "CONTEXT:OPTION", and for each argument "CONTEXT:NUMBER": what is offered."""
    for context in contexts(program):
        for option in context.options:
            if option.takes_value:
                yield from ((f"{context.words}:{name}", option.offered) for name in option.names)
        for number, place in enumerate(context.places):
            for again in range(MANY if place.many else 1):
                yield f"{context.words}:{number + again}", place.offered
        if context.commands:
            yield f"{context.words}:{len(context.places)}", tuple(command.name for command in context.commands)


def groups(program: Program) -> "list[str]":
    return [command.name for command in program.commands if command.actions]


# --- bash ------------------------------------------------------------------------------------------------------------


def _bash_do(name: str, offered: Offered) -> "list[str]":
    if isinstance(offered, tuple):
        words = "\\n".join(offered)
        return [f"_{name}_offer \"$current\" <<<$'{words}'"]
    instances = f'_{name}_offer "$current" < <(_{name}_instances)'
    files = f'_{name}_paths -f "$current"'
    return {
        Offer.NOTHING: [":"],
        Offer.FILE: [files],
        Offer.DIRECTORY: [f'_{name}_paths -d "$current"'],
        Offer.INSTANCE: [instances],
        Offer.INSTANCE_OR_PATH: [
            "if [[ $current == */* ]]; then",
            f"    {files}",
            "else",
            f"    {instances}",
            "fi",
        ],
        Offer.USER: [f'_{name}_offer "$current" < <(compgen -u -- "$current")'],
        Offer.GROUP: [f'_{name}_offer "$current" < <(compgen -g -- "$current")'],
    }[offered]


def bash(program: Program) -> str:
    options, next_words, by_offer = [], [], {}
    for context in contexts(program):
        names = " ".join(name for option in context.options for name in option.names)
        options.append(f"    '{context.words}')")
        options += [f"        options='{names}'", f"        valued='{' '.join(context.valued)}'", "        ;;"]
        if context.commands:
            chosen = f"{context.words} $word" if context.words else "$word"
            next_words.append(f"            '{context.words}')")
            next_words += [f'                context="{chosen}"', f'                _{program.name}_options "$context"']
            next_words.append("                ;;")
    for where, offered in offers(program):
        if offered is not Offer.NOTHING:
            by_offer.setdefault(offered, []).append(f"'{where}'")
    branches: list[str] = []
    for offered, places in by_offer.items():
        lines = [f"        {line}" for line in _bash_do(program.name, offered)]
        branches += [f"    {' | '.join(places)})", *lines, "        ;;"]
    texts = {"NAME": program.name, "MADE": MADE, "OPTIONS": options, "NEXT": next_words, "OFFERS": branches}
    return _filled("bash", texts)


# --- zsh -------------------------------------------------------------------------------------------------------------


def _zsh_words(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _zsh_help(text: str) -> str:
    return re.sub(r"([\[\]:\\])", r"\\\1", text)


def _zsh_value(name: str, argument: Argument) -> str:
    offered = argument.offered
    if isinstance(offered, tuple):
        what = f"({' '.join(offered)})"
        if "file=" in offered:
            what = f" _{name}_sources {' '.join(offered)}"
    else:
        what = {
            Offer.NOTHING: " ",
            Offer.FILE: "_files",
            Offer.DIRECTORY: "_path_files -/",
            Offer.INSTANCE: f"_{name}_instances",
            Offer.INSTANCE_OR_PATH: f"_{name}_instances_or_paths",
            Offer.USER: "_users",
            Offer.GROUP: "_groups",
        }[offered]
    return f"{_zsh_help(argument.metavar or argument.names[0])}:{what}"


def _zsh_specs(name: str, context: Context) -> Iterator[str]:
    for option in context.options:
        for word in option.names:
            equals = "=" if option.takes_value and word.startswith("--") else ""
            value = f":{_zsh_value(name, option)}" if option.takes_value else ""
            yield _zsh_words(f"{word}{equals}[{_zsh_help(option.help)}]{value}")
    for place in context.places:
        yield _zsh_words(f"{'*:' if place.many else '::' if place.optional else ':'}{_zsh_value(name, place)}")
    if context.commands:
        yield _zsh_words(": :->command")
        yield _zsh_words("*:: :->rest")


def zsh(program: Program) -> str:
    cases = []
    for context in contexts(program):
        specs = [f"            {spec}" for spec in _zsh_specs(program.name, context)]
        call = "_arguments -C" if context.commands else "_arguments"
        cases += [f"    '{context.words}')", f"        {call} \\", " \\\n".join(specs)]
        if context.commands:
            prefix = f"{context.words} " if context.words else ""
            rows = (f"{command.name}:{_zsh_help(command.help)}" for command in context.commands)
            cases += ["        case $state in", "        command)", "            commands=("]
            cases += [f"                {_zsh_words(row)}" for row in rows]
            cases += ["            )", "            _describe command commands", "            ;;"]
            cases += [f'        rest) _{program.name}_arguments "{prefix}$words[1]" ;;', "        esac"]
        cases.append("        ;;")
    return _filled("zsh", {"NAME": program.name, "MADE": MADE, "CASES": cases})


# --- fish ------------------------------------------------------------------------------------------------------------


def _fish_words(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _fish_value(name: str, offered: Offered) -> str:
    if isinstance(offered, tuple):
        words = " ".join(offered)
        return f"-a {_fish_words(f'(__{name}_sources {words})' if 'file=' in offered else words)}"
    return {
        Offer.NOTHING: "",
        Offer.FILE: "-F",
        Offer.DIRECTORY: "-a '(__fish_complete_directories)'",
        Offer.INSTANCE: f"-a '(__{name}_instances)'",
        Offer.INSTANCE_OR_PATH: f"-a '(__{name}_instances)'",
        Offer.USER: "-a '(__fish_complete_users)'",
        Offer.GROUP: "-a '(__fish_complete_groups)'",
    }[offered]


def _fish_lines(name: str, context: Context) -> Iterator[str]:
    words = f'"{context.words}"'
    for option in context.options:
        here = [f"complete -c {name} -n '__{name}_at {words}'"]
        for word in option.names:
            here.append(f"-l {word[2:]}" if word.startswith("--") else f"-o {word[1:]}")
        if option.takes_value:
            here += ["-r" if option.offered is Offer.FILE else "-x", _fish_value(name, option.offered)]
        yield " ".join(filter(None, [*here, f"-d {_fish_words(option.help)}"]))
    for number, place in enumerate(context.places):
        here = [f"complete -c {name} -n '__{name}_at {words} {number}'"]
        value = _fish_value(name, place.offered)
        if value:
            yield f"{here[0]} {value}" + (
                "" if value == "-F" else f" -d {_fish_words(place.metavar or place.names[0])}"
            )
        if place.offered is Offer.INSTANCE_OR_PATH:
            yield f"complete -c {name} -n '__{name}_at {words} {number}; and __{name}_is_path' -F"
    for command in context.commands:
        condition = f"-n '__{name}_at {words} {len(context.places)}'"
        yield f"complete -c {name} {condition} -a {command.name} -d {_fish_words(command.help)}"


def fish(program: Program) -> str:
    valued, next_words, lines = [], [], []
    for context in contexts(program):
        if context.valued:
            valued += [
                f"        case '{context.words}'",
                f"            string split ' ' -- '{' '.join(context.valued)}'",
            ]
        if context.commands:
            chosen = f'"{context.words} $word"' if context.words else "$word"
            next_words += [f"                case '{context.words}'", f"                    set context {chosen}"]
            next_words.append(f'                    set valued (__{program.name}_valued "$context")')
        lines += _fish_lines(program.name, context)
    texts = {"NAME": program.name, "MADE": MADE, "VALUED": valued, "NEXT": next_words, "LINES": lines}
    return _filled("fish", texts)


def _filled(shell: str, values: "dict[str, Union[str, list[str]]]") -> str:
    text = (ROOT / "tools/completion" / shell).read_text(encoding="utf-8")
    for name, value in values.items():
        if isinstance(value, str):
            text = text.replace(f"@{name}@", value)
        else:
            text = text.replace(f"@{name}@\n", "".join(f"{line}\n" for line in value))
    return text


def files() -> "dict[str, str]":
    """All that is written, by its path below packaging/completion."""
    programs = (VTPMCTL, daemon())
    return {
        **{f"bash/{program.name}": bash(program) for program in programs},
        **{f"zsh/_{program.name}": zsh(program) for program in programs},
        **{f"fish/{program.name}.fish": fish(program) for program in programs},
    }


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "packaging/completion"
    for name, text in files().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
