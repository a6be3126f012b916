"""The options of `swtpm socket`, `swtpm chardev` and swtpm_cuse, and what was given of them.

Most options are looked at when all are read; some act while they are (swtpm(8); measured with swtpm 0.7.1 and later).
"""

from swtpm_svc.cli.classic.option_scanner import NONE, REQUIRED, Found, Option, Problem, Word, scan
from swtpm_svc.wire.hints import Callable, Optional

_COMMON = (
    Option("tpmstate", REQUIRED),
    Option("tpm2", NONE),
    Option("log", REQUIRED),
    Option("locality", REQUIRED),
    Option("key", REQUIRED),
    Option("migration-key", REQUIRED),
    Option("pid", REQUIRED),
    Option("runas", REQUIRED, "r"),
    Option("chroot", REQUIRED, "R"),
    Option("seccomp", REQUIRED),
    Option("flags", REQUIRED),
    Option("migration", REQUIRED),
    Option("profile", REQUIRED),
    Option("pcap", REQUIRED),
    Option("print-capabilities", NONE),
    Option("print-states", NONE),
    Option("print-profiles", NONE),
    Option("print-info", REQUIRED),
    Option("help", NONE, "h"),
)
_CHANNELS = (Option("fd", REQUIRED, "f"), Option("daemon", NONE, "d"), Option("ctrl", REQUIRED))
SOCKET_OPTIONS = (
    Option("port", REQUIRED, "p"),
    Option("terminate", NONE, "t"),
    Option("server", REQUIRED),
    *_CHANNELS,
    *_COMMON,
)
CHARDEV_OPTIONS = (Option("chardev", REQUIRED, "c"), Option("vtpm-proxy", NONE), *_CHANNELS, *_COMMON)
CUSE_OPTIONS = (
    Option("name", REQUIRED, "n"),
    Option("maj", REQUIRED, "M"),
    Option("min", REQUIRED, "m"),
    Option("version", NONE, "v"),
    *_COMMON,
)
#: Of these the first one counts that was given, of all others the last.
FIRST_COUNTS = frozenset(("chardev", "name"))


class CommandError(Exception):
    """The command line is wrong, or cannot be done: one line that names the option, and the exit status."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


class Given:
    """The options that were given, by name."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def get(self, name: str) -> Optional[str]:
        return self._values.get(name)

    def take(self, found: Found) -> None:
        name = found.option.name
        if name not in FIRST_COUNTS or name not in self._values:
            self._values[name] = found.value or ""


class BadWord(Exception):
    """What getopt would say of a word."""


def read(
    options: "tuple[Option, ...]",
    words: "list[str]",
    act: "Callable[[Found], None]",
    complain: "Optional[Callable[[str], None]]" = None,
) -> Given:
    """The options in `words`; `act` is told of each as it is read.

    `complain` hears of words that getopt does not know, which are then ignored; without it they are an error.

    Raises:
        BadWord; CommandError: a word is left over; and what `act` raises
    """
    given = Given()
    left: Optional[str] = None
    for event in scan(options, words):
        if isinstance(event, Problem):
            if complain is None:
                raise BadWord(event.message)
            complain(event.message)
        elif isinstance(event, Word):
            left = event.text if left is None else left
        else:
            act(event)
            given.take(event)
    if left is not None:
        raise CommandError(f"Unknown parameter '{left}'")
    return given


def c_number(text: str) -> Optional[int]:
    """A number as strtoul(3) reads it with base 0: decimal, 0x hexadecimal, 0 octal; None: it is not one."""
    digits = text.strip().lower()
    sign = -1 if digits.startswith("-") else 1
    digits = digits[1:] if digits.startswith(("+", "-")) else digits
    base, digits = (16, digits[2:]) if digits.startswith("0x") else (8 if digits.startswith("0") else 10, digits)
    if not digits.isascii() or not digits.isalnum():  # int() takes blanks and underscores
        return None
    try:
        return sign * int(digits, base)
    except ValueError:
        return None
