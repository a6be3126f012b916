"""vtpmctl start, stop, restart, enable, disable and logs: what systemctl and journalctl do, for an instance by its name."""

import os
import subprocess
import sys
from argparse import ArgumentTypeError
from typing import NoReturn, Optional

from swtpm_svc.cli.command import Report
from swtpm_svc.cli.vtpmctl.host import Places
from swtpm_svc.config import loading
from swtpm_svc.errors import Code, VtpmError

#: What systemctl says where the caller's rights are not enough.
_DENIED = ("access denied", "authentication", "permission denied", "not permitted")
_NO_SYSTEMD = ("not been booted with systemd", "failed to connect to bus")


def start(places: Places, *, name: str) -> Report:
    _require(places, name)
    return _done(name, "started", _ask("start", name))


def stop(_places: Places, *, name: str) -> Report:
    return _done(name, "stopped", _ask("stop", name))


def restart(places: Places, *, name: str) -> Report:
    _require(places, name)
    return _done(name, "restarted; its clients go on where they were", _ask("restart", name))


def enable(places: Places, *, name: str, now: bool) -> Report:
    _require(places, name)
    told = _ask("enable", name, *(["--now"] if now else []))
    return _done(name, "started now and at each boot" if now else "is started at each boot", told)


def disable(_places: Places, *, name: str, now: bool) -> Report:
    told = _ask("disable", name, *(["--now"] if now else []))
    return _done(name, "stopped, and not started at boot any more" if now else "is not started at boot any more", told)


def logs(_places: Places, *, name: str, follow: bool, lines: Optional[int], as_json: bool) -> NoReturn:
    """Become journalctl, with its pager: this process ends here."""
    command = ["journalctl", "-u", f"vtpm@{name}.service", "-u", f"vtpm@{name}.socket"]
    command += ["-n", str(lines)] if lines is not None else []
    command += ["-f"] if follow else ["-e"] if sys.stdout and sys.stdout.isatty() else []
    command += ["-o", "json"] if as_json else []
    become(command, "its entries are elsewhere without systemd: run vtpmd with --foreground")


def count(text: str) -> int:
    """--lines. Raises: ArgumentTypeError."""
    if not (text.isdecimal() and len(text) < 10):
        raise ArgumentTypeError(f"found {text!r}, expected a number")
    return int(text)


def become(command: "list[str]", remedy: str) -> NoReturn:
    """Put another program in this process's place.

    Raises:
        VtpmError INSTALLATION: there is no such program.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream:
            stream.flush()
    try:
        os.execvp(command[0], command)
    except OSError as error:
        raise VtpmError(Code.INSTALLATION, f"{command[0]} cannot be run ({error.strerror})", remedy=remedy) from error


def _require(places: Places, name: str) -> None:
    """An instance that cannot be started is not tried.

    Raises:
        VtpmError CONFIG_MISSING, CONFIG_UNREADABLE, CONFIG_INVALID.
    """
    loading.load(f"{places.config}/{name}.toml", name)


def _ask(word: str, name: str, *options: str) -> "list[str]":
    """Let systemctl do it; what it has to tell nevertheless.

    Raises:
        VtpmError DAEMON_UNREACHABLE, NOT_PERMITTED, INSTALLATION: it did not.
    """
    unit = f"vtpm@{name}.service"
    try:
        # it may ask for a password, on the terminal
        done = subprocess.run(
            ["systemctl", word, *options, "--", unit],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
            encoding="utf-8",
            errors="backslashreplace",
        )
    except OSError as error:
        raise VtpmError(
            Code.INSTALLATION,
            f"systemctl cannot be run ({error.strerror})",
            remedy=f"without systemd: vtpmd {name} --foreground",
        ) from error
    told = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    if done.returncode == 0:
        return told
    said = " ".join(told).lower()
    if any(words in said for words in _NO_SYSTEMD):
        raise VtpmError(
            Code.DAEMON_UNREACHABLE,
            f"systemd does not run here: {told[0]}",
            remedy=f"without it: vtpmd {name} --foreground",
        )
    if any(words in said for words in _DENIED):
        raise VtpmError(Code.NOT_PERMITTED, f"systemctl {word} {unit}: {told[-1]}", remedy="do this as root")
    raise VtpmError(
        Code.DAEMON_UNREACHABLE,
        f"systemctl {word} {unit} failed: {_cause(name) or (told[0] if told else f'status {done.returncode}')}",
        remedy=f"see all that it said: vtpmctl logs {name}",
    )


def _cause(name: str) -> str:
    """What the daemon has said last, if it has failed."""
    from swtpm_svc.cli.vtpmctl.asking import ask_systemd
    from swtpm_svc.service import failed_start

    known = ask_systemd([name])[0].properties or {}
    if known.get("ActiveState") not in ("failed", "activating"):
        return ""
    text = known.get("StatusText", "")
    told = failed_start.parse(text)
    return told.message if told is not None else text


def _done(name: str, text: str, told: "list[str]") -> Report:
    return Report("\n".join([f"{name}: {text}", *told]), {"instance": name, "done": text, "told": told})
