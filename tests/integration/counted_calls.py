"""System calls that are counted, and one of them replaced."""

import os
from typing import Any, Callable

CALLS = ("open", "write", "fsync", "link", "unlink", "rename", "close", "stat")


class Steps:
    """Stands in for `os` in files.py: counts the system calls, and does `at_step` in place of number `step`, once."""

    def __init__(self, step: int, at_step: Callable[[], None]) -> None:
        self.step, self.at_step, self.calls = step, at_step, 0
        self.where = ""
        self.names: list[str] = []

    def __getattr__(self, name: str) -> Any:
        function = getattr(os, name)
        if name not in CALLS:
            return function

        def counted(*arguments: Any, **options: Any) -> Any:
            self.calls += 1
            self.names.append(name)
            if self.calls == self.step:
                self.where = name
                self.at_step()
            if name == "write":
                return function(arguments[0], arguments[1][:16])  # short writes are legal
            return function(*arguments, **options)

        return counted
