"""What a test has left in this process: descriptors, threads and children that were not there before it."""

import gc
import os
import threading
import time
from typing import NamedTuple

#: What one test may open for all that follow: libtpms opens it once (open_library), and so does OpenSSL its own.
FOR_GOOD = frozenset(("/dev/null", "/dev/urandom", "/dev/random"))


class Census(NamedTuple):
    """What there is, each with words that tell what it is."""

    descriptors: "dict[tuple[int, str], str]"
    threads: "dict[threading.Thread, str]"
    children: "dict[int, str]"


def census():
    descriptors = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # that of the listing itself
        descriptors[int(name), target] = f"descriptor {name}, {target}"
    threads = {thread: f"thread {thread.name}" for thread in threading.enumerate()}
    return Census(descriptors, threads, dict(_children()))


def _children():
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/children", encoding="ascii") as file:
                numbers = file.read().split()
        except FileNotFoundError:
            continue  # a thread that has ended
        for number in numbers:
            try:
                with open(f"/proc/{number}/cmdline", encoding="utf-8", errors="replace") as file:
                    command = file.read().replace("\0", " ").strip()
            except FileNotFoundError:
                continue
            yield int(number), f"child {number}, {command or 'which has ended and nobody has waited for'}"


def left_since(before, patience_s=2.0):
    """Words for what is there and was not, once it had some time to go."""
    deadline, pause_s = time.monotonic() + patience_s, 0.001
    while left := _new(before, census()):
        if time.monotonic() > deadline:
            return left
        gc.collect()
        time.sleep(pause_s)
        pause_s *= 2
    return []


def _new(before, now):
    left = [
        words
        for (number, target), words in now.descriptors.items()
        if (number, target) not in before.descriptors and target not in FOR_GOOD
    ]
    left += [words for thread, words in now.threads.items() if thread not in before.threads]
    left += [words for number, words in now.children.items() if number not in before.children]
    return left
