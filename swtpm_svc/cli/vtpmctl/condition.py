"""What an instance is, in one place and one line: list, status and doctor all tell this.

systemd knows whether its service runs, the daemon whether the TPM does. A unit that is active is not one that answers,
and a TPM that is served is not one that takes commands.
"""

import errno
from enum import Enum, unique
from typing import Any, NamedTuple, Optional, Union

from swtpm_svc.cli.vtpmctl import last_start
from swtpm_svc.cli.vtpmctl.asking import Answer, Unit, failed_with
from swtpm_svc.cli.vtpmctl.host import Places
from swtpm_svc.errors import TCTI, Code, VtpmError, quote
from swtpm_svc.service import failed_start


@unique
class Kind(Enum):
    """The value is what --json says, and what begins the line."""

    NOT_STARTED = "not started"
    STARTING = "starting"
    #: A start that has failed is tried again by systemd.
    RESTARTING = "restarting"
    FAILED = "failed"
    #: The service runs as far as systemd knows, and answers nobody.
    SILENT = "does not answer"
    SERVES = "serves"
    #: The daemon may not be asked, or answers what is no answer.
    UNKNOWN = "not known"


class Condition(NamedTuple):
    """`text`: the whole of it on one line. `problem`: what is wrong, and what to do; None: it serves, and all is well.

    `tpm`: what the TPM itself is, in words; empty where nobody says.
    """

    kind: Kind
    text: str
    problem: Optional[VtpmError] = None
    tpm: str = ""


def judge(instance: str, unit: Unit, answer: "Union[Answer, VtpmError]", places: Places) -> Condition:
    """`answer`: what the daemon said, or why it said nothing."""
    if not isinstance(answer, VtpmError):
        return _serves(unit, answer)
    if answer.code is not Code.DAEMON_UNREACHABLE:
        return Condition(Kind.UNKNOWN, f"not known: {answer.message}", answer)
    known = unit.properties
    if known is None:  # no systemd to be asked: what has no socket does not run
        kind = Kind.SILENT if failed_with(answer) == errno.ETIMEDOUT else Kind.NOT_STARTED
        return Condition(kind, kind.value, answer)
    return _without_answer(instance, unit, known, answer, places)


def _without_answer(instance: str, unit: Unit, known: "dict[str, str]", answer: VtpmError, places: Places) -> Condition:
    state = known.get("ActiveState", "")
    load = known.get("LoadState", "loaded")
    if state in ("inactive", "failed") and load not in ("loaded", ""):
        return _not_loaded(instance, unit, load, places)
    note_path = f"{places.run}/{instance}/{failed_start.NOTE}"
    note = failed_start.read(note_path)
    restarts = _number(known.get("NRestarts"))
    if state == "failed":
        return _failed(instance, unit, restarts, note_path)
    is_tried_again = known.get("SubState", "").startswith("auto-restart") or bool(restarts or note)
    if is_tried_again and (state in ("activating", "deactivating") or known.get("Job")):
        return _restarting(instance, unit, max(restarts, note.tries if note else 0), note_path)
    if state in ("active", "reloading"):
        return _silent(unit, known, answer)
    if state in ("activating", "deactivating"):
        return _changing(unit, state, known.get("StatusText", ""))
    error = VtpmError(
        Code.DAEMON_UNREACHABLE,
        f"{unit.name} is not started",
        remedy=f"start it: systemctl start {unit.name}",
    )
    return Condition(Kind.NOT_STARTED, Kind.NOT_STARTED.value, error)


def _not_loaded(instance: str, unit: Unit, load: str, places: Places) -> Condition:
    path = f"{places.config}/{instance}.toml"
    if load == "masked":
        words, remedy = "is masked: systemd does not start it", f"systemctl unmask {unit.name}"
        remedy = f"{remedy}; systemctl start {unit.name}"
    elif load == "not-found":
        words = "is not installed"
        remedy = f"install the unit vtpm@.service, or run vtpmd --config {quote(path)} --foreground"
    else:
        words = f"cannot be loaded by systemd ({load})"
        remedy = f"see what is wrong with it: systemd-analyze verify {unit.name}"
    error = VtpmError(Code.DAEMON_UNREACHABLE, f"{unit.name} {words}", remedy=remedy)
    return Condition(Kind.NOT_STARTED, f"{Kind.NOT_STARTED.value}: {error.message}", error)


def _failed(instance: str, unit: Unit, restarts: int, note_path: str) -> Condition:
    cause = last_start.cause(unit, instance, note_path)
    again = f"systemctl start {unit.name}"
    if restarts:  # systemd counts starts, and takes no more of them for a while
        again = f"systemctl reset-failed {unit.name}; {again}"
    if cause is None:
        cause = VtpmError(Code.DAEMON_UNREACHABLE, "the cause is not known", remedy=f"journalctl -u {unit.name}")
    tries = f" after {restarts + 1} starts" if restarts else ""
    error = VtpmError(
        cause.code,
        f"{unit.name} failed{tries}: {cause.message}",
        remedy=f"{cause.remedy}; then: {again}" if cause.remedy else again,
    )
    return Condition(Kind.FAILED, f"{Kind.FAILED.value}: {cause.message}", error)


