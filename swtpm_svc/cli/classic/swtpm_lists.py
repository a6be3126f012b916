"""What stands in the comma lists of swtpm's options, as values: log, pid, tpmstate, locality, flags and others.

Those of channels are in swtpm_channels.py, those of keys in swtpm_keys.py. An option that was not given has the value
of an empty list.
"""

import os

from swtpm_svc.cli.classic import comma_list
from swtpm_svc.cli.classic.comma_list import CommaListError
from swtpm_svc.cli.classic.swtpm_options import CommandError
from swtpm_svc.service.classic.emulation import PidFile
from swtpm_svc.service.classic.emulation_log import EmulationLog
from swtpm_svc.wire.hints import Any, Callable, Optional
from swtpm_svc.wire.values import NamedTuple

#: (several startups: the first one here counts)
STARTUPS = ("clear", "state", "deactivated", "none")
_PROFILE_MAX = 1 << 16
_FILE_URI, _DIR_URI = "file://", "dir://"


class StateOptions(NamedTuple):
    """--tpmstate. `directory` and `file`: one of them is there, or none ("")."""

    directory: str = ""
    file: str = ""
    mode: Optional[int] = None
    lock: Optional[bool] = None
    backup: bool = False
    fsync: bool = False


class Flags(NamedTuple):
    """--flags. `startup`: one of `STARTUPS`."""

    needs_init: bool = True
    startup: str = "none"
    auto_shutdown: bool = True


class Locality(NamedTuple):
    """--locality."""

    reject_4: bool = False
    allow_set: bool = False


def parse(text: str, what: str, names: "tuple[str, ...]") -> "dict[str, str]":
    """comma_list.parse(), whose errors are then those of a command. Raises: CommandError."""
    try:
        return comma_list.parse(text, what, names)
    except CommaListError as error:
        raise CommandError(str(error)) from None


def value_of(values: "dict[str, str]", name: str, what: str, read: "Callable[[str], Any]") -> Any:
    """The value of a word that is there, as `read` makes it; None: it is not there. Raises: CommandError."""
    text = values.get(name)
    if text is None:
        return None
    try:
        return read(text)
    except CommaListError as error:
        raise CommandError(f"Error parsing {what} options: {error}") from None


def number_of(values: "dict[str, str]", name: str, what: str) -> int:
    """A word's number; -1: it is not there. Raises: CommandError."""
    found = value_of(values, name, what, comma_list.number)
    return -1 if found is None else int(found)


def log(text: str) -> EmulationLog:
    """Open the log that --log asks for. Raises: CommandError."""
    values = parse(text, "logging", ("file", "fd", "level", "prefix", "truncate"))
    fd_number = number_of(values, "fd", "logging")
    level = number_of(values, "level", "logging")
    prefix = values.get("prefix", "")
    log_fd: Optional[int] = 2
    if values.get("file") == "-":
        log_fd = None
    elif "file" in values:
        log_fd = _open_log(values["file"], truncate=comma_list.boolean(values, "truncate"))
    elif "fd" in values:
        log_fd = _adopt_log(fd_number)
    return EmulationLog(log_fd, level=1 if level < 0 else level, prefix=prefix)


def _open_log(path: str, *, truncate: bool) -> int:
    from swtpm_svc.state import named_files

    flags = os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | (os.O_TRUNC if truncate else 0)
    try:
        return named_files.open_output(path, flags, 0o600, takes_readers=True)
    except OSError as error:
        raise CommandError(f"Could not open logfile for writing: {error.strerror}: {path}") from None


def _adopt_log(fd: int) -> int:
    try:
        _adopt(fd)
    except OSError as error:
        raise CommandError(f"Could not access logfile using fd {fd}: {error.strerror}") from None
    return fd


def _adopt(fd: int) -> None:
    """The caller's descriptor is written to. Raises: OSError: it cannot be."""
    from swtpm_svc.state import named_files

    named_files.refuse_unwritable(fd)
    os.set_inheritable(fd, False)


def pid_file(text: str) -> PidFile:
    """Raises: CommandError."""
    # the file is opened with it, too, when clients can come already, some of whom look for the pid
    from swtpm_svc.state import named_files

    values = parse(text, "pid", ("file", "fd"))
    number = number_of(values, "fd", "pid")
    if "file" in values:
        return PidFile(path=os.path.abspath(values["file"]))
    if "fd" not in values:
        raise CommandError("The file or fd parameter is required for the pid option.")
    try:
        named_files.refuse_unwritable(number, only_regular=True)
    except OSError:
        raise CommandError(f"Bad filedescriptor {number} for pid file") from None
    return PidFile(fd=number)


