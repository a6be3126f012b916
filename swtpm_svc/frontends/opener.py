"""One open file of a TPM device, as the kernel's /dev/tpm0 has it (drivers/char/tpm/tpm-dev-common.c).

A write is one command, reads give its response, in pieces if need be. A write while nobody has begun to read the
response is EBUSY; one after a piece was read is the next command, and what is left of the response is gone.
"""

import errno

from swtpm_svc.tpm.libtpms import BUFFER_SIZE
from swtpm_svc.wire.hints import Optional, Union
from swtpm_svc.wire.tpm_header import HEADER, HEADER_SIZE

#: Files that one user may have open at a time, of the MAX_OPENERS that there are (Shares); each may hold a command and
#: a response of 4 KiB.
MAX_OPENERS_OF_ONE = 256


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
        """The command code of what was written, which may be executed now; else a negative errno, and nothing has
        changed."""
        size = len(data)
        if size > BUFFER_SIZE:
            return -errno.E2BIG
        if self.command or (self.response is not None and not self.position):
            return -errno.EBUSY
        if size < HEADER_SIZE:
            return -errno.EINVAL
        _tag, length, code = HEADER.unpack_from(data)
        if length > size:
            return -errno.EINVAL
        self.response = None
        return int(code)

    def take(self, size: int) -> bytes:
        """The next bytes of the response, which is gone once it was read to its end."""
        response, start = self.response or b"", self.position
        end = start + size
        if end < len(response):
            self.position = end
            return response[start:end]
        self.response = None
        return response[start:] if start else response
