"""Command lines as getopt_long(3) of the GNU C library reads them: abbreviations, options after words, its messages.

argparse and the getopt module differ in all three, and callers see it. Order is kept: a command that acts while it
reads (`swtpm --help`) does so before what follows is wrong.
"""

from swtpm_svc.wire.values import NamedTuple

TYPE_CHECKING = False  # to mypy it is True; typing takes longer to import than a small command has time
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Optional, Union

    Event = Union["Found", "Word", "Problem"]

#: Whether an option takes an argument.
NONE, REQUIRED, OPTIONAL = "none", "required", "optional"


class Option(NamedTuple):
    """One option. `name` is the long one without dashes, "" where there is none; `letter` the short one."""

    name: str
    argument: str = NONE
    letter: str = ""


class Found(NamedTuple):
    """An option that was given. `value`: its argument; None: it has none. `word`: as it was typed."""

    option: Option
    value: "Optional[str]"
    word: str


class Word(NamedTuple):
    """What is not an option."""

    text: str


class Problem(NamedTuple):
    """What getopt would complain about, without the program's name before it; scanning can go on behind it."""

    message: str


def scan(
    options: "tuple[Option, ...]", words: "Union[list[str], Iterator[str]]", *, long_only: bool = False
) -> "Iterator[Event]":
    """What `words` are, in their order; but all that is not an option comes last, as getopt permutes it.

    `long_only`: a long option may have one dash, too (getopt_long_only). Of `words` that are an iterator, who gets an
    option may take those that follow it.
    """
    left: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--":
            left.extend(rest)
        elif not word.startswith("-") or word == "-":
            left.append(word)
        elif word.startswith("--"):
            yield _long(options, word, word[2:], rest)
        elif long_only and _is_long(options, word):
            yield _long(options, word, word[1:], rest)
        else:
            yield from _short(options, word, rest)
    yield from map(Word, left)


def _matches(options: "tuple[Option, ...]", name: str) -> "list[Option]":
    exact = [option for option in options if option.name == name]
    return exact or [option for option in options if name and option.name.startswith(name)]


def _is_long(options: "tuple[Option, ...]", word: str) -> bool:
    """Is that a long option with one dash? A letter with its argument behind it begins with a letter of ours."""
    if len(word) == 2:
        return not any(option.letter == word[1] for option in options)
    return bool(_matches(options, word[1:].partition("=")[0])) or not any(
        option.letter == word[1] for option in options
    )


def _long(options: "tuple[Option, ...]", word: str, text: str, rest: "Iterator[str]") -> "Event":
    name, separator, value = text.partition("=")
    dashes = word[: len(word) - len(text)]
    matches = _matches(options, name)
    if not matches:
        return Problem(f"unrecognized option '{dashes}{name}'")
    if len(matches) > 1:
        possible = " ".join(f"'{dashes}{option.name}'" for option in matches)
        return Problem(f"option '{word}' is ambiguous; possibilities: {possible}")
    option = matches[0]
    if separator and option.argument == NONE:
        return Problem(f"option '{dashes}{option.name}' doesn't allow an argument")
    if not separator and option.argument == REQUIRED:
        given = next(rest, None)
        if given is None:
            return Problem(f"option '{dashes}{option.name}' requires an argument")
        return Found(option, given, word)
    return Found(option, value if separator else None, word)


def _short(options: "tuple[Option, ...]", word: str, rest: "Iterator[str]") -> "Iterator[Event]":
    """A word of letters; the argument of one is what stands behind it, or the next word."""
    for position, letter in enumerate(word[1:], 1):
        option = next((option for option in options if option.letter == letter), None)
        if option is None:
            yield Problem(f"invalid option -- '{letter}'")
            continue
        if option.argument == NONE:
            yield Found(option, None, "-" + letter)
            continue
        behind: Optional[str] = word[position + 1 :] or None
        if behind is None and option.argument == REQUIRED:
            behind = next(rest, None)
            if behind is None:
                yield Problem(f"option requires an argument -- '{letter}'")
                return
        yield Found(option, behind, "-" + letter)
        return
