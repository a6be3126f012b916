"""A state that somebody may have damaged, tried in a process that is thrown away: does libtpms take it, what is in it?

libtpms is not made for what is no state: of one with flipped bits it may die, or loop. The process has no file but one
pipe, no rights of root's, limits, and the filters of system calls; what it answers is checked like a stranger's.
"""

import json
import os
import resource
import select
import signal
import sys
import time
from contextlib import suppress
from typing import Any, NamedTuple, Optional

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.provision.factory import executor
from swtpm_svc.provision.memory_storage import MemoryStorage
from swtpm_svc.provision.tpm2_owner import Tpm2
from swtpm_svc.provision.tpm12_owner import Tpm12
from swtpm_svc.state.backend import VOLATILESTATE
from swtpm_svc.tpm import libtpms
from swtpm_svc.tpm.tpm import Tpm
from swtpm_svc.wire.tpm_header import decode_header

#: A full TPM answers in a tenth of a second; a slow machine under load takes a hundred times that.
TIME_S = 20.0
_ANSWER_MAX_BYTES = 1 << 16
_HANDLES_MAX = 4096
_NOBODY = 65534
_NV, _PERSISTENT = (0x01000000, 0x01FFFFFF), (0x81000000, 0x81FFFFFF)


class Contents(NamedTuple):
    """What a state has in it: numbers of a TPM 2.0's NV indices and persistent objects; of a TPM 1.2 whether it has an
    owner."""

    nv_indices: "tuple[int, ...]" = ()
    persistent: "tuple[int, ...]" = ()
    has_owner: Optional[bool] = None


def _damaged(name: str, reason: str) -> VtpmError:
    return VtpmError(Code.STATE_CORRUPT, f"{name}: {reason}", remedy="restore it from a backup")


def load(version: str, payloads: "dict[str, bytes]", time_s: float = TIME_S) -> Contents:
    """Have libtpms start from these payloads, by libtpms' names.

    Raises:
        VtpmError STATE_CORRUPT: it does not, dies of them or does not come to an end.
    """
    reading, writing = os.pipe()
    for stream in (sys.stdout, sys.stderr):
        if stream:
            stream.flush()
    child = os.fork()
    if not child:
        _be_the_child(writing, version, payloads, time_s)
    os.close(writing)
    status = None
    try:
        answer = _receive(reading, time.monotonic() + time_s)
        if answer is not None:
            status = os.waitpid(child, 0)[1]
    finally:
        os.close(reading)
        if status is None:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    if answer is None or status is None:
        raise _refused(f"libtpms does not come to an end with it within {time_s:.0f} s")
    if os.WIFSIGNALED(status):
        raise _refused(f"libtpms dies of it (signal {os.WTERMSIG(status)})")
    return _contents(answer)


def _refused(why: str) -> VtpmError:
    return VtpmError(Code.STATE_CORRUPT, why, remedy="restore it from a backup")


def _receive(fd: int, deadline: float) -> Optional[bytes]:
    """All until the end; None: the end did not come in time, or too much came."""
    received = b""
    while len(received) <= _ANSWER_MAX_BYTES:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([fd], [], [], left)[0]:
            return None
        chunk = os.read(fd, 65536)
        if not chunk:
            return received
        received += chunk
    return None


def _contents(answer: bytes) -> Contents:
    try:
        values = json.loads(answer)
        if "refused" in values:
            reason = "".join(char if char.isprintable() else "?" for char in str(values["refused"])[:200])
            raise _refused(reason)
        lists = [tuple(values[name]) for name in ("nv_indices", "persistent")]
        is_good = all(len(some) <= _HANDLES_MAX and all(type(one) is int for one in some) for some in lists)
        if is_good and values["has_owner"] in (None, True, False):
            return Contents(lists[0], lists[1], values["has_owner"])
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise _refused("libtpms ends without a word about it")


def _be_the_child(writing: int, version: str, payloads: "dict[str, bytes]", time_s: float) -> None:
    """Never returns, and never lets the parent's handlers and buffers run a second time."""
    try:
        _confine(writing, time_s)
        answer = _try(version, payloads)
        with open(writing, "wb", closefd=False) as pipe:
            pipe.write(json.dumps(answer).encode())
    except BaseException:
        os._exit(1)  # without an answer
    os._exit(0)


def _confine(writing: int, time_s: float) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number in (signal.SIGALRM, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDWR)
    libtpms.silence()
    for fd in range(3):
        os.dup2(null, fd)
    os.closerange(3, writing)
    os.closerange(writing + 1, 65536)
    seconds = int(time_s) + 1
    for limit, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_CORE, 0),  # it would hold keys
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 0),  # none but those that are open
        (resource.RLIMIT_AS, 1 << 30),
    ):
        _soft, hard = resource.getrlimit(limit)
        lower = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (lower, lower))
    if os.geteuid() == 0 or os.getuid() == 0:
        os.seteuid(0)  # who acts for the owner of a state may not give up the rest otherwise
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    libtpms.hide_process()
    # no other program; then no signals to others. A kernel without such filters has the rest still
    libtpms.deny_system_calls("kill")
    libtpms.confine()


def _try(version: str, payloads: "dict[str, bytes]") -> "dict[str, Any]":
    failures: list[VtpmError] = []
    tpm = Tpm(version, MemoryStorage(payloads, _damaged), failures.append)
    try:
        tpm.power_on(delete_volatile=False)
        if VOLATILESTATE not in payloads and decode_header(tpm.startup("clear")).code:
            return {"refused": "the TPM does not start from it"}
        found = _look(tpm)
    except VtpmError as error:
        return {"refused": error.message}
    return found._asdict() if not failures else {"refused": failures[0].message}


def _look(tpm: Tpm) -> Contents:
    execute = executor(tpm)
    if tpm.version == "1.2":
        return Contents(has_owner=Tpm12(execute).has_owner())
    asked = Tpm2(execute)
    return Contents(tuple(asked.handles(*_NV)), tuple(asked.handles(*_PERSISTENT)))
