"""Notices that the storage takes long: clients that want something stored wait for it, and nothing else would say
why."""

import time

from swtpm_svc.service.loop import Loop
from swtpm_svc.service.systemd.journal import STALL_OVER_ID, STALLED_ID, Journal
from swtpm_svc.tpm.executor import Executor
from swtpm_svc.tpm.tpm import Tpm
from swtpm_svc.wire.hints import Callable

#: No disk that is well takes longer for a few kilobytes.
STALL_S = 1.0


class StallWatch:
    """Looks from time to time while the worker has something to do. `show` is called when `stalled` has changed."""

    def __init__(self, loop: Loop, tpm: Tpm, executor: Executor, journal: Journal, show: Callable[[], None]) -> None:
        self.stalled = False
        self._since = 0.0
        self._loop = loop
        self._tpm = tpm
        self._executor = executor
        self._journal = journal
        self._show = show
        self._is_watching = False
        executor.on_work = self._watch

    def _watch(self) -> None:
        if not self._is_watching:
            self._is_watching = True
            self._loop.after(STALL_S, self._look)

    def _look(self) -> None:
        self._is_watching = False
        now, since = time.monotonic(), self._tpm.storing_since
        if since is not None and now - since >= STALL_S:
            if not self.stalled:
                self._begin(since)
        elif self.stalled:
            self._end(now)
        if self._executor.busy:
            self._is_watching = True
            self._loop.after(STALL_S if since is None or self.stalled else max(0.0, since + STALL_S - now), self._look)

    def _begin(self, since: float) -> None:
        self.stalled, self._since = True, since
        self._journal.log(
            "warning",
            f"the storage of the state has not answered for {STALL_S:g} s; "
            "remedy: see the kernel's log (journalctl -k) and the load of the disk",
            message_id=STALLED_ID,
        )
        self._show()

    def _end(self, now: float) -> None:
        self.stalled = False
        self._journal.log(
            "notice", f"the storage answers again, after {now - self._since:.0f} s", message_id=STALL_OVER_ID
        )
        self._show()