def state(text: Optional[str]) -> StateOptions:
    """--tpmstate, or TPM_PATH where it is not given. Raises: CommandError."""
    if text is None:
        path = os.environ.get("TPM_PATH", "")
        return StateOptions(directory=_absolute(path) if path else "")
    values = parse(text, "tpmstate", ("dir", "mode", "backend-uri", "lock", "backup", "fsync"))
    mode = value_of(values, "mode", "tpmstate", comma_list.mode)
    options = StateOptions(
        mode=mode,
        lock=comma_list.boolean(values, "lock") if "lock" in values else None,
        backup=comma_list.boolean(values, "backup"),
        fsync=comma_list.boolean(values, "fsync"),
    )
    if "dir" in values:
        return options._replace(directory=_absolute(values["dir"]))
    uri = values.get("backend-uri")
    if uri is None:
        raise CommandError("The dir or backend-uri parameters is required for the tpmstate option.")
    if uri.startswith(_DIR_URI):
        return options._replace(directory=_absolute(uri[len(_DIR_URI) :]))
    if not uri.startswith(_FILE_URI):
        raise CommandError("SWTPM_NVRAM_Init: Unsupported backend.")
    for name, is_wanted in (("backup", options.backup), ("fsync", options.fsync)):
        if is_wanted:
            what = f"The {name} option is not supported with this storage backend"
            raise CommandError(f"SWTPM_NVRAM_PrepareLinear: {what}")
    return options._replace(file=_absolute(uri[len(_FILE_URI) :]))


def _absolute(path: str) -> str:
    try:
        return os.path.abspath(path)
    except OSError as error:
        raise CommandError(f"The current folder is gone, and --tpmstate {path} is in it: {error.strerror}") from None


def locality(text: Optional[str]) -> Locality:
    """Raises: CommandError."""
    if text is None:
        return Locality()
    values = parse(text, "locality", ("reject-locality-4", "allow-set-locality"))
    return Locality(comma_list.boolean(values, "reject-locality-4"), comma_list.boolean(values, "allow-set-locality"))


def flags(text: Optional[str]) -> Flags:
    """Raises: CommandError."""
    if text is None:
        return Flags()
    names = ("not-need-init", *(f"startup-{kind}" for kind in STARTUPS), "disable-auto-shutdown")
    values = parse(text, "flags", names)
    startup = next((kind for kind in STARTUPS if comma_list.boolean(values, f"startup-{kind}")), None)
    return Flags(
        needs_init=startup is None and not comma_list.boolean(values, "not-need-init"),
        startup=startup or "none",
        auto_shutdown=not comma_list.boolean(values, "disable-auto-shutdown"),
    )


def seccomp(text: Optional[str]) -> str:
    """kill, log or none. Raises: CommandError."""
    if text is None:
        return "kill"
    action = parse(text, "seccomp", ("action",)).get("action", "kill")
    if action not in ("kill", "log", "none"):
        raise CommandError(f"Unsupported seccomp log action {action}")
    return action


def migration(text: Optional[str]) -> "frozenset[str]":
    """What is asked for of `incoming` and `release-lock-outgoing`. Raises: CommandError."""
    if text is None:
        return frozenset()
    values = parse(text, "migration", ("incoming", "release-lock-outgoing"))
    return frozenset(name for name in values if comma_list.boolean(values, name))


def pcap(text: Optional[str]) -> "tuple[int, bool]":
    """--pcap: the descriptor of the open file (-1: none), and whether checksums are wanted. Raises: CommandError."""
    if text is None:
        return -1, False
    values = parse(text, "pcap", ("file", "fd", "truncate", "mode", "checksums"))
    fd = number_of(values, "fd", "pcap")
    mode = value_of(values, "mode", "pcap", comma_list.mode)
    checksums = comma_list.boolean(values, "checksums")
    if "file" not in values and "fd" not in values:
        raise CommandError("The file or fd parameter is required for the pcap option.")
    from swtpm_svc.service import capture

    try:
        if "file" not in values:
            _adopt(fd)
            return fd, checksums
        mode = capture.MODE if mode is None else mode
        return capture.open_file(values["file"], truncate=comma_list.boolean(values, "truncate"), mode=mode), checksums
    except OSError as error:
        what = values.get("file") or f"descriptor {fd}"
        raise CommandError(f"Could not open pcap file {what}: {error.strerror}") from None


def profile(text: str) -> str:
    """The profile as JSON. Raises: CommandError."""
    values = parse(text, "profile", ("name", "profile", "file", "fd", "remove-disabled"))
    number = number_of(values, "fd", "profile")
    remove = values.get("remove-disabled")
    if remove not in (None, "check", "fips-host"):
        raise CommandError(f"Invalid option parameter '{remove}' for 'remove-disabled'")
    given = [name for name in ("profile", "name", "file") if name in values]
    if len(given) > 1 or ("fd" in values and given and "name" not in values):
        raise CommandError("Only one profile option parameter of 'profile', 'name', 'fd', or 'file' may be provided")
    if "name" in values:
        return f'{{"Name":"{values["name"]}"}}'
    if "profile" in values:
        return values["profile"]
    if not given and "fd" not in values:
        raise CommandError("No profile option parameter given to get a profile")
    return _read_profile(values.get("file"), number)


def _read_profile(path: Optional[str], number: int) -> str:
    from swtpm_svc.state import named_files

    name = path if path is not None else f"fd {number}"
    try:
        if path is not None:
            return named_files.read_input(path, _PROFILE_MAX).decode()
        os.fstat(number)
        with open(number, "rb") as file:
            return file.read(_PROFILE_MAX).decode()
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "Bad file descriptor"
        raise CommandError(f"Failed to open file \u201c{name}\u201d: {reason}") from None
    except UnicodeDecodeError:
        raise CommandError(f"Failed to read file \u201c{name}\u201d: it is not text") from None
