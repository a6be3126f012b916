"""The operator's files: state blobs in and out, data to hash. A file is there whole or not at all."""

import errno
import os
import stat
import sys
from argparse import ArgumentTypeError
from typing import Optional

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.state import named_files

#: More than any TPM state; what a wrong file name must not pull into memory.
BLOB_MAX_BYTES = 16 * 1024 * 1024


def path_argument(value: str) -> str:
    """argparse's type of a path that may not be empty: to os.path that is the current directory.

    Raises: ArgumentTypeError.
    """
    if not value:
        raise ArgumentTypeError("expected a path, found nothing")
    return value


def write_whole(path: str, content: bytes, mode: int = 0o600) -> None:
    """Write a file, readable by its owner alone unless `mode` says otherwise.

    Until it is complete and on disk, what was there before stays.

    Raises:
        VtpmError STATE_UNWRITABLE, STATE_FULL, USAGE.
    """
    target = os.path.realpath(path)  # a symbolic link stays one
    _refuse_special_target(path, target)
    try:
        named_files.replace(target, content, mode, syncs=True)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise VtpmError(
            Code.STATE_FULL if full else Code.STATE_UNWRITABLE,
            f"{path} cannot be written ({error.strerror}); what was there before is unchanged",
            remedy="make room there, or name another file"
            if full
            else "name a file in a directory that you may write to",
        ) from error


def read_whole(path: str) -> bytes:
    """A state blob's file.

    Raises:
        VtpmError STATE_MISSING, STATE_UNREADABLE, STATE_CORRUPT (empty), TOO_LARGE.
    """
    try:
        content = named_files.read_input(path, BLOB_MAX_BYTES + 1)
    except OSError as error:
        _refuse_input(path, error)
        raise AssertionError from error
    if not content:
        raise VtpmError(Code.STATE_CORRUPT, f"{path} is empty", remedy="name a file that vtpmctl save wrote")
    if len(content) > BLOB_MAX_BYTES:
        raise VtpmError(
            Code.TOO_LARGE, f"{path} has more than {BLOB_MAX_BYTES} bytes", remedy="name a file that vtpmctl save wrote"
        )
    return content


def read_input(path: str, max_bytes: Optional[int] = None) -> bytes:
    """All of a file, or of standard input for `-`. `max_bytes`: more than this is refused.

    Raises:
        VtpmError STATE_MISSING, STATE_UNREADABLE, TOO_LARGE.
    """
    size = -1 if max_bytes is None else max_bytes + 1
    try:
        if path == "-":
            content = sys.stdin.buffer.read(size) if sys.stdin else b""
        else:
            content = named_files.read_input(path, size)
    except OSError as error:
        _refuse_input(path, error)
        raise AssertionError from error
    if max_bytes is not None and len(content) > max_bytes:
        raise VtpmError(Code.TOO_LARGE, f"{path} has more than {max_bytes} bytes", remedy="name another file")
    return content


def _refuse_input(path: str, error: OSError) -> None:
    missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
    raise VtpmError(
        Code.STATE_MISSING if missing else Code.STATE_UNREADABLE,
        f"{path} cannot be read ({error.strerror})",
        remedy="name a file that exists" if missing else "name a file that you may read",
    ) from error


def _refuse_special_target(path: str, target: str) -> None:
    """Renaming onto /dev/null or /dev/stdout would replace the device for everybody."""
    try:
        mode = os.stat(target).st_mode
    except OSError:
        return
    if not stat.S_ISREG(mode):
        raise VtpmError(
            Code.USAGE, f"{path} is not a regular file", remedy="name a file, which is then replaced as a whole"
        )
