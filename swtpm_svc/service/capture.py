"""A TPM's commands and responses in a capture file, as packets of one TCP connection (wire/pcapng).

Each run appends a section of its own: the connection begins with it and ends with it. It holds what the TPM is told,
passwords in clear among it. Whether it can be written decides about nothing else: errors are left alone.
"""

import os
import random
import stat
import time
from typing import Union

from swtpm_svc.state import named_files
from swtpm_svc.wire import pcapng
from swtpm_svc.wire.pcapng import Flag

MODE = 0o640
_SYN, _ACK, _DATA, _END = Flag.SYN, Flag.ACK, Flag.PSH | Flag.ACK, Flag.FIN | Flag.ACK


def open_file(path: str, *, truncate: bool = False, mode: int = MODE) -> int:
    """The descriptor of a capture file, which has this mode whatever the umask says.

    Raises:
        OSError
    """
    flags = os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | (os.O_TRUNC if truncate else 0)
    fd = named_files.open_output(path, flags, mode, takes_readers=True)
    try:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            os.fchmod(fd, mode)
    except PermissionError:
        pass  # somebody else's, who lets us write
    return fd


class Capture:
    """The connection; owns `fd`. The client's end is the first of each pair, the TPM's the second."""

    def __init__(self, fd: int, *, checksums: bool = False) -> None:
        self._fd = fd
        self._checksums = checksums
        self._ports = random.choice(pcapng.CLIENT_PORTS), pcapng.TPM_PORT
        self._sent = [0, 0]
        self._write(pcapng.begin())
        self._packet(0, _SYN)
        self._packet(1, _SYN | _ACK)
        self._packet(0, _ACK)

    def exchange(self, command: Union[bytes, bytearray, memoryview], response: bytes) -> None:
        """A command was executed."""
        self._packet(0, _DATA, bytes(command))
        self._packet(1, _DATA, response)

    def close(self) -> None:
        for sender, flags in ((0, _END), (1, _END), (0, _ACK)):
            self._packet(sender, flags)
        os.close(self._fd)

    def _packet(self, sender: int, flags: int, data: bytes = b"") -> None:
        receiver = 1 - sender
        frame = pcapng.segment(
            self._ports[sender],
            self._ports[receiver],
            self._sent[sender],
            self._sent[receiver] if flags & _ACK else 0,
            flags,
            data,
            checksums=self._checksums,
        )
        counts = len(data) + bool(flags & (Flag.SYN | Flag.FIN))
        self._sent[sender] = (self._sent[sender] + counts) & 0xFFFFFFFF
        self._write(pcapng.packet(time.time_ns() // 1000, frame))

    def _write(self, data: bytes) -> None:
        try:
            os.write(self._fd, data)
        except OSError:
            pass
