"""How swtpm_setup, swtpm_localca and swtpm_cert end when they cannot print, and at a fault of ours: with one line, and
never in a traceback."""

import os
import signal
import sys
from typing import Callable, Optional, TextIO

#: The shells' convention for "ended by SIGPIPE".
_BROKEN_PIPE = 141


class Ended(BaseException):
    """A signal ends the command, by its `number`; what is half done is taken back on the way."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def guarded(program: str, work: Callable[[], int]) -> int:
    """What `work` gives when all is printed; else the status of a failure, which `program` has told."""
    if sys.stdout is None:  # the caller closed it, and hears nothing
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (it is to stay open)
    try:
        status = work()
        sys.stdout.flush()
    except Ended as ended:
        signal.signal(ended.number, signal.SIG_DFL)
        os.kill(os.getpid(), ended.number)
        status, message = 128 + ended.number, ""
    except BrokenPipeError:
        status, message = _BROKEN_PIPE, ""
    except OSError as error:
        status, message = 1, error.strerror or str(error)
    except Exception as error:
        status = 1
        message = f"a fault of this program ({type(error).__name__}: {(str(error).splitlines() or [''])[0]})"
    else:
        message = ""
    _settle(sys.stdout)
    try:
        if message:
            print(f"{program}: {message}", file=sys.stderr)
    except OSError:
        pass  # nobody can be told
    _settle(sys.stderr)
    return status


def _settle(stream: Optional[TextIO]) -> None:
    """Let go of what cannot be written: at its end the interpreter would complain of it, with a status of its own."""
    if stream is None:
        return
    try:
        stream.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