def _restarting(instance: str, unit: Unit, tries: int, note_path: str) -> Condition:
    cause = last_start.cause(unit, instance, note_path)
    words = f"is started again and again, {tries} times so far"
    if cause is not None:
        words += f": {cause.message}"
    error = VtpmError(
        cause.code if cause is not None else Code.DAEMON_UNREACHABLE,
        f"{unit.name} {words}",
        remedy=(cause.remedy if cause is not None else None) or f"see why: journalctl -u {unit.name}",
    )
    return Condition(Kind.RESTARTING, f"{Kind.RESTARTING.value}: {words}", error)


def _changing(unit: Unit, state: str, status_text: str) -> Condition:
    kind = Kind.STARTING
    words = "is starting" if state == "activating" else "is ending"
    if status_text:
        words += f": {status_text}"
    error = VtpmError(
        Code.DAEMON_UNREACHABLE, f"{unit.name} {words}", remedy=f"wait, and see it work: journalctl -f -u {unit.name}"
    )
    return Condition(kind, words.removeprefix("is "), error)


def _silent(unit: Unit, known: "dict[str, str]", answer: VtpmError) -> Condition:
    pid = known.get("MainPID", "0")
    again = f"systemctl restart {unit.name}"
    if failed_with(answer) != errno.ETIMEDOUT:
        words = f"{answer.message}: its socket is gone, though process {pid} runs"
        remedy = f"have it made anew; clients do not notice: {again}"
    else:
        words, remedy = _what_keeps(pid, again)
    error = VtpmError(Code.DAEMON_UNREACHABLE, words, remedy=remedy)
    return Condition(Kind.SILENT, f"{Kind.SILENT.value}: {words}", error)


def _what_keeps(pid: str, again: str) -> "tuple[str, str]":
    state = _process_state(pid)
    if state in ("T", "t"):
        return (
            f"process {pid} is stopped, by a signal or a debugger",
            f"let it go on: kill -CONT {pid}; else systemd ends it, and starts it again",
        )
    if state == "D":
        return (
            f"process {pid} waits for a disk",
            "see what the kernel says of it: journalctl -k; it goes on by itself when the disk answers",
        )
    return (
        f"process {pid} runs, and gives no answer in time",
        f"systemd ends it within a minute if it hangs, and starts it again; or at once: {again}",
    )


def _process_state(pid: str) -> str:
    """The letter of proc(5); empty: it is gone, or cannot be seen."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(") ")[2][:1]
    except (OSError, ValueError):
        return ""


def _number(text: Optional[str]) -> int:
    return int(text) if text and text.isdigit() else 0


# --- what the TPM says ------------------------------------------------------------------------------------------------


def _serves(unit: Unit, answer: Answer) -> Condition:
    tpm = answer.get("tpm")
    words, problem = _tpm(tpm if isinstance(tpm, dict) else {})
    state = (unit.properties or {}).get("ActiveState")
    if state == "activating":
        error = problem or VtpmError(
            Code.DAEMON_UNREACHABLE,
            f"{unit.name} is starting: it serves already, and waits for its ways in",
            remedy=f"wait, and see it work: journalctl -f -u {unit.name}",
        )
        return Condition(Kind.STARTING, "starting", error, words)
    text = f"{Kind.SERVES.value}, TPM {words}" if words else Kind.SERVES.value
    return Condition(Kind.SERVES, text, problem, words)


def _tpm(tpm: "dict[str, Any]") -> "tuple[str, Optional[VtpmError]]":
    """In words, and what is wrong with it."""
    power = tpm.get("power")
    if power == "failed":
        return "failed", _failure(tpm.get("failure"))
    if power in ("off", "stopped"):
        return "off", None
    says = tpm.get("says")
    if not isinstance(says, dict):
        return "", None
    if says.get("started") is False:
        return "not started", None
    lockout = says.get("lockout")
    if not isinstance(lockout, dict):
        return "ok", None
    return _lockout(lockout)


def _lockout(lockout: "dict[str, Any]") -> "tuple[str, Optional[VtpmError]]":
    failures, limit = (one if isinstance(one, int) else "?" for one in (lockout.get("failures"), lockout.get("limit")))
    count = f"{failures} of {limit} failed authorizations"
    if not lockout.get("locked"):
        return (f"ok, {count}" if failures else "ok"), None
    each = lockout.get("interval_s")
    wait = f", or wait: one is forgiven every {each} s" if isinstance(each, int) and each else ""
    return f"locked out, {count}", VtpmError(
        Code.AUTH_FAILED,
        f"the TPM is locked out: {count}; it refuses what dictionary attacks are held off from",
        remedy=f"tpm2_dictionarylockout -T {TCTI} --clear-lockout{wait}",
    )


def _failure(failure: object) -> VtpmError:
    words = failure if isinstance(failure, dict) else {}
    message, remedy = (_printable(words.get(name)) for name in ("message", "remedy"))
    heals = "it then goes on by itself, with its PCRs and sessions" if words.get("heals") else ""
    remedies = "; ".join(part for part in (remedy, heals) if part)
    return VtpmError(
        Code.TPM_FAILED, f"the TPM has failed: {message or 'the daemon does not say why'}", remedy=remedies or None
    )


def _printable(text: object) -> str:
    """What another process says, for a line of a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text) if isinstance(text, str) else ""
