"""swtpm's log: lines on standard error, or in a file or descriptor of the caller's. Indentation is the level.

Level n writes lines that begin with fewer than n blanks: 0 nothing, 1 errors and notices, 2 the traffic as well. From 5
on libtpms writes its own log (swtpm(8), --log).
"""

import os

from swtpm_svc.errors import VtpmError
from swtpm_svc.wire.hints import Optional, Union

#: From here on libtpms logs, at the level less four.
LIBRARY_LEVEL = 5
TRAFFIC_LEVEL = 2
DEFAULT_PREFIX = "swtpm: "
_LINE = 16


class EmulationLog:
    """Where a classic command says what it has to; standard error with swtpm's prefix until `--log` was read."""

    def __init__(self, fd: Optional[int] = 2, *, level: int = 1, prefix: str = DEFAULT_PREFIX) -> None:
        #: None: nothing is written at all.
        self.fd = fd
        self.level = level
        self.prefix = prefix

    def line(self, text: str) -> None:
        """Write one line, if its indentation lets it through. Never raises: a full disk takes nobody the TPM."""
        if self.fd is None or self.level <= len(text) - len(text.lstrip(" ")):
            return
        try:
            os.write(self.fd, f"{self.prefix}{text}\n".encode(errors="surrogateescape"))
        except OSError:
            pass

    def error(self, error: VtpmError) -> None:
        self.line(error.message)

    @property
    def has_traffic(self) -> bool:
        return self.fd is not None and self.level >= TRAFFIC_LEVEL

    def traffic(self, what: str, data: Union[bytes, bytearray, memoryview]) -> None:
        """What went over a channel: its length, and its bytes in hexadecimal."""
        self.line(f" {what}: length {len(data)}")
        for start in range(0, len(data), _LINE):
            self.line(" " + "".join(f"{byte:02X} " for byte in data[start : start + _LINE]))
