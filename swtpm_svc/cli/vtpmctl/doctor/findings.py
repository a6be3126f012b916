"""What a finding is, and how other programs are asked for one."""

import subprocess
from typing import NamedTuple, Optional

from swtpm_svc.errors import Code, VtpmError

COMMAND_TIME_S = 60
OK, WARN, FAIL = "ok", "warn", "fail"


class Finding(NamedTuple):
    """The answer to one question; `problem` is what to tell about a `warn` or a `fail`."""

    verdict: str
    check: str
    text: str
    problem: Optional[VtpmError] = None


def good(check: str, text: str) -> Finding:
    return Finding(OK, check, text)


def bad(check: str, text: str, remedy: str, *, code: Code = Code.INSTALLATION, verdict: str = FAIL) -> Finding:
    return Finding(verdict, check, text, VtpmError(code, f"{check}: {text}", remedy=remedy))


def warn(check: str, text: str, remedy: str, *, code: Code = Code.INSTALLATION) -> Finding:
    return bad(check, text, remedy, code=code, verdict=WARN)


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    """
    Raises:
        FileNotFoundError: there is no such program.
    """
    try:
        return subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=COMMAND_TIME_S,
            check=False,
            encoding="utf-8",
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(words, 1, "", "")
