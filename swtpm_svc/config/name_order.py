"""The order of names that a person expects: vtpm2 before vtpm10."""

import re
from typing import Union

_NUMBERS = re.compile(r"(\d+)")


def natural(name: str) -> "list[tuple[int, Union[int, str]]]":
    """A key for sorting: numbers in a name count as numbers."""
    parts = (part for part in _NUMBERS.split(name) if part)
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts] + [(-1, name)]
