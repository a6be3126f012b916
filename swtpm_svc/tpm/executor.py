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
    owner: int


class Executor:
    """A queue of jobs for one worker thread, which starts with the first job: most TPMs never need it.

    `post(callback)` must run `callback` soon on the serving thread; it is called from the worker.
    """

    def __init__(self, post: Callable[[Callable[[], None]], None]) -> None:
        #: Called when something is given to the worker.
        self.on_work: Callable[[], None] = lambda: None
        self._post = post
        self._jobs: deque[_Job] = deque()
        self._thread: Optional[Thread] = None
        self._running: Optional[_Job] = None

    @property
    def busy(self) -> bool:
        """Is the TPM in use by the worker? Then nothing may run inline."""
        return self._running is not None

    @property
    def owner(self) -> int:
        """Whose job runs; 0: nobody's."""
        return 0 if self._running is None else self._running.owner

    def submit(self, work: Callable[[], Any], done: Callable[[Any], None], *, owner: int = 0) -> None:
        """Run `work` on the worker after all that was submitted before, then `done(result)` on the serving thread.

        `work` must not raise. `owner` is for `owner` and `withdraw`.
        """
        self._jobs.append(_Job(work, done, owner))
        if self._running is None:
            self._next()
        self.on_work()

    def withdraw(self, owner: int) -> bool:
        """Forget the job of `owner` that waits; False when it runs, or there is none."""
        for job in self._jobs:
            if job.owner == owner:
                self._jobs.remove(job)
                return True
        return False

    def join(self) -> None:
        """Wait for the job in execution; its `done` is posted when this returns."""
        if self._thread is not None:
            self._thread.join()

    def _next(self) -> None:
        self._running = job = self._jobs.popleft()
        # One thread a job: starting it costs 50 us, next to nothing beside a job of milliseconds, and an idle daemon
        # then has one thread, whose signals, stack and memory are plain to see.
        self._thread = Thread(target=self._run, args=(job,), name="tpm-worker", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # no thread to be had (TasksMax=, memory): late is better than never
            self._thread = None
            self._run(job)

    def _run(self, job: _Job) -> None:
        result = job.work()
        self._post(lambda: self._finish(job, result))

    def _finish(self, job: _Job, result: Any) -> None:
        self._running = self._thread = None
        if self._jobs:
            self._next()
        job.done(result)
