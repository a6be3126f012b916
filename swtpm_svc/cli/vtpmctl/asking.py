"""Who can say something of instances: systemd, about their units, and their daemons, about their TPMs.

All instances are asked at once: one call of systemctl, and one wait for the daemons, of which one may hang.
"""

import errno
import json
import os
import select
import socket
import subprocess
import time
from typing import Any, NamedTuple, Optional, Union

from swtpm_svc.cli.vtpmctl.host import Places
from swtpm_svc.errors import Code, VtpmError

#: A daemon that is well answers at once, whatever its TPM and its disk do.
ANSWER_TIME_S = 3.0
SYSTEMD_TIME_S = 10.0
ANSWER_MAX_BYTES = 1024 * 1024
#: systemd keeps of a unit that is not there any more what it was, so each is asked for by its name.
UNIT_PROPERTIES = (
    "Id",
    "LoadState",
    "ActiveState",
    "SubState",
    "Result",
    "UnitFileState",
    "MainPID",
    "NRestarts",
    "StatusText",
    "Job",
    "ExecMainPID",
    "ExecMainCode",
    "ExecMainStatus",
    "ExecStartPre",
    "ExecStart",
    "InvocationID",
    "FragmentPath",
    "DropInPaths",
    "NeedDaemonReload",
)

Answer = dict[str, Any]


class Unit(NamedTuple):
    """systemd's view. `properties` is None when systemd could not be asked, and `reason` then says why."""

    name: str
    properties: "Optional[dict[str, str]]"
    reason: str = ""


def ask_systemd(instances: "list[str]") -> "list[Unit]":
    """One call for all of them, in their order."""
    names = [f"vtpm@{instance}.service" for instance in instances]
    if not names:
        return []
    command = ["systemctl", "show", "--no-pager", "--property=" + ",".join(UNIT_PROPERTIES), "--", *names]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SYSTEMD_TIME_S,
            check=False,
            encoding="utf-8",
            errors="replace",
        )
    except FileNotFoundError:
        return [Unit(name, None, "systemctl is not installed") for name in names]
    except (OSError, subprocess.TimeoutExpired):
        return [Unit(name, None, "systemd does not answer") for name in names]
    blocks = [_properties(block) for block in done.stdout.split("\n\n") if block.strip()]
    if done.returncode != 0 or len(blocks) != len(names):
        reason = (done.stderr.strip().splitlines() or ["systemctl failed"])[0]
        return [Unit(name, None, reason) for name in names]
    return [Unit(name, block) for name, block in zip(names, blocks)]


def _properties(block: str) -> "dict[str, str]":
    pairs = (line.partition("=") for line in block.strip().splitlines())
    return {key: value for key, _, value in pairs}


def ask_daemon(instance: str, places: Places) -> Answer:
    """The status socket's answer.

    Raises:
        VtpmError DAEMON_UNREACHABLE, NOT_PERMITTED, PROTOCOL.
    """
    (answer,) = ask_daemons([instance], places)
    if isinstance(answer, VtpmError):
        raise answer
    return answer


def ask_daemons(instances: "list[str]", places: Places) -> "list[Union[Answer, VtpmError]]":
    """What each status socket answers, or why it does not (as ask_daemon raises it), in their order."""
    questions = [_Question(f"{places.run}/{instance}/status", instance) for instance in instances]
    deadline = time.monotonic() + ANSWER_TIME_S
    try:
        waiting = {one.channel.fileno(): one for one in questions if one.is_open}
        poll = select.poll()
        for fd in waiting:
            poll.register(fd, select.POLLIN)
        while waiting and (left_s := deadline - time.monotonic()) > 0:
            for fd, _ in poll.poll(left_s * 1000):
                if not waiting[fd].read():
                    poll.unregister(fd)
                    del waiting[fd]
        for one in waiting.values():
            one.fail(None)
        return [one.result for one in questions]
    finally:
        for one in questions:
            one.channel.close()


class _Question:
    """A connection to one status socket: what has come on it, and what to make of that. Who made it closes `channel`."""

    def __init__(self, path: str, instance: str) -> None:
        self._path = path
        self._instance = instance
        self._received = b""
        self._failure: Optional[VtpmError] = None
        self.channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            self.channel.connect(path)
        except BlockingIOError:  # more wait there than it lets wait: nobody is answered
            self.fail(None)
        except OSError as error:
            self.fail(error)

    @property
    def is_open(self) -> bool:
        return self._failure is None

    def fail(self, error: Optional[OSError]) -> None:
        """`error` is None: nothing has come in time."""
        if isinstance(error, PermissionError):
            remedy = (
                f"see what keeps root from it: ls -lZ {self._path}"
                if os.geteuid() == 0
                else "run this as root, or see who may: ls -l " + self._path
            )
            cause = f"{self._path} may not be opened ({error.strerror})"
            self._failure = VtpmError(Code.NOT_PERMITTED, cause, remedy=remedy)
        else:
            why = error.strerror if error is not None else "no answer in time"
            self._failure = VtpmError(
                Code.DAEMON_UNREACHABLE,
                f"the service does not answer at {self._path} ({why})",
                remedy=f"systemctl start vtpm@{self._instance}",
            )
        self._failure.__cause__ = error or TimeoutError(errno.ETIMEDOUT, "no answer in time")

    def read(self) -> bool:
        """Take what is there. Is more to come?"""
        try:
            chunk = self.channel.recv(65536)
        except OSError as error:
            self.fail(error)
            return False
        self._received += chunk
        if len(self._received) > ANSWER_MAX_BYTES:
            self.fail(None)
            return False
        return bool(chunk)

    @property
    def result(self) -> "Union[Answer, VtpmError]":
        if self._failure is not None:
            return self._failure
        remedy = f"see journalctl -u vtpm@{self._instance}"
        try:
            answer = json.loads(self._received)
        except (ValueError, RecursionError):
            return VtpmError(Code.PROTOCOL, f"{self._path} gave no JSON", remedy=remedy)
        if not isinstance(answer, dict):
            return VtpmError(Code.PROTOCOL, f"{self._path} gave no JSON object", remedy=remedy)
        return answer


def failed_with(error: VtpmError) -> Optional[int]:
    """The errno of what a daemon was asked with in vain."""
    cause = error.__cause__
    return cause.errno if isinstance(cause, OSError) else None
