"""The FUSE front end: a directory with a TPM in it, for hosts and containers without CUSE, and for users who are not
root.

What is in the directory is in shown_files.py. pyfuse3 is a trio program; trio runs as a guest of the serving loop, so
all handlers run on the serving thread, where the TPM belongs. Both are imported only when a front end is made: they
take longer to load than all the rest of the daemon.
"""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any, Callable, Optional, Protocol

from swtpm_svc.errors import NAME, Code, VtpmError, internal, quote
from swtpm_svc.frontends.dispatch import Dispatcher
from swtpm_svc.frontends.fuse import mounts

#: How long the kernel may take to say hello, and pyfuse3 to say goodbye.
_SESSION_TIMEOUT_S = 10
#: At the end, whoever waits for an answer, or has one to read, is given this long.
_GRACE_S = 1.0
_PAUSE_S = 0.02
#: Requests that are in work at a time: all files that can be open may wait for a long command, and others still look.
_MAX_TASKS = 2048


class Host(Protocol):
    """The serving loop, as far as a guest knows it."""

    def post(self, callback: Callable[[], object]) -> None: ...

    def run_posted(self) -> None: ...


@contextmanager
def _starting_no_programs() -> Iterator[None]:
    """For trio's import, which would run ldconfig and compilers to find libpthread. Trio wants that only
    to name its threads."""
    import ctypes.util

    find_library = ctypes.util.find_library
    ctypes.util.find_library = lambda name: None
    try:
        yield
    finally:
        ctypes.util.find_library = find_library


def load() -> "tuple[Any, Any]":
    """Import all that a front end is made of, and give pyfuse3 and trio.

    Raises:
        VtpmError FUSE_UNAVAILABLE
    """
    try:
        with _starting_no_programs():
            import pyfuse3
            import trio

            import swtpm_svc.frontends.fuse.shown_files  # noqa: F401
    except ImportError as error:
        raise VtpmError(
            Code.FUSE_UNAVAILABLE, f"[fuse] needs pyfuse3: {error}", remedy="install python3-pyfuse3, or remove [fuse]"
        ) from error
    return pyfuse3, trio


