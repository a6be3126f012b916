"""Permanent state that is put where there may be one already, as swtpm_setup does it: into a folder, or into a file
that has all of a TPM.

The place is the caller's; state files get the mode that swtpm gives them. What replaces a state is complete on the disk
before the old one goes. In a folder only files of the same TPM version are touched: swtpm serves a 1.2 and a 2.0 from
one.
"""

import os
from typing import NamedTuple, Optional

from swtpm_svc.state import blob, state_directory
from swtpm_svc.state.backend import NAMES, PERMALL, VOLATILESTATE
from swtpm_svc.state.encryption import StateKey
from swtpm_svc.state.files import Directory, swtpm_mode
from swtpm_svc.state.payloads import unwrap
from swtpm_svc.state.state_file import StateFile

#: What a file is called while it is written: swtpm's names.
_TEMPORARY = {"1.2": "TMP-00.", "2.0": "TMP2-00."}
_REMEDY = "restore it from a backup"


class Place(NamedTuple):
    """A folder; or, with `is_file`, a file or block device that has all of a TPM."""

    path: str
    is_file: bool = False


def exists(place: Place, version: str) -> bool:
    """Is there a permanent state? Raises: VtpmError STATE_MISSING, STATE_UNREADABLE, STATE_CORRUPT."""
    return _raw(place, version) is not None


def read(place: Place, version: str, key: Optional[StateKey]) -> Optional[bytes]:
    """The permanent state; None: there is none.

    Raises:
        VtpmError STATE_MISSING, STATE_UNREADABLE, STATE_CORRUPT, STATE_FOREIGN, STATE_KEY.
    """
    data = _raw(place, version)
    return None if data is None else unwrap(data, version, key, place.path, remedy=_REMEDY)


def install(place: Place, version: str, payload: bytes, key: Optional[StateKey]) -> None:
    """Make `payload` the permanent state there; whatever else a TPM of this version has left goes.

    Raises:
        VtpmError STATE_MISSING, STATE_LOCKED, STATE_UNWRITABLE, STATE_FULL.
    """
    data = blob.encode_checked(payload, key)
    if place.is_file:
        _install_in_file(place.path, data, swtpm_mode())
    else:
        _install_in_folder(place.path, version, data, swtpm_mode())


def _raw(place: Place, version: str) -> Optional[bytes]:
    if place.is_file:
        if not os.path.exists(place.path):  # to open it would make it
            return None
        file = StateFile.open(place.path, formats=True)
        try:
            return file.read(PERMALL)
        finally:
            file.close()
    directory = Directory(place.path)
    try:
        return directory.read(state_directory.file_name(version, PERMALL))
    finally:
        directory.close()


def _install_in_file(path: str, data: bytes, mode: int) -> None:
    # of a file that is there the mode stays: its owner has chosen it
    file = StateFile.open(path, mode=mode, changes_modes=False, formats=True)
    try:
        file.lock()
        for name in NAMES:
            if name != PERMALL:  # with another permanent state it would be taken for that one's
                file.remove(name)
        file.write(PERMALL, data)
    finally:
        file.close()


def _install_in_folder(path: str, version: str, data: bytes, mode: int) -> None:
    name = state_directory.file_name(version, PERMALL)
    directory, lock = state_directory.open_locked(path)
    try:
        directory.mode = mode
        directory.remove(state_directory.file_name(version, VOLATILESTATE))  # as above
        directory.replace(name, _TEMPORARY[version] + PERMALL, data)
        os.fchmod(lock.fd, mode)
        for other in directory.names():
            is_old = state_directory.is_state_file(version, other) or state_directory.is_leftover(version, other)
            if other != name and is_old:
                directory.tidy(other)
    finally:
        lock.close()
        directory.close()
