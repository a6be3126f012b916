"""Who runs what: short work inline, long work on one thread, always one thing at a time on the TPM (decisions/0018).

Users take turns: one who has much to do waits for the others after each of his jobs. The front ends bound how much may
wait: one command for each open file or connection, of which each user has a share.

All methods belong to the serving thread. The worker thread only runs jobs; what a job gives back is handed to `done` on
the serving thread again, so nothing above this module needs a lock.
"""

from swtpm_svc.wire.hints import Any, Callable, Optional
from swtpm_svc.wire.small_tools import deque
from swtpm_svc.wire.values import NamedTuple

TYPE_CHECKING = False  # to mypy it is True
if TYPE_CHECKING:
    from threading import Thread


class _Job(NamedTuple):
    work: Callable[[], Any]
    done: Callable[[Any], None]
    user: Optional[int]
    owner: object
    is_essential: bool


class Executor:
    """Queues of jobs for one worker thread, which starts with the first job: most TPMs never need it.

    `post(callback)` must run `callback` soon on the serving thread; it is called from the worker.
    """

    def __init__(self, post: Callable[[Callable[[], None]], None]) -> None:
        #: Called when something is given to the worker.
        self.on_work: Callable[[], None] = lambda: None
        self._post = post
        #: What waits, by user, none empty; the first has the next turn.
        self._queues: dict[Optional[int], deque[_Job]] = {}
        self._thread: Optional[Thread] = None
        self._running: Optional[_Job] = None
        self._is_ending = False

    @property
    def busy(self) -> bool:
        """Is the TPM in use by the worker? Then nothing may run inline."""
        return self._running is not None

    @property
    def owner(self) -> object:
        """Whose job runs; None: nobody's."""
        return None if self._running is None else self._running.owner

    def submit(
        self,
        work: Callable[[], Any],
        done: Callable[[Any], None],
        *,
        user: Optional[int] = None,
        owner: object = None,
        is_essential: bool = False,
    ) -> None:
        """Run `work` on the worker when it is the turn of `user`, then `done(result)` on the serving thread.

        What `work` raises is raised on the serving thread, in place of `done`. `user` is None for what the service
        itself wants. `owner` is for `owner` and `withdraw`. An essential job is done also when the service ends.
        """
        if self._is_ending and not is_essential:
            return
        self._queues.setdefault(user, deque()).append(_Job(work, done, user, owner, is_essential))
        if self._running is None:
            self._next()
        self.on_work()

    def withdraw(self, owner: object) -> bool:
        """Forget the job of `owner` that waits; False when it runs or is essential, or there is none."""
        for user, queue in self._queues.items():
            for job in queue:
                if job.owner == owner and not job.is_essential:
                    queue.remove(job)
                    if not queue:
                        del self._queues[user]
                    return True
        return False

    def end(self) -> None:
        """The service ends: forget what waits and is not essential, and take no more of it."""
        self._is_ending = True
        kept = {user: deque(job for job in queue if job.is_essential) for user, queue in self._queues.items()}
        self._queues = {user: queue for user, queue in kept.items() if queue}

    def join(self) -> None:
        """Wait for the job in execution; its `done` is posted when this returns."""
        if self._thread is not None:
            self._thread.join()

    def _next(self) -> None:
        user, queue = next(iter(self._queues.items()))
        self._running = job = queue.popleft()
        if not queue:
            del self._queues[user]
        from threading import Thread  # most starts have no use for it

        # One thread a job: starting it costs 50 us, next to nothing beside a job of milliseconds, and an idle daemon
        # then has one thread, whose signals, stack and memory are plain to see.
        self._thread = Thread(target=self._run, args=(job,), name="tpm-worker", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # no thread to be had (TasksMax=, memory): late is better than never
            self._thread = None
            self._run(job)

    def _run(self, job: _Job) -> None:
        result, fault = None, None
        try:
            result = job.work()
        except Exception as error:  # else the worker would be in use for ever
            fault = error
        self._post(lambda: self._finish(job, result, fault))

    def _finish(self, job: _Job, result: Any, fault: Optional[Exception]) -> None:
        self._running = self._thread = None
        waiting = self._queues.pop(job.user, None)
        if waiting is not None:
            self._queues[job.user] = waiting  # after all who had no turn meanwhile
        if self._queues:
            self._next()
        if fault is not None:
            raise fault
        job.done(result)
