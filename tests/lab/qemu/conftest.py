"""What the tests with real QEMU guests share: the lab of a module, and the story of all processes where a test
fails."""

import os
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, *(os.path.join(HERE, "../..", folder) for folder in ("", "integration"))]

from lab import Lab  # noqa: E402 - where it lies is said above


@pytest.fixture(scope="module")
def lab():
    with_processes = Lab()
    yield with_processes
    with_processes.close()


@pytest.fixture(autouse=True)
def _story(lab):
    yield
    print(lab.story())  # pytest shows it if the test has failed
