"""While only the device has something to say, the serving thread waits in a read() of it: that it does, and that
nothing else is missed by it."""

import os
import signal
import subprocess
import threading
import time

import pytest
from cuse_service import exchange
from device_clients import wait_for
from threaded_cuse import ThreadedCuse
from tpm_commands import CREATE_RSA, GET_RANDOM, PCR_EXTEND_16, PCR_READ_16, result_of

#: Commands after which it waits so (PATIENCE of device.c, in requests).
ENOUGH = 40


@pytest.fixture
def service():
    service = ThreadedCuse()
    yield service
    service.close()


@pytest.fixture
def kernel(service):
    return service.kernel


def settle(service, handle):
    """Have it wait in read()."""
    for _ in range(ENOUGH):
        assert len(exchange(service.kernel, handle, GET_RANDOM)) == 20
    assert service.waits_in_read


def test_it_waits_in_read_after_some_requests_without_anything_else(service, kernel):
    handle = kernel.open()
    assert not service.waits_in_read
    exchange(kernel, handle, GET_RANDOM)
    assert not service.waits_in_read
    settle(service, handle)
    for _ in range(100):
        assert result_of(exchange(kernel, handle, PCR_EXTEND_16)) == 0
    assert service.waits_in_read
    assert kernel.write(handle, b"short")[0], "what is not plain ends it"
    assert not service.waits_in_read
    settle(service, handle)


def test_callbacks_timers_and_descriptors_are_served(service, kernel):
    handle = kernel.open()
    reader, writer = os.pipe()
    ticks, bytes_read = [], []
    service.call(lambda: service.loop.add(reader, lambda: bytes_read.append(os.read(reader, 1))))
    for number in range(20):
        settle(service, handle)
        assert service.call(lambda number=number: number) == number
        settle(service, handle)
        os.write(writer, b"x")
        wait_for(lambda expected=number + 1: len(bytes_read) == expected, "the pipe", pause_s=0.001)
        service.call(lambda: service.loop.after(0.1, lambda: ticks.append(1)))
        settle(service, handle)
        wait_for(lambda expected=number + 1: len(ticks) == expected, "the timer", pause_s=0.001)
        assert not service.waits_in_read
    service.call(lambda: service.loop.remove(reader))
    os.close(reader)
    os.close(writer)


def test_a_signal_is_served(service, kernel):
    handle, seen = kernel.open(), []
    before = signal.getsignal(signal.SIGUSR1)
    service.loop.on_signal(signal.SIGUSR1, lambda: seen.append(threading.get_ident()))
    try:
        for number in range(20):
            settle(service, handle)
            os.kill(os.getpid(), signal.SIGUSR1)
            wait_for(lambda expected=number + 1: len(seen) == expected, "the signal", pause_s=0.001)
        assert set(seen) == {service.call(threading.get_ident)}
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_nothing_is_missed_whatever_comes_when(service, kernel):
    """Callbacks from another thread while requests come without a pause, so that each moment is met at some time."""
    handle, done, waits = kernel.open(), threading.Event(), []

    def call_again_and_again():
        while not done.is_set():
            for _ in range(len(waits) % 50):
                time.sleep(0.0001)
            begin = time.monotonic()
            service.call(lambda: None)  # fails after 10 s
            waits.append(time.monotonic() - begin)
            wait_for(lambda: service.waits_in_read or done.is_set(), "the next wait", pause_s=0.0001)

    thread = threading.Thread(target=call_again_and_again)
    thread.start()
    try:
        extended, deadline = 0, time.monotonic() + 20
        while len(waits) < 300 and time.monotonic() < deadline:
            assert result_of(exchange(kernel, handle, PCR_EXTEND_16)) == 0
            extended += 1
    finally:
        done.set()
        thread.join(60)
    assert waits
    assert service.call(lambda: service.dispatcher.commands) == extended
    assert service.events.failures == []


def test_a_long_command_and_what_comes_meanwhile(service, kernel):
    one, two = kernel.open(), kernel.open()
    settle(service, one)
    assert kernel.write(one, CREATE_RSA, os.O_NONBLOCK)[0] == 0
    assert result_of(exchange(kernel, two, PCR_READ_16)) == 0
    assert result_of(kernel.read(one)[1]) == 0
    settle(service, two)


@pytest.mark.needs("strace")
def test_a_request_takes_two_system_calls(service, kernel, tmp_path):
    handle, count = kernel.open(), 200
    settle(service, handle)
    serving = service.call(threading.get_native_id)
    settle(service, handle)
    trace = tmp_path / "trace"
    strace = subprocess.Popen(["strace", "-o", trace, "-p", str(serving)], stderr=subprocess.PIPE)
    try:
        assert b"attached" in strace.stderr.readline()
        for _ in range(2):  # the stop for strace ends a read, and with it the wait
            settle(service, handle)
        begun = trace.read_text().count("\n")
        for _ in range(count):
            exchange(kernel, handle, PCR_READ_16)
        wait_for(lambda: trace.read_text().count("\n") >= begun + 4 * count, "the trace")
        calls = [line.partition("(")[0] for line in trace.read_text().splitlines()[begun:]]
    finally:
        strace.terminate()
        strace.communicate(timeout=30)
    assert set(calls) == {"read", "write"}
    assert len(calls) <= 4 * count + 2
