"""Who runs what: short work inline, long work on one thread, always one thing at a time on the TPM (design D5).

All methods belong to the serving thread. The worker thread only runs jobs; what a job gives back is handed to `done` on
the serving thread again, so nothing above this module needs a lock.
"""

from collections import deque
from threading import Thread
from typing import Any, Callable, NamedTuple, Optional


class _Job(NamedTuple):
    work: Callable[[], Any]
    done: Callable[[Any], None]


class Executor:
    """A queue of jobs for one worker thread, which starts with the first job: most TPMs never need it.

    `post(callback)` must run `callback` soon on the serving thread; it is called from the worker.
    """

    def __init__(self, post: Callable[[Callable[[], None]], None]) -> None:
        self._post = post
        self._jobs: deque[_Job] = deque()
        self._thread: Optional[Thread] = None
        self._running: Optional[_Job] = None

    @property
    def busy(self) -> bool:
        """Is the TPM in use by the worker? Then nothing may run inline."""
        return self._running is not None

    def submit(self, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """Run `work` on the worker after all that was submitted before, then `done(result)` on the serving thread."""
        self._jobs.append(_Job(work, done))
        if self._running is None:
            self._next()

    def join(self) -> None:
        """Wait for the job in execution; its `done` is posted when this returns."""
        if self._thread is not None:
            self._thread.join()

    def _next(self) -> None:
        self._running = job = self._jobs.popleft()
        # One thread a job: starting it costs 50 us, next to nothing beside a job of milliseconds, and an idle daemon
        # then has one thread, whose signals, stack and memory are plain to see.
        self._thread = Thread(target=self._run, args=(job,), name="tpm-worker", daemon=True)
        self._thread.start()

    def _run(self, job: _Job) -> None:
        result = job.work()
        self._post(lambda: self._finish(job, result))

    def _finish(self, job: _Job, result: Any) -> None:
        self._running = self._thread = None
        if self._jobs:
            self._next()
        job.done(result)
