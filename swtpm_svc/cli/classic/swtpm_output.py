"""What swtpm and swtpm_cuse print, and how a fault of ours ends: in one line, never in a traceback."""

import sys

from swtpm_svc.errors import VtpmError
from swtpm_svc.wire.hints import Callable

#: The shells' convention for "ended by SIGPIPE", as which swtpm ends when nobody reads what it prints.
STATUS_BROKEN_PIPE = 141


def say(text: str) -> None:
    """Print `text` as it is.

    Raises:
        BrokenPipeError, VtpmError: it cannot be printed.
    """
    from swtpm_svc.cli import output

    output.write(sys.stdout, text)


def complain(text: str) -> None:
    """The same on standard error."""
    from swtpm_svc.cli import output

    output.write(sys.stderr, text)


def guarded(work: Callable[[], int]) -> int:
    """What `work` gives, or the status of what it did not expect."""
    try:
        return work()
    except BrokenPipeError:
        return STATUS_BROKEN_PIPE
    except VtpmError as error:
        message = error.message
    except Exception as error:
        message = f"a fault of this program ({type(error).__name__}: {(str(error).splitlines() or [''])[0]})"
    try:
        sys.stderr.write(f"swtpm: {message}\n")
    except (OSError, AttributeError):
        pass  # nobody can be told
    return 1
