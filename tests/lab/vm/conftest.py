"""What the tests in the machine share: instances for a test, and the helper modules on the import path."""

import os
import shutil
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))

from services import systemctl


@pytest.fixture
def configure():
    """Writes configurations that are gone after the test, with their instances and states."""
    made = []

    def write(name, text):
        if name not in made:
            made.append(name)
        with open(f"/etc/vtpm.d/{name}.toml", "w", encoding="utf-8") as file:
            file.write(text)

    yield write
    for name in made:
        systemctl("stop", name, expect=None)
        systemctl("reset-failed", name, expect=None)
        os.unlink(f"/etc/vtpm.d/{name}.toml")
        for folder in ("vtpm", "vtpm-identity"):
            shutil.rmtree(f"/var/lib/{folder}/{name}", ignore_errors=True)


@pytest.fixture
def both():
    """vtpm0 (1.2) and vtpm1 (2.0) of the example configurations, running."""
    systemctl("start", "vtpm0", "vtpm1")
    return "vtpm0", "vtpm1"
