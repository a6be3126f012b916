"""The first state of a TPM, put into a directory that has to stay: a mount point, or one in which there are other
things too.

    NAME/.created          first: the digest of the state that is about to come
    NAME/tpm2-00.permall   then the state, whole, as it appears under its name
    NAME/.new-file         a draft of either, where the file system has no nameless files

A crash before the second leaves a directory without a TPM; after it, one with a state of which the digest says that
nobody has used it.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from swtpm_svc.errors import Code, VtpmError, quote
from swtpm_svc.state.backend import NAMES, PERMALL
from swtpm_svc.state.files import Directory
from swtpm_svc.state.lock import LOCK_NAME
from swtpm_svc.state.replacement import replace_all
from swtpm_svc.state.state_directory import LOST_AND_FOUND, file_name, open_locked

NEW, MARKER = ".new-", ".created"
_DRAFT = NEW + "file"
STATES = [file_name(version, name) for version in ("1.2", "2.0") for name in NAMES]
#: What may be in a directory that has no TPM, and is nobody else's.
OURS = {LOCK_NAME, MARKER, _DRAFT, *STATES}


class Owner(NamedTuple):
    """Whose the state shall be."""

    uid: int
    gid: int


@contextmanager
def filling(folder: int, path: str, owner: Owner) -> Iterator[Directory]:
    """The directory that has to stay, with its state's lock, and without a state. Root is its owner meanwhile.

    `folder`: the directory, open, which is closed here. It must have no state, or one that nobody has used.

    Raises:
        VtpmError STATE_LOCKED, STATE_UNWRITABLE, STATE_FULL.
    """
    try:
        _give(folder, path, owner)
        with acting_for(os.fstat(folder)):
            directory, lock = open_locked(path, os.dup(folder))
            try:
                directory.check_writable()
                for name in (*STATES, MARKER, _DRAFT):  # the state before its mark
                    directory.remove(name)
                yield directory
            finally:
                lock.close()
                directory.close()
    finally:
        os.close(folder)


def fill(directory: Directory, version: str, data: bytes, others: "dict[str, bytes]", *, is_marked: bool) -> None:
    """Write the state, encoded, as one file, and `others` at the same moment.

    Before it, if `is_marked`, the digest that says that nobody has used it.
    """
    if is_marked:
        directory.replace(MARKER, _DRAFT, hashlib.sha256(data).hexdigest().encode())
    if others:
        replace_all(directory, {file_name(version, PERMALL): data, **others})
    else:
        directory.replace(file_name(version, PERMALL), _DRAFT, data)


def _give(folder: int, path: str, owner: Owner) -> None:
    """The root of a new file system is root's; it becomes the state's owner's. Another directory of root's does not."""
    found = os.fstat(folder)
    if os.geteuid() != 0 or found.st_uid != 0 or owner.uid == 0:
        return
    os.fchmod(folder, 0o700)  # nobody adds anything from now on
    names = set(os.listdir(folder)) - {LOST_AND_FOUND}
    others = sorted(name for name in names if not _is_ours(folder, name))
    if others:
        os.fchmod(folder, stat.S_IMODE(found.st_mode))
        raise VtpmError(
            Code.STATE_UNWRITABLE,
            f"{path} belongs to root, and has something else in it: {', '.join(others[:3])}",
            remedy="name a directory of the TPM's own; or make this one the service's:"
            f" chown -h {owner.uid}:{owner.gid} {quote(path)}",
        )
    for name in names:
        os.chown(name, *owner, dir_fd=folder, follow_symlinks=False)
    os.fchown(folder, *owner)


def _is_ours(folder: int, name: str) -> bool:
    """One of the files that there may be, root's, and without another name, under which it could be somebody's."""
    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    return name in OURS and stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_uid == 0


@contextmanager
def acting_for(owner: os.stat_result) -> Iterator[None]:
    """Root is another user meanwhile."""
    if os.geteuid() != 0 or owner.st_uid == 0:
        yield
        return
    groups, gid = os.getgroups(), os.getegid()
    become(owner)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)


def become(owner: os.stat_result) -> None:
    """Root acts as that user, until it takes its own numbers back."""
    os.setgroups([])
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
