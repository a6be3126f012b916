"""What a person at a terminal gets, and no pipe or file does: bold and colour, and a sign of life during long work."""

import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Callable, Optional, TextIO

#: Escape sequences of ECMA-48, SGR.
BOLD, RED, YELLOW, GREEN = "1", "1;31", "33", "32"
_FIRST_S, _NEXT_S = 1.0, 0.5
_ERASE = "\r\x1b[K"

Rules = tuple[tuple[re.Pattern[str], str], ...]
#: Of a help.
HEADINGS: Rules = ((re.compile(r"^([A-Za-z][^\n:]*:)", re.MULTILINE), BOLD),)


def has_colour(stream: Optional[TextIO]) -> bool:
    """Not where the environment says no: NO_COLOR (no-color.org), TERM."""
    if stream is None or os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb":
        return False
    return stream.isatty()


def paint(text: str, rules: Rules) -> str:
    """`rules`: for a pattern, the look of its first group."""
    for pattern, look in rules:
        text = pattern.sub(_painter(look), text)
    return text


def _painter(look: str) -> "Callable[[re.Match[str]], str]":
    def paint_one(found: "re.Match[str]") -> str:
        start, end = found.start(1) - found.start(), found.end(1) - found.start()
        whole = found[0]
        return f"{whole[:start]}\x1b[{look}m{whole[start:end]}\x1b[0m{whole[end:]}"

    return paint_one


@contextmanager
def sign_of_life(doing: str) -> Iterator[None]:
    """Say on standard error what is done and for how long, once it takes more than a second; nothing is left of it.

    By a timer, not a thread: what changes its user, or forks, does not mind.
    """
    stream = sys.stderr
    if not doing or stream is None or not stream.isatty():
        yield
        return
    began = time.monotonic()

    def tell(_number: int, _frame: Optional[FrameType]) -> None:
        with suppress(OSError, ValueError):
            os.write(stream.fileno(), f"{_ERASE}{doing} ... {time.monotonic() - began:.0f} s".encode())

    before = signal.signal(signal.SIGALRM, tell)
    signal.setitimer(signal.ITIMER_REAL, _FIRST_S, _NEXT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if time.monotonic() - began >= _FIRST_S:
            with suppress(OSError, ValueError):
                os.write(stream.fileno(), _ERASE.encode())
