"""The order of names that a person expects: vtpm2 before vtpm10."""

from swtpm_svc.wire.hints import Union


def natural(name: str) -> "list[tuple[int, Union[int, str]]]":
    """A key for sorting: numbers in a name count as numbers."""
    import re  # which a start does not wait for

    parts = (part for part in re.split(r"(\d+)", name) if part)
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts] + [(-1, name)]