class FuseFrontend:
    """Serves a TPM's files at a directory, from `open` to `close`. One in a process: pyfuse3 has one session.

    `owner`, `group` and `mode` are those of the file `tpm`; `control` is for `control_group`, or for us alone.
    """

    def __init__(
        self,
        loop: Host,
        dispatcher: Dispatcher,
        describe: "Callable[[], dict[str, Any]]",
        *,
        owner: int,
        group: int,
        mode: int,
        control_group: Optional[int],
    ) -> None:
        self._pyfuse3, self._trio = load()
        from swtpm_svc.frontends.fuse.shown_files import Access, TpmFiles

        self._loop = loop
        self._events = dispatcher.events
        self._files = TpmFiles(dispatcher, describe, Access(owner, group, mode, control_group), self._post)
        self._directory = ""
        self._is_mounted_by_us = False
        #: A session has been made, which owns the descriptor of /dev/fuse.
        self._has_session = False
        self._is_closing = False
        self._posted = Event()
        #: How the session's run ended.
        self._outcome: Optional[Any] = None

    def open(self, directory: str, passed_fd: Optional[int]) -> None:
        """Mount at `directory` and serve. `passed_fd` is a descriptor of /dev/fuse that is mounted there already; ours
        now.

        Raises:
            VtpmError FUSE_UNAVAILABLE, MOUNT_FAILED: nothing is mounted then.
        """
        self._directory = directory
        if passed_fd is not None:
            mounts.check_descriptor(passed_fd)
        fd = mounts.mount(directory) if passed_fd is None else passed_fd
        self._is_mounted_by_us = passed_fd is None
        try:
            self._start(fd)
        except BaseException:
            self.close()
            raise

    def set_control_group(self, group: Optional[int]) -> None:
        """Give `control` to another group; None: to nobody but us."""
        self._files.set_control_group(group)

    def _start(self, fd: int) -> None:
        # A request may be withdrawn, its client killed, after it was announced: a read that waits would stop the
        # service.
        os.set_blocking(fd, False)
        try:
            self._pyfuse3.init(self._files, f"/dev/fd/{fd}", set())
        except RuntimeError as error:
            os.close(fd)
            failure = f"libfuse does not serve {self._directory}: {error}"
            raise VtpmError(
                Code.MOUNT_FAILED, failure, remedy="see what the kernel says: journalctl -k; then start again"
            ) from error
        self._has_session = True
        self._trio.lowlevel.start_guest_run(
            self._serve_mount,
            run_sync_soon_threadsafe=self._post,
            done_callback=self._ended,
            host_uses_signal_set_wakeup_fd=True,
        )
        self._run_until(lambda: self._files.is_initialised or self._outcome is not None, _SESSION_TIMEOUT_S)
        if not self._files.is_initialised:
            cause = getattr(self._outcome, "error", None)
            raise VtpmError(
                Code.MOUNT_FAILED,
                f"the kernel does not talk to the file system at {self._directory}" + (f": {cause!r}" if cause else ""),
                remedy=(
                    f"another process may have served this mount: umount --lazy {quote(self._directory)}; then "
                    "start again"
                ),
            )

    async def _serve_mount(self) -> None:
        while True:
            try:
                await self._pyfuse3.main(max_tasks=_MAX_TASKS)
                return
            except Exception as error:
                if not _was_withdrawn(error):
                    raise

    def _post(self, callback: Callable[[], object]) -> None:
        self._loop.post(callback)
        self._posted.set()

    def _run_until(self, condition: Callable[[], bool], timeout_s: float) -> None:
        """Run what is posted to the loop, which does not run itself now, until `condition` holds or the time is
        over."""
        deadline = time.monotonic() + timeout_s
        self._loop.run_posted()
        while not condition() and time.monotonic() < deadline:
            self._posted.wait(_PAUSE_S)  # others post too, to the loop alone
            self._posted.clear()
            self._loop.run_posted()

    def _ended(self, outcome: Any) -> None:
        """The session is over: as `close` wants it, or because the mount went away, or by a fault."""
        self._outcome = outcome
        if self._is_closing or not self._files.is_initialised:
            return
        try:
            outcome.unwrap()
            self._events.failed(
                VtpmError(
                    Code.MOUNT_FAILED,
                    f"{self._directory} was unmounted",
                    remedy=(
                        f"to have it again: systemctl restart vtpm@{NAME}.service; the TPM and its other ways in go on"
                    ),
                )
            )
        except Exception as error:
            self._events.failed(internal("while serving files", error))
        self.close()  # nobody is to wait for answers that will not come

    def close(self) -> None:
        """Stop serving and unmount, also while clients have files open: they get ENODEV, later ENOTCONN.

        Bounded in time, and harmless when it was done before.
        """
        if self._is_closing:
            return
        self._is_closing = True
        if self._has_session:
            self._end_session()
        if self._is_mounted_by_us:
            try:
                mounts.unmount(self._directory)
            except VtpmError as error:
                self._events.failed(error)

    def _end_session(self) -> None:
        files = self._files
        if self._outcome is None:
            self._run_until(lambda: files.is_settled or self._outcome is not None, _GRACE_S)
            files.waiting.end()
            self._run_until(lambda: not len(files.waiting) or self._outcome is not None, _GRACE_S)
        if self._outcome is None:
            self._pyfuse3.terminate()
            self._run_until(lambda: self._outcome is not None, _SESSION_TIMEOUT_S)
        if self._outcome is not None:
            self._pyfuse3.close(
                unmount=False
            )  # closes the descriptor: for clients, the file system is dead from here on

    def describe(self) -> "dict[str, Any]":
        """For the status."""
        return {"path": self._directory, "openers": self._files.openers}


def _was_withdrawn(error: Exception) -> bool:
    """Is it only that a request was announced and then not there (EAGAIN)? trio may put it into groups."""
    nested = getattr(error, "exceptions", None)
    if nested:
        return all(_was_withdrawn(each) for each in nested)
    return isinstance(error, OSError) and error.errno == errno.EAGAIN
