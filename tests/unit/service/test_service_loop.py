"""The serving loop and the executor: what is called, when, and on which thread."""

import contextlib
import math
import os
import select
import signal
import threading
import time

import pytest

from swtpm_svc.service.loop import Loop
from swtpm_svc.tpm.executor import Executor


@pytest.fixture
def loop():
    with Loop() as loop:
        yield loop


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def test_a_readable_descriptor_is_called_back_until_it_is_removed(loop, pipe):
    reader, writer = pipe
    seen = []

    def read():
        seen.append(os.read(reader, 1))
        if len(seen) == 2:
            loop.remove(reader)
            loop.post(loop.stop)

    loop.add(reader, read)
    os.write(writer, b"abc")
    loop.run()
    assert seen == [b"a", b"b"]


def test_post_from_another_thread_runs_on_the_loops_thread(loop):
    threads = []

    def work():
        threads.append(threading.current_thread())
        loop.stop()

    poster = threading.Thread(target=lambda: loop.post(work))
    poster.start()
    loop.run()
    poster.join()
    assert threads == [threading.main_thread()]


def test_more_posts_than_the_pipe_holds_are_all_run(loop):
    count = []
    for _ in range(100_000):
        loop.post(lambda: count.append(1))
    loop.post(loop.stop)
    loop.run()
    assert len(count) == 100_000


def test_a_callback_that_posts_itself_does_not_keep_descriptors_from_being_served(loop, pipe):
    reader, writer = pipe
    turns = []

    def work():
        turns.append(1)
        if len(turns) == 3:
            os.write(writer, b"x")
        assert len(turns) < 100, "the descriptor is not served"
        loop.post(work)

    loop.add(reader, loop.stop)
    loop.post(work)
    loop.run()
    assert len(turns) >= 3


