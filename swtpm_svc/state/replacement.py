"""Several files replaced as one: after a crash there are all of the old ones or all of the new ones, never some of
each.

The new files are written to the directory .rekey.new, which becomes .rekey by one rename: that is the moment. Then they
are moved to where they belong. Whoever opens the directory next, under its lock, moves what is left, or removes what
never came so far. That takes no key. An empty file among them says that the file of its name goes: no state is empty.
"""

import os

from swtpm_svc.state.file_errors import write_error
from swtpm_svc.state.files import MODE, Directory
from swtpm_svc.wire.small_tools import suppress

STAGED = ".rekey.new"
COMMITTED = ".rekey"
_DIRECTORY_MODE = 0o700


def replace_all(directory: Directory, contents: "dict[str, bytes]") -> None:
    """Make these the contents of these files, durable on return; of what becomes empty there is no file then.

    The directory must be settled.

    Raises:
        VtpmError STATE_FULL, STATE_UNWRITABLE: all have their old content, unless only the very last step failed; then
            a
            settle() makes them new.
    """
    try:
        os.mkdir(STAGED, _DIRECTORY_MODE, dir_fd=directory.fd)
        staged = _open(directory, STAGED)
        try:
            for name, data in contents.items():
                _write(staged, name, data)
            os.fsync(staged)
        finally:
            os.close(staged)
        os.rename(STAGED, COMMITTED, src_dir_fd=directory.fd, dst_dir_fd=directory.fd)
        os.fsync(directory.fd)
    except OSError as error:
        raise write_error(directory.path_of(STAGED), error, is_kept=True) from None
    settle(directory)


def settle(directory: Directory) -> None:
    """Finish a replacement that came past its moment, undo one that did not. Costs two stats where there is none.

    Raises:
        VtpmError STATE_UNWRITABLE, STATE_UNREADABLE
    """
    try:
        if directory.stat(COMMITTED) is not None:
            _move(directory)
        if directory.stat(STAGED) is not None:
            _remove(directory)
    except OSError as error:
        raise write_error(directory.path, error) from None


def _move(directory: Directory) -> None:
    committed = _open(directory, COMMITTED)
    try:
        for name in sorted(os.listdir(committed)):
            if not os.stat(name, dir_fd=committed, follow_symlinks=False).st_size:
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=directory.fd)
                os.fsync(directory.fd)  # before nothing says any more that it goes
                os.unlink(name, dir_fd=committed)
                continue
            os.rename(name, name, src_dir_fd=committed, dst_dir_fd=directory.fd)
    finally:
        os.close(committed)
    os.fsync(directory.fd)
    os.rmdir(COMMITTED, dir_fd=directory.fd)
    os.fsync(directory.fd)


def _remove(directory: Directory) -> None:
    staged = _open(directory, STAGED)
    try:
        for name in os.listdir(staged):
            os.unlink(name, dir_fd=staged)
    finally:
        os.close(staged)
    os.rmdir(STAGED, dir_fd=directory.fd)


def _open(directory: Directory, name: str) -> int:
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=directory.fd)


def _write(directory_fd: int, name: str, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(name, flags, MODE, dir_fd=directory_fd)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.fsync(fd)
    finally:
        os.close(fd)
