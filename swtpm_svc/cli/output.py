"""Writing to standard output and error: what cannot be written is an error like any other, and never a traceback.

A process that has become another user needs it too, and may not be able to read other modules.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Optional, TextIO

from swtpm_svc.errors import Code, VtpmError


def error_values(error: VtpmError) -> "dict[str, Any]":
    """What --json says of it."""
    return {
        "code": error.code.value,
        "message": error.message,
        "remedy": error.remedy,
        "exit_status": error.fault.exit_status,
    }


def write(stream: Optional[TextIO], text: str) -> None:
    """Write and flush; characters that the locale does not have are written as escapes.

    Raises:
        BrokenPipeError: nobody reads it any more. VtpmError STATE_UNWRITABLE: it cannot be written.
    """
    if stream is None:  # the caller closed it
        return
    encoding = stream.encoding or "ascii"
    with _writing(stream):
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()


def write_data(stream: Optional[TextIO], data: bytes) -> None:
    """Write bytes that are not text.

    Raises:
        BrokenPipeError, VtpmError STATE_UNWRITABLE: as write(). VtpmError USAGE: it is a terminal.
    """
    if stream is None:
        return
    if stream.isatty():
        raise VtpmError(
            Code.USAGE, "DER is binary, and not for a terminal", remedy="name a file with --output, or use --pem"
        )
    with _writing(stream):
        stream.buffer.write(data)
        stream.flush()


@contextmanager
def _writing(stream: TextIO) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        _forget(stream)
        raise
    except OSError as error:
        _forget(stream)
        raise VtpmError(
            Code.STATE_UNWRITABLE,
            f"the output cannot be written ({error.strerror})",
            remedy="write it to another place",
        ) from error


def _forget(stream: TextIO) -> None:
    """Let go of what is still buffered; without this the interpreter would complain about it at its end."""
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(null, stream.fileno())
    os.close(null)
