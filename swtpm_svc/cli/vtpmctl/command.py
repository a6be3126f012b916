"""What each command of vtpmctl is made of, without what any of them needs: the types of the commands' tables."""

from typing import Any, Callable, NamedTuple


class Report(NamedTuple):
    """`text`: lines for a person, without the last line's end; `values`: the same for a program.

    `data`: bytes to be written in place of the text, for another program or a file.
    """

    text: str
    values: "dict[str, Any]"
    data: bytes = b""


class Argument(NamedTuple):
    """One argument, in argparse's terms."""

    names: "tuple[str, ...]"
    help: str
    options: "dict[str, Any]" = {}


class Operation(NamedTuple):
    help: str
    run: Callable[..., Report]
    arguments: "tuple[Argument, ...]" = ()
