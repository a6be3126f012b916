"""The serving loop: epoll over the few descriptors there are, callbacks from the worker, signals and timers.

Plain blocking I/O otherwise; everything but `post` belongs to the thread that runs the loop.
"""

import os
import select
import time
from itertools import count
from math import inf

from swtpm_svc.wire.hints import Callable, FrameType, Optional
from swtpm_svc.wire.small_tools import deque, heappop, heappush, signal

Callback = Callable[[], object]


class Loop:
    """Calls back what is due until `stop`. A context manager: it owns the epoll instance and the wake-up pipe."""

    def __init__(self) -> None:
        #: Hears of exceptions that callbacks let through: one fault must not end the service of all.
        self.on_fault: Callable[[Exception], None] = _reraise
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callback] = {}
        self._writers: dict[int, Callback] = {}
        self._posted: deque[Callback] = deque()
        self._signals: dict[int, Callback] = {}
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._stopped = False
        self._timers: list[tuple[float, int, Callback]] = []  # a heap; numbered, as callbacks cannot be compared
        self._number = count()
        self.add(self._reader, self._woken)

    def __enter__(self) -> "Loop":
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._signals:
            signal.set_wakeup_fd(-1)
        self._epoll.close()
        os.close(self._reader)
        os.close(self._writer)

    def add(self, fd: int, on_readable: Callback) -> None:
        """Call `on_readable` whenever `fd` is readable, or broken."""
        self._callbacks[fd] = on_readable
        self._epoll.register(fd, select.EPOLLIN)

    def remove(self, fd: int) -> None:
        if self._callbacks.pop(fd, None) is not None:
            self._writers.pop(fd, None)
            self._epoll.unregister(fd)

    def want_write(self, fd: int, on_writable: Optional[Callback]) -> None:
        """Call `on_writable` whenever `fd`, which was added, takes more; None: no longer."""
        if on_writable is None:
            self._writers.pop(fd, None)
        else:
            self._writers[fd] = on_writable
        self._epoll.modify(fd, select.EPOLLIN | (select.EPOLLOUT if on_writable else 0))

    def on_signal(self, number: int, callback: Callback) -> None:
        """Call `callback` from the loop, never in the middle of anything, after signal `number`."""
        if not self._signals:
            signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._signals[number] = callback
        signal.signal(number, _nothing)

    def every(self, period_s: float, callback: Callback) -> None:
        """Call `callback` about every `period_s` seconds."""

        def again() -> None:
            self.after(period_s, again)
            callback()

        self.after(period_s, again)

    def after(self, delay_s: float, callback: Callback) -> None:
        """Call `callback` once, in about `delay_s` seconds. From the serving thread."""
        heappush(self._timers, (time.monotonic() + delay_s, next(self._number), callback))

    def post(self, callback: Callback) -> None:
        """Call `callback` from the loop, soon. From any thread."""
        self._posted.append(callback)
        try:
            os.write(self._writer, b"\0")
        except BlockingIOError:
            pass  # the pipe is full of wake-ups already

    def lend(self) -> "tuple[int, float]":
        """For a callback that waits for its descriptor in the loop's place: what to wait on, and until when.

        That is the epoll instance and a time of time.monotonic(). The callback must return at that time, and when
        anything but its own descriptor being readable happens; the loop then finds it too.
        """
        return self._epoll.fileno(), 0.0 if self._stopped else self._timers[0][0] if self._timers else inf

    def stop(self) -> None:
        """Leave `run` after the present callback."""
        self._stopped = True

    def run(self) -> None:
        """Serve until `stop`; may be called again after that."""
        self._stopped = False
        callbacks, poll = self._callbacks, self._epoll.poll
        while not self._stopped:
            try:
                timeout = self._run_timers() if self._timers else -1.0
                for fd, events in poll(timeout):
                    if events != select.EPOLLIN and fd in self._writers:
                        self._writers[fd]()
                    on_readable = callbacks.get(fd)
                    if on_readable is not None and events != select.EPOLLOUT:
                        on_readable()
            except Exception as error:
                self.on_fault(error)

    def run_posted(self) -> None:
        """Run what was posted so far, and not what that posts in turn: descriptors are to be served in between."""
        for _ in range(len(self._posted)):
            callback = self._posted.popleft()
            try:
                callback()
            except Exception as error:
                self.on_fault(error)  # and on to the next, which nobody would wake the loop for again

    def _run_timers(self) -> float:
        """Call back what is due; seconds until the next is, 0 after `stop`, or -1."""
        timers, now = self._timers, time.monotonic()
        while timers and timers[0][0] <= now:
            heappop(timers)[2]()
        if self._stopped:
            return 0.0
        return max(0.0, timers[0][0] - now) if timers else -1.0

    def _woken(self) -> None:
        try:
            numbers = os.read(self._reader, 512)
        except BlockingIOError:
            numbers = b""
        for number in numbers.replace(b"\0", b""):
            callback = self._signals.get(number)
            if callback is not None:
                callback()
        self.run_posted()


def _reraise(error: Exception) -> None:
    raise error


def _nothing(_number: int, _frame: Optional[FrameType]) -> None:
    """Python wants a handler for the wake-up descriptor to be written."""
