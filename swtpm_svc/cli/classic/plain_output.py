"""Standard output and error of commands that import little: bytes to the descriptor, no streams, no buffers."""

import os


def write_all(descriptor: int, data: bytes) -> None:
    """
    Raises:
        OSError
    """
    while data:
        data = data[os.write(descriptor, data) :]


def write_output(text: str) -> None:
    """Words that came from the command line go out as the bytes that they were.

    Raises:
        OSError: standard output is closed, full, or read by nobody.
    """
    write_all(1, os.fsencode(text))


def write_error(message: str, end: str = "\n") -> None:
    """Where it cannot be written there is nobody to tell."""
    try:
        write_all(2, os.fsencode(message + end))
    except OSError:
        pass
