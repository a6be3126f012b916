"""Which TPM of the kernel belongs to an instance: /run/vtpm/.kernel-tpm/NAME, in a directory that only root writes to.

It holds one line such as "tpm3 2.0 4711": the kernel's name, the TPM's version, and the inode of /run/vtpm/NAME. That
one systemd makes and removes together with the descriptor that keeps the TPM, so what a stopped service has left does
not count. What root and udev believe must not lie in /run/vtpm/NAME itself, which belongs to the service's user.
"""

import os

from swtpm_svc.wire.hints import Optional
from swtpm_svc.wire.small_tools import suppress
from swtpm_svc.wire.values import NamedTuple

#: In the directory of the instances' runtime directories; no instance has such a name.
FOLDER = ".kernel-tpm"
RUNTIME_DIRECTORY = "/run/vtpm"
_NEW = ".new-"
_LINE_PATTERN = r"tpm([0-9]{1,5}) (1\.2|2\.0) ([0-9]{1,20})\n"


class KernelTpmRecord(NamedTuple):
    number: int
    version: str


def read(instance: str, run: str = RUNTIME_DIRECTORY) -> Optional[KernelTpmRecord]:
    """None where there is no record, it says something else, or it is of a service that was stopped meanwhile."""
    try:
        fd = os.open(_path(instance, run), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        import re  # which the start of a daemon without one does not wait for

        found = re.fullmatch(_LINE_PATTERN, os.read(fd, 64).decode("ascii"))
        is_current = found is not None and int(found[3]) == os.stat(f"{run}/{instance}").st_ino
    except (OSError, UnicodeDecodeError):
        return None
    finally:
        os.close(fd)
    return KernelTpmRecord(int(found[1]), found[2]) if found and is_current else None


def find(number: int, run: str = RUNTIME_DIRECTORY) -> Optional[str]:
    """The instance to which the kernel's TPM of this number belongs."""
    try:
        names = sorted(name for name in os.listdir(f"{run}/{FOLDER}") if not name.startswith(_NEW))
    except OSError:
        return None
    records = ((name, read(name, run)) for name in names)
    return next((name for name, record in records if record is not None and record.number == number), None)


def write(instance: str, record: KernelTpmRecord, run: str = RUNTIME_DIRECTORY) -> None:
    """Write the record whole or not at all, readable by all. Others' records of that number go: it was given anew.

    Raises:
        OSError
    """
    folder = f"{run}/{FOLDER}"
    with suppress(FileExistsError):
        os.mkdir(folder)
        os.chmod(folder, 0o755)  # whatever the umask is
    while (other := find(record.number, run)) is not None:
        remove(other, run)
    temporary = f"{folder}/{_NEW}{os.getpid()}"
    with suppress(FileNotFoundError):
        os.unlink(temporary)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.fchmod(fd, 0o644)
        os.write(fd, f"tpm{record.number} {record.version} {os.stat(f'{run}/{instance}').st_ino}\n".encode())
    finally:
        os.close(fd)
    os.rename(temporary, _path(instance, run))


def remove(instance: str, run: str = RUNTIME_DIRECTORY) -> None:
    """Nothing if there is none. Raises: OSError."""
    with suppress(FileNotFoundError):
        os.unlink(_path(instance, run))


def _path(instance: str, run: str) -> str:
    return f"{run}/{FOLDER}/{instance}"
