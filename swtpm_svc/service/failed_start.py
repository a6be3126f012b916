"""What a service that failed leaves for those who ask, beside its journal entry, which not everybody may read.

A line to systemd: the unit keeps it as StatusText= until its next start. And while systemd tries again, a note in the
runtime directory, which systemd keeps until then: how often it was tried, and the last cause. From the number follows
how long the end of the next failed start takes, as systemd 252 has pauses of one length only.
"""

import os

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.wire.hints import Optional
from swtpm_svc.wire.small_tools import suppress
from swtpm_svc.wire.values import NamedTuple

NOTE = "failed-start"
#: Of a note: one that another has put there may be of any size.
MAX_BYTES = 16384
#: Less than StartLimitBurst= of vtpm@.service allows in its interval, so that a cause that passes is waited for.
MAX_PAUSE_S = 10.0
_FIRST_PAUSE_S = 0.2
#: Exit statuses after which systemd does not try again: RestartPreventExitStatus= of vtpm@.service has the reasons.
FINAL = frozenset({64, 65, 66, 67, 69, 73, 77, 78})
_LINE = r"failed \(([a-z-]+)\): (.*?)(?:; remedy: (.*))?"


class Note(NamedTuple):
    """How many starts in a row have failed, and why the last one did."""

    tries: int
    error: VtpmError


def line(error: VtpmError) -> str:
    """For systemd, on one line."""
    text = f"failed ({error.code.value}): {error.message}"
    return " ".join((f"{text}; remedy: {error.remedy}" if error.remedy else text).split())


def parse(text: str) -> Optional[VtpmError]:
    """The error that a line was made from; None: it is not such a line."""
    import re  # a start that succeeds does without

    found = re.fullmatch(_LINE, text, re.DOTALL)
    if found is None or found[1] not in {code.value for code in Code}:
        return None
    return VtpmError(Code(found[1]), _printable(found[2]), remedy=found[3] and _printable(found[3]))


def _printable(text: str) -> str:
    """It goes to a terminal, and this is what another process has written."""
    return "".join(char if char.isprintable() else "?" for char in text)


def leave(path: str, error: VtpmError) -> int:
    """Write the note. How many starts in a row have failed now; without a runtime directory it is always the first."""
    earlier = read(path)
    tries = earlier.tries + 1 if earlier is not None else 1
    with suppress(OSError):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, 0o644)  # the unit's UMask= is for state; this is for everybody
            file.write(f"{tries} {line(error)}\n".encode("utf-8", "backslashreplace"))
    return tries


def read(path: str) -> Optional[Note]:
    """None: there is none, or nothing that can be understood."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            tries, _, text = file.read(MAX_BYTES).decode("utf-8", "replace").strip().partition(" ")
    except OSError:
        return None
    error = parse(text)
    is_number = tries.isascii() and tries.isdigit() and len(tries) < 10
    return Note(int(tries), error) if error is not None and is_number else None


def forget(path: str) -> None:
    """It serves: what comes is no longer the same row of failures."""
    with suppress(OSError):
        os.unlink(path)


def pause_s(tries: int) -> float:
    """How long the end of a start takes that systemd tries again."""
    return min(MAX_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(tries - 1, 10))
