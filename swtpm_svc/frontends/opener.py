"""One open file of a TPM device, as the kernel's /dev/tpm0 has it (drivers/char/tpm/tpm-dev-common.c).

A write is one command, reads give its response, in pieces if need be, and a write while a response is unread is EBUSY.
"""

import errno
from typing import Optional, Union

from swtpm_svc.tpm.libtpms import BUFFER_SIZE
from swtpm_svc.wire.tpm import HEADER, HEADER_SIZE

#: Files that may be open at a time; each may hold a response of 4 KiB.
MAX_OPENERS = 1024


class Opener:
    """The command that an open file has in work, or its response."""

    __slots__ = ("command", "position", "response")

    def __init__(self) -> None:
        self.response: Optional[bytes] = None
        #: How much of the response was read.
        self.position = 0
        #: The request whose command is on the worker, or waits for it; 0: none.
        self.command = 0

    def admit(self, data: Union[bytes, memoryview]) -> int:
        """The command code of what was written, which may be executed now; else a negative errno."""
        if self.response is not None or self.command:
            return -errno.EBUSY
        size = len(data)
        if size > BUFFER_SIZE:
            return -errno.E2BIG
        if size < HEADER_SIZE:
            return -errno.EINVAL
        _tag, length, code = HEADER.unpack_from(data)
        return -errno.EINVAL if length > size else int(code)

    def take(self, size: int) -> bytes:
        """The next bytes of the response, which is gone once it was read to its end."""
        response, start = self.response or b"", self.position
        end = start + size
        if end < len(response):
            self.position = end
            return response[start:end]
        self.response = None
        return response[start:] if start else response
