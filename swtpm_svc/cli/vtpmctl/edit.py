"""`vtpmctl edit`: an instance's configuration in an editor; only what is right takes the old one's place."""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress

from swtpm_svc.cli import operator_files
from swtpm_svc.cli.command import Report
from swtpm_svc.cli.vtpmctl.host import Places
from swtpm_svc.config import loading
from swtpm_svc.errors import Code, VtpmError, quote
from swtpm_svc.state.file_errors import read_error, write_error

#: As systemctl edit has it.
_VARIABLES = ("SYSTEMD_EDITOR", "EDITOR", "VISUAL")
_EDITORS = ("editor", "nano", "vim", "vi")
_AS_ROOT = "do this as root"


def run(places: Places, *, name: str, unit: bool) -> Report:
    """
    Raises:
        VtpmError USAGE: there is no terminal, or no editor. CONFIG_*: there is no such instance, or what was written is
        wrong; then nothing has changed. STATE_UNREADABLE, STATE_UNWRITABLE, STATE_FULL.
    """
    path = f"{places.config}/{name}.toml"
    if unit:
        from swtpm_svc.cli.vtpmctl import units

        units.become(["systemctl", "edit", f"vtpm@{name}.service"], "there are no units without systemd")
    before = _read(path, name)
    with tempfile.TemporaryDirectory(prefix="vtpmctl-") as folder:
        draft = f"{folder}/{name}.toml"
        with open(draft, "w", encoding="utf-8") as file:
            file.write(before)
        _edit(draft)
        after = _read(draft, name)
        if after == before:
            return Report(f"{name}: nothing was changed", {"instance": name, "config": path, "changed": False})
        try:
            loading.parse(after, path, name)
        except VtpmError as error:
            error.remedy = f"{error.remedy}; {_keep(after, name)}"
            raise
    _replace(path, after)
    text = f"{name}: {path} is changed; systemctl reload vtpm@{name} takes over [control] and [log] level, all else takes a stop and a start"
    return Report(text, {"instance": name, "config": path, "changed": True})


def _read(path: str, name: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except FileNotFoundError:
        cause = f"{path} does not exist"
        raise VtpmError(
            Code.CONFIG_MISSING,
            cause,
            remedy=f"see those that there are: vtpmctl list; or make it: vtpmctl create {name}",
        ) from None
    except OSError as error:
        raise read_error(path, error, denied=_AS_ROOT) from error


def _edit(draft: str) -> None:
    if not sys.stdin or not sys.stdin.isatty():
        raise VtpmError(
            Code.USAGE, "there is no terminal for an editor", remedy="edit the file itself, then vtpmctl check"
        )
    chosen = next((os.environ[name] for name in _VARIABLES if os.environ.get(name)), "")
    command = shlex.split(chosen) or [next((name for name in _EDITORS if shutil.which(name)), "")]
    try:
        status = subprocess.run([*command, draft], check=False).returncode
    except OSError as error:
        raise VtpmError(
            Code.USAGE, f"the editor {command[0]!r} cannot be run ({error.strerror})", remedy="name another one: EDITOR"
        ) from error
    if status:
        raise VtpmError(Code.USAGE, f"the editor ended with status {status}", remedy="nothing was changed: try again")


def _keep(text: str, name: str) -> str:
    """What was written is not lost with its fault."""
    fd, kept = tempfile.mkstemp(prefix=f"vtpmctl-{name}-", suffix=".toml")
    with open(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
    return f"nothing was changed, and what you wrote is in {quote(kept)}"


def _replace(path: str, text: str) -> None:
    """Whole, with the old one's owner and mode; SELinux gives the label of the directory."""
    try:
        old = os.stat(path)
        operator_files.write_whole(path, text.encode("utf-8", "surrogateescape"))
        with suppress(PermissionError):
            os.chown(path, old.st_uid, old.st_gid)
        os.chmod(path, old.st_mode & 0o7777)
    except OSError as error:
        raise write_error(path, error, denied=_AS_ROOT) from error
