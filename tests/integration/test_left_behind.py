"""The fixture that looks for what a test has left behind finds it."""

import os
import subprocess
import threading

import pytest
from left_behind import census, left_since

A_MOMENT_S = 0.05


def test_a_descriptor():
    before = census()
    read, write = os.pipe()
    target = os.readlink(f"/proc/self/fd/{read}")
    assert left_since(before, A_MOMENT_S) == [f"descriptor {fd}, {target}" for fd in sorted((read, write))]
    os.close(read)
    os.close(write)
    assert left_since(before) == []


def test_a_descriptor_under_the_number_of_another():
    read, write = os.pipe()
    before = census()
    os.dup2(write, read)
    other = os.memfd_create("other")
    os.dup2(other, write)
    os.close(other)
    assert left_since(before, A_MOMENT_S) == [f"descriptor {write}, /memfd:other (deleted)"]
    os.close(read)
    os.close(write)


def test_a_thread():
    before, gate = census(), threading.Event()
    thread = threading.Thread(target=gate.wait, name="left")
    thread.start()
    assert left_since(before, A_MOMENT_S) == ["thread left"]
    gate.set()
    thread.join()
    assert left_since(before) == []


def test_a_child_and_one_that_nobody_has_waited_for():
    before = census()
    process = subprocess.Popen(["sleep", "60"])
    assert left_since(before, A_MOMENT_S) == [f"child {process.pid}, sleep 60"]
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    ended = f"child {process.pid}, which has ended and nobody has waited for"
    assert left_since(before, A_MOMENT_S) == [ended]
    process.wait()
    assert left_since(before) == []


def test_what_goes_by_itself_is_waited_for():
    before = census()
    threading.Timer(0.1, lambda: None).start()
    assert left_since(before) == []


@pytest.mark.parametrize("path", ["/dev/null", "/dev/urandom"])
def test_what_libraries_open_for_good_is_theirs(path):
    before = census()
    fd = os.open(path, os.O_RDONLY)
    assert left_since(before) == []
    os.close(fd)
