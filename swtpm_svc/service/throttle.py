"""Keeps what clients can bring about at will from filling the journal: one entry at once, then a count."""

from swtpm_svc.wire.hints import Callable, Hashable, Protocol

#: How long further entries of a kind are only counted.
WINDOW_S = 60.0
#: Kinds of entries that are told apart at a time; all others are one kind.
MAX_KINDS = 256

_OTHERS = "others"


class Timer(Protocol):
    """The serving loop, as far as a throttle knows it."""

    def after(self, delay_s: float, callback: Callable[[], None]) -> None: ...


class Throttle:
    """One for all kinds of entries."""

    def __init__(self, timer: Timer, write_others: Callable[[int], None]) -> None:
        """`write_others` hears how many entries were of kinds for which there was no room."""
        self._timer = timer
        self._write_others = write_others
        #: By kind: how many entries are left, how many were not written, and what writes their number.
        self._counts: dict[Hashable, tuple[int, int, Callable[[int], None]]] = {}

    def admit(self, kind: Hashable, write_count: Callable[[int], None], *, burst: int = 1) -> bool:
        """May an entry of `kind` be written now? In a minute `burst` may; `write_count` then hears how many more there
        were."""
        if kind not in self._counts:
            if len(self._counts) >= MAX_KINDS:
                kind, write_count, burst = _OTHERS, self._write_others, 0
            if kind not in self._counts:
                self._counts[kind] = burst, 0, write_count
                self._timer.after(WINDOW_S, lambda: self._end_window(kind))
        left, more, write_count = self._counts[kind]
        self._counts[kind] = (left - 1, more, write_count) if left else (0, more + 1, write_count)
        return left > 0

    def _end_window(self, kind: Hashable) -> None:
        _left, more, write_count = self._counts.pop(kind)
        if more:
            write_count(more)
            self._counts[kind] = 0, 0, write_count  # it goes on: no entry at once in the next window
            self._timer.after(WINDOW_S, lambda: self._end_window(kind))

    def flush(self) -> None:
        """Write the counts now, as the service ends."""
        for kind, (_left, more, write_count) in self._counts.items():
            if more:
                write_count(more)
                self._counts[kind] = 0, 0, write_count
