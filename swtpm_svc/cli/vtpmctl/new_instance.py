"""The configuration of a new instance, whether its TPM is made or brought: written whole, never over another one."""

import os
import secrets
from contextlib import suppress

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.state.file_errors import write_error
from swtpm_svc.state.files import is_draft
from swtpm_svc.state.filling import NEW

_AS_ROOT = "do this as root"


def refuse_configured(path: str, name: str) -> None:
    if os.path.lexists(path):
        raise VtpmError(
            Code.ALREADY_PROVISIONED,
            f"{path} exists",
            remedy=f"choose another name; or see what it is: vtpmctl status {name}",
        )


def write(path: str, name: str, text: str) -> None:
    """Write the file whole, never over another one.

    The caller has the lock, so a half-written file was left by a crash.
    """
    directory = os.path.dirname(path)
    temporary = f"{directory}/{NEW}{secrets.token_hex(4)}"
    try:
        for other in os.listdir(directory):
            if is_draft(other):
                with suppress(OSError):
                    os.unlink(f"{directory}/{other}")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            with open(fd, "w", encoding="utf-8") as file:
                os.fchmod(fd, 0o644)  # whatever the umask: the service's user reads it
                file.write(text)
                file.flush()
                os.fsync(fd)
            os.link(temporary, path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        except OSError:
            os.unlink(path)  # with the error the state goes
            raise
        finally:
            os.close(folder)
    except FileExistsError:
        refuse_configured(path, name)
        raise
    except OSError as error:
        raise write_error(path, error, denied=_AS_ROOT) from error
