"""All state files that there are of a TPM, as they lie there: no lock is taken, and nothing is settled or put right.

A file is replaced by one rename, so that each is whole also while its TPM runs; two of them may be of two moments.
"""

import os
from typing import NamedTuple, Optional

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.state import linear, replacement
from swtpm_svc.state.backend import NAMES, PERMALL
from swtpm_svc.state.files import Directory
from swtpm_svc.state.linear import LinearError
from swtpm_svc.state.state_directory import BACKUP, PREVIOUS, file_name

#: What a generation is called: of the last one there are files of all kinds.
CURRENT, GENERATIONS = "current", {"previous": PREVIOUS, "backup": BACKUP}


class Piece(NamedTuple):
    """One blob. `written`: seconds since 1970; `problem`: why it has no data."""

    path: str
    version: str
    name: str
    generation: str
    data: bytes
    written: Optional[float] = None
    problem: Optional[VtpmError] = None


def in_directory(path: str) -> "list[Piece]":
    """Of both versions. Raises: VtpmError STATE_MISSING, STATE_UNREADABLE."""
    with Directory(path) as directory:
        return [
            piece
            for version in ("2.0", "1.2")
            for name in NAMES
            for generation, ending in _generations(name)
            if (piece := _piece(directory, version, name, generation, ending)) is not None
        ]


def _generations(name: str) -> "list[tuple[str, str]]":
    return [(CURRENT, ""), *(GENERATIONS.items() if name == PERMALL else ())]


def _piece(directory: Directory, version: str, name: str, generation: str, ending: str) -> Optional[Piece]:
    file = file_name(version, name) + ending
    path, stat = directory.path_of(file), None
    try:
        # a replacement that came past its moment counts, though not all files are where they belong yet
        committed = f"{replacement.COMMITTED}/{file}"
        stat = directory.stat(committed) if directory.stat(replacement.COMMITTED) is not None else None
        if stat is not None:
            file = committed
            if not stat.st_size:
                return None
        stat = stat or directory.stat(file)
        data = directory.read(file)
    except VtpmError as error:
        return Piece(path, version, name, generation, b"", stat.st_mtime if stat else None, error)
    if data is None:
        return None
    return Piece(path, version, name, generation, data, stat.st_mtime if stat else None)


def in_file(path: str, version: str, data: bytes, written: Optional[float] = None) -> "list[Piece]":
    """Of a file with all of a TPM (linear.py).

    Raises:
        VtpmError STATE_CORRUPT
    """
    try:
        layout = linear.decode(data[: linear.HEADER_SIZE], len(data))
    except LinearError as error:
        raise VtpmError(Code.STATE_CORRUPT, f"{path}: {error}", remedy="restore it from a backup") from None
    sections = {name: layout[number] for name, number in linear.NUMBERS.items() if number in layout}
    return [
        Piece(f"{path} ({name})", version, name, CURRENT, data[one.offset : one.offset + one.length], written)
        for name, one in sections.items()
    ]


def version_of(path: str) -> Optional[str]:
    """By the name of a state file, wherever it was copied to."""
    name = os.path.basename(path)
    return next((version for version in ("2.0", "1.2") if name.startswith(file_name(version, ""))), None)


def kind_of(path: str) -> str:
    """The same: which of NAMES it is; a permanent state, if the name does not say."""
    name = os.path.basename(path)
    return next((kind for kind in NAMES if f".{kind}" in name or name.startswith(kind.replace("state", "."))), PERMALL)
