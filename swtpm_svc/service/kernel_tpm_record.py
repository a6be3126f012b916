"""Which TPM of the kernel belongs to an instance: a file in its runtime directory, /run/vtpm/NAME/kernel-tpm.

It holds one line such as "tpm3 2.0": the kernel's name and the TPM's version. The directory belongs to the service's
user, and root reads and writes here too: no link is followed, and nothing but such a line is believed.
"""

import os
import re
from typing import NamedTuple, Optional

FILE_NAME = "kernel-tpm"
_LINE = re.compile(r"tpm([0-9]{1,5}) (1\.2|2\.0)\n")


class KernelTpmRecord(NamedTuple):
    number: int
    version: str


def read(path: str) -> Optional[KernelTpmRecord]:
    """None where there is no such file, or it says something else."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        found = _LINE.fullmatch(os.read(fd, 32).decode("ascii"))
    except (OSError, UnicodeDecodeError):
        return None
    finally:
        os.close(fd)
    return KernelTpmRecord(int(found[1]), found[2]) if found else None


def write(path: str, record: KernelTpmRecord) -> None:
    """There whole or not at all; readable by all.

    Raises:
        OSError
    """
    temporary = f"{path}.new"
    try:
        os.unlink(temporary)
    except FileNotFoundError:
        pass
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.fchmod(fd, 0o644)  # whatever the umask is
        os.write(fd, f"tpm{record.number} {record.version}\n".encode())
    finally:
        os.close(fd)
    os.rename(temporary, path)
