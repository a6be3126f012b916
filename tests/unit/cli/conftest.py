"""A system of a test's own, and vtpmctl on it."""

import os

import pytest
from made_system import System

from swtpm_svc.cli.vtpmctl import entry


@pytest.fixture
def system(tmp_path, monkeypatch) -> System:
    made = System(tmp_path)
    monkeypatch.setenv("PATH", f"{made.bin}:{os.environ['PATH']}")
    monkeypatch.setenv("TZ", "UTC")
    return made


@pytest.fixture
def run(system, capsys):
    def run(*arguments: str) -> "tuple[int, str, str]":
        return (entry.main(list(arguments), system.places), *capsys.readouterr())

    return run
