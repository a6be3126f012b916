"""Permanent state that is put into a folder where there may be one already, as swtpm_setup does it.

The folder is the caller's; its state files get the mode that swtpm gives them. What replaces a state is complete on the
disk before the old one goes, by one rename. Only files of the same TPM version are touched: swtpm serves a 1.2 and a
2.0 from one folder.
"""

import os
from typing import Optional

from swtpm_svc.state import blob, state_directory
from swtpm_svc.state.backend import PERMALL, VOLATILESTATE
from swtpm_svc.state.encryption import StateKey
from swtpm_svc.state.files import Directory
from swtpm_svc.state.payloads import unwrap

#: Less what the umask takes away: swtpm's.
MODE = 0o640
#: What a file is called while it is written: swtpm's names.
_TEMPORARY = {"1.2": "TMP-00.", "2.0": "TMP2-00."}


def exists(path: str, version: str) -> bool:
    """Is there a permanent state? Raises: VtpmError STATE_MISSING, STATE_UNREADABLE."""
    directory = Directory(path)
    try:
        return directory.stat(state_directory.file_name(version, PERMALL)) is not None
    finally:
        directory.close()


def read(path: str, version: str, key: Optional[StateKey]) -> Optional[bytes]:
    """The permanent state; None: there is none.

    Raises:
        VtpmError STATE_MISSING, STATE_UNREADABLE, STATE_CORRUPT, STATE_FOREIGN, STATE_KEY.
    """
    directory = Directory(path)
    try:
        name = state_directory.file_name(version, PERMALL)
        data = directory.read(name)
        if data is None:
            return None
        return unwrap(data, version, key, directory.path_of(name), remedy="restore it from a backup")
    finally:
        directory.close()


def place(path: str, version: str, payload: bytes, key: Optional[StateKey]) -> None:
    """Make `payload` the permanent state there; whatever else a TPM of this version has left goes.

    Raises:
        VtpmError STATE_MISSING, STATE_LOCKED, STATE_UNWRITABLE, STATE_FULL.
    """
    data = blob.encode_checked(payload, key)
    umask = os.umask(0o077)
    os.umask(umask)
    directory, lock = state_directory.open_locked(path)
    try:
        name = state_directory.file_name(version, PERMALL)
        # the volatile state first: with another permanent state it would be taken for that one's
        directory.remove(state_directory.file_name(version, VOLATILESTATE))
        directory.replace(name, _TEMPORARY[version] + PERMALL, data)
        os.chmod(name, MODE & ~umask, dir_fd=directory.fd)
        os.fchmod(lock.fd, MODE & ~umask)
        for other in directory.names():
            is_ours = state_directory.is_state_file(version, other) or state_directory.is_leftover(version, other)
            if is_ours and other != name:
                directory.tidy(other)
    finally:
        lock.close()
        directory.close()
