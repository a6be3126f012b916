"""Who a caller is, in words: the name is looked up beside the loop, and is not waited for when nobody answers."""

import os
import pwd
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from swtpm_svc.service import callers
from swtpm_svc.service.callers import Callers
from swtpm_svc.service.loop import Loop
from swtpm_svc.wire.caller import Caller


@pytest.fixture
def loop():
    with Loop() as made:
        yield made


def names_of(loop, wanted, number=1, known=None):
    """What is told of each, with the loop running until `number` were told."""
    told = []
    book = known or Callers(loop)

    def tell(words):
        told.append(words)
        if len(told) >= number:
            loop.stop()

    for caller in wanted:
        book.name(caller, tell)
    if len(told) < number:
        loop.after(10, loop.stop)
        loop.run()
    return told


def test_the_name_and_the_program(loop):
    comm = Path(f"/proc/{os.getpid()}/comm").read_text().strip()
    name = pwd.getpwuid(os.getuid()).pw_name
    assert names_of(loop, [Caller(os.getuid(), 0, os.getpid())]) == [
        f"{name} ({os.getuid()}), process {os.getpid()} {comm}"
    ]


def test_what_nobody_knows(loop):
    assert names_of(loop, [Caller(4242, 0, 2**22 + 1)]) == [f"user 4242, process {2**22 + 1}"]


def test_a_name_is_looked_up_once(loop, monkeypatch):
    asked = []

    def look_up(uid):
        asked.append(uid)
        return SimpleNamespace(pw_name="somebody")

    monkeypatch.setattr(pwd, "getpwuid", look_up)
    book = Callers(loop)
    caller = Caller(1000, 0, 2**22 + 1)
    words = f"somebody (1000), process {2**22 + 1}"
    assert names_of(loop, [caller, caller], 2, book) == [words] * 2
    assert names_of(loop, [caller], 1, book) == [words]
    assert asked == [1000]


def silent(monkeypatch):
    """A database of users that does not answer before the event is set."""
    answer = threading.Event()

    def look_up(uid):
        answer.wait(20)
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", look_up)
    return answer


def test_a_directory_that_does_not_answer(loop, monkeypatch):
    """The entry has the number then; nor do others wait behind it for ever."""
    answer = silent(monkeypatch)
    monkeypatch.setattr(callers, "_WAIT_S", 0.2)
    begin = time.monotonic()
    wanted = [Caller(uid, 0, 2**22 + 1) for uid in (1000, 1001, 1002)]
    told = names_of(loop, wanted, 3)
    answer.set()
    for thread in threading.enumerate():
        if thread.name == "who":
            thread.join(10)
    assert time.monotonic() - begin < 5
    assert sorted(told) == [f"user {uid}, process {2**22 + 1}" for uid in (1000, 1001, 1002)]


def test_the_end_of_the_service_tells_what_waits(loop, monkeypatch):
    answer = silent(monkeypatch)
    book, told = Callers(loop), []
    book.name(Caller(1000, 0, 2**22 + 1), told.append)
    assert told == []
    book.flush()
    assert told == [f"user 1000, process {2**22 + 1}"]
    answer.set()
    for thread in threading.enumerate():  # before the loop closes what it writes to
        if thread.name == "who":
            thread.join(10)
    loop.run_posted()
    assert len(told) == 1