def test_a_signal_is_called_back_from_the_loop(loop):
    before = signal.getsignal(signal.SIGUSR1)
    seen = []

    def on_signal():
        seen.append(threading.current_thread())
        loop.stop()

    loop.on_signal(signal.SIGUSR1, on_signal)
    timer = threading.Timer(0.02, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    timer.start()
    loop.run()
    timer.join()
    signal.signal(signal.SIGUSR1, before)
    assert seen == [threading.main_thread()]


def test_the_timer_runs_while_nothing_else_happens(loop):
    ticks = []

    def tick():
        ticks.append(time.monotonic())
        if len(ticks) == 3:
            loop.stop()

    loop.every(0.01, tick)
    begin = time.monotonic()
    loop.run()
    assert len(ticks) == 3
    assert time.monotonic() - begin >= 0.025


def test_who_waits_in_the_loops_place_hears_what_the_loop_would(loop, pipe):
    """A callback that waits on what lend() gave: its own descriptor, a post, the timer, and a stop that is decided
    already."""
    reader, writer = pipe
    seen = []

    def wait():
        epoll, deadline_s = loop.lend()
        return select.epoll.fromfd(os.dup(epoll)).poll(min(10, deadline_s - time.monotonic()))

    def serve():
        seen.append(wait())
        os.read(reader, 1)
        loop.post(lambda: seen.append("posted"))
        seen.append([fd == reader for fd, _events in wait()])
        loop.every(0.05, loop.stop)

    loop.add(reader, serve)
    assert loop.lend()[1] == math.inf
    os.write(writer, b"a")
    loop.run()
    assert seen == [[(reader, select.EPOLLIN)], [False], "posted"]


def test_one_that_is_to_stop_lends_nobody_time(loop):
    loop.every(60, lambda: None)
    deadlines = []
    loop.post(lambda: deadlines.append(loop.lend()[1]))
    loop.post(loop.stop)
    loop.post(lambda: deadlines.append(loop.lend()[1]))
    loop.run()
    assert deadlines[0] > time.monotonic() > deadlines[1]


def test_jobs_run_one_after_another_and_finish_on_the_loops_thread(loop):
    executor = Executor(loop.post)
    events = []

    def job(number):
        def work():
            events.append(("work", number, threading.current_thread() is threading.main_thread()))
            return number * 10

        def done(result):
            events.append(("done", result, threading.current_thread() is threading.main_thread()))
            if number == 3:
                loop.stop()

        return work, done

    assert not executor.busy
    for number in (1, 2, 3):
        executor.submit(*job(number))
    assert executor.busy
    loop.run()
    assert not executor.busy
    assert [event[:2] for event in events if event[0] == "work"] == [("work", 1), ("work", 2), ("work", 3)]
    assert [event[:2] for event in events if event[0] == "done"] == [("done", 10), ("done", 20), ("done", 30)]
    assert all(on_main == (kind == "done") for kind, _number, on_main in events)


def test_join_waits_for_the_work_that_runs(loop):
    executor = Executor(loop.post)
    results = []
    executor.submit(lambda: time.sleep(0.02) or "slept", results.append)
    executor.join()
    assert results == []
    loop.run_posted()
    assert results == ["slept"]


def test_a_fault_in_a_callback_is_told_and_the_loop_goes_on(loop):
    faults = []
    loop.on_fault = faults.append
    loop.post(lambda: 1 / 0)
    loop.post(loop.stop)
    loop.run()
    assert isinstance(faults[0], ZeroDivisionError)


def test_a_job_that_waits_can_be_withdrawn(loop):
    executor = Executor(loop.post)
    done = []
    executor.submit(lambda: 1, done.append, owner=7)
    executor.submit(lambda: 2, done.append, owner=8)
    executor.submit(lambda: 3, lambda result: (done.append(result), loop.stop()), owner=9)
    assert executor.owner == 7
    assert executor.withdraw(8)
    assert not executor.withdraw(8)
    assert not executor.withdraw(7)  # it runs
    loop.run()
    assert done == [1, 3]
    assert executor.owner is None


def test_a_fault_in_a_job_is_told_and_the_next_one_is_done(loop):
    executor, faults, done = Executor(loop.post), [], []
    loop.on_fault = faults.append
    executor.submit(lambda: 1 / 0, done.append)
    executor.submit(lambda: 2, lambda result: (done.append(result), loop.stop()))
    loop.after(5, loop.stop)
    loop.run()
    assert [type(fault) for fault in faults] == [ZeroDivisionError]
    assert (done, executor.busy) == ([2], False)


def test_users_take_turns_and_the_jobs_of_each_keep_their_order(loop):
    executor = Executor(loop.post)
    done = []
    for number in range(4):
        executor.submit(lambda number=number: ("much", number), done.append, user=1)
    executor.submit(lambda: ("little", 0), done.append, user=2)
    executor.submit(lambda: ("own", 0), done.append)
    executor.submit(lambda: ("little", 1), lambda result: (done.append(result), loop.post(loop.stop)), user=2)
    loop.run()
    while executor.busy:
        executor.join()
        loop.run_posted()
    assert done == [("much", 0), ("little", 0), ("own", 0), ("much", 1), ("little", 1), ("much", 2), ("much", 3)]


def test_at_the_end_what_runs_is_finished_and_only_the_essential_is_begun(loop):
    executor = Executor(loop.post)
    done = []
    executor.submit(lambda: "runs", done.append, user=1)
    for number in range(400):
        executor.submit(lambda: "waits", done.append, user=number % 3)
    executor.submit(lambda: "essential", done.append, user=2, is_essential=True)
    executor.end()
    executor.submit(lambda: "late", done.append)
    while executor.busy:
        executor.join()
        loop.run_posted()
    assert done == ["runs", "essential"]


def test_timers_run_once_in_their_order_and_the_next_is_what_the_loop_lends_until(loop):
    ran = []
    loop.after(0.03, lambda: (ran.append("later"), loop.stop()))
    loop.after(0.01, lambda: ran.append("sooner"))
    assert loop.lend()[1] == pytest.approx(time.monotonic() + 0.01, abs=0.009)
    begin = time.monotonic()
    loop.run()
    assert ran == ["sooner", "later"]
    assert time.monotonic() - begin >= 0.025
    assert loop.lend()[1] == 0.0  # it has stopped


def test_what_does_not_fit_now_is_written_when_there_is_room(loop, pipe):
    reader, writer = pipe
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(writer, bytes(65536)):
            pass
    loop.add(writer, lambda: None)
    loop.want_write(writer, loop.stop)
    timer = threading.Timer(0.02, lambda: os.read(reader, 65536))
    timer.start()
    loop.run()
    timer.join()
    loop.want_write(writer, None)
    loop.remove(writer)


def test_what_is_to_be_done_later_is_done_once_and_in_time(loop):
    began, seen = time.monotonic(), []
    loop.every(0.05, lambda: seen.append("period"))
    loop.after(0.12, lambda: seen.append(time.monotonic() - began))
    loop.after(0.3, loop.stop)
    loop.run()
    (once,) = [entry for entry in seen if entry != "period"]
    assert 0.12 <= once < 0.25
    assert seen.count("period") >= 3


def test_a_callback_that_waits_for_the_loop_ends_for_the_next_timer(loop):
    assert loop.lend()[1] == math.inf
    loop.after(60, lambda: None)
    loop.after(5, lambda: None)
    assert 0 < loop.lend()[1] - time.monotonic() <= 5


def test_the_executor_tells_of_work(loop):
    executor, told = Executor(loop.post), []
    executor.on_work = lambda: told.append(executor.busy)
    executor.submit(lambda: 1, lambda _result: loop.stop())
    loop.run()
    assert told == [True]
