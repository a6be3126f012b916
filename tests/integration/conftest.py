"""What the integration tests share: this folder on the import path, for cuse_kernel and the like, and that no test
leaves anything behind."""

import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))

from left_behind import census, left_since


@pytest.fixture(autouse=True)
def nothing_is_left():
    """After each test, its own fixtures gone: no descriptor, thread or child that was not there before it."""
    before = census()
    yield
    left = left_since(before)
    assert left == [], "the test has left behind: " + "; ".join(left)
