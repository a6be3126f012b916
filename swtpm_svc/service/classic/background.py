"""Into the background, as swtpm's callers know it: the first process ends when the TPM is ready, with its status.

The process that goes on has the words and the folder of the first; its lock is its own. What is said until it is ready
goes where the first one's goes.
"""

import os

from swtpm_svc.service.classic.emulation import PidFile
from swtpm_svc.wire.hints import Optional
from swtpm_svc.wire.small_tools import suppress


class Background:
    """The end of the first process is in this one's hand: `ready`, or `failed`. Without `enter` both do nothing."""

    def __init__(self) -> None:
        self._writer: Optional[int] = None

    def enter(self) -> None:
        """Fork; returns in the process that goes on, which has a session of its own and can get no terminal."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid:
            os.close(writer)
            os._exit(_wait(reader, pid))
        os.close(reader)
        os.setsid()
        if os.fork():
            os._exit(0)
        self._writer = writer

    def ready(self) -> None:
        """The first process ends with success; standard output and error are nobody's from here on."""
        if self._writer is None:
            return
        with suppress(OSError):  # there may be none in a root of the caller's
            nowhere = os.open(os.devnull, os.O_RDWR)
            for fd in (1, 2):
                os.dup2(nowhere, fd)
            if nowhere > 2:
                os.close(nowhere)
        self._tell(0)

    def failed(self, status: int) -> None:
        """The first process ends with `status`, if it has not ended."""
        self._tell(status)

    def _tell(self, status: int) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            with suppress(OSError):
                os.write(writer, bytes([status]))
            os.close(writer)


def _wait(reader: int, child: int) -> int:
    """The status that the process in the background tells; 1: it has died without a word."""
    os.waitpid(child, 0)
    told = os.read(reader, 1)
    return told[0] if told else 1


class WrittenPid:
    """The pid, in a file that goes at the end."""

    def __init__(self, file: PidFile) -> None:
        """
        Raises:
            OSError
        """
        self._path = file.path
        pid = str(os.getpid()).encode()
        if file.path:
            from swtpm_svc.state import named_files  # few have a pid file

            # a regular file alone: at the end it goes, and /dev/null is not ours to remove
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            fd = named_files.open_regular(file.path, flags, 0o644)
            try:
                os.write(fd, pid)
            finally:
                os.close(fd)
        else:
            self._path = os.readlink(f"/proc/self/fd/{file.fd}")
            os.write(file.fd, pid)

    def remove(self) -> None:
        with suppress(OSError):
            os.unlink(self._path)
