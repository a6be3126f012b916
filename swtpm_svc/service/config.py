"""An instance's TOML file read and checked: load() and parse() give a `Config` with every value present.

What may stand in the file is the table in `config_schema`; here is how it is read, and what a person is told when it
is wrong: the file, the table, the key, what was found and what is expected.
"""

import os
import stat
import sys
from typing import Any, NamedTuple, NoReturn, Optional

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.service.config_schema import (
    KEY_PATTERN,
    NAME_EXPECTED,
    NAME_MAX,
    NAME_PATTERN,
    SCHEMA,
    STATE_DIRECTORY,
    UNIX_PATH_MAX,
    Config,
    ControlConfig,
    DeviceConfig,
    FuseConfig,
    Key,
    LogConfig,
    ProvisionConfig,
    SocketConfig,
    StateConfig,
    Table,
    TpmConfig,
    VtpmProxyConfig,
    account_number,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "SCHEMA",
    "STATE_DIRECTORY",
    "Change",
    "Config",
    "ControlConfig",
    "DeviceConfig",
    "FuseConfig",
    "LogConfig",
    "ProvisionConfig",
    "SocketConfig",
    "StateConfig",
    "TpmConfig",
    "VtpmProxyConfig",
    "changes",
    "check_instance",
    "default_path",
    "group_id",
    "instances",
    "load",
    "parse",
    "user_id",
]

CONFIG_DIRECTORY = "/etc/vtpm.d"
FILE_MAX_BYTES = 64 * 1024


class Change(NamedTuple):
    """One key whose value is another one after a reload."""

    table: str
    key: str
    reloads: bool


def default_path(instance: str) -> str:
    """The file that `vtpmd INSTANCE` reads.

    Raises:
        VtpmError USAGE: that is no name for an instance.
    """
    return f"{CONFIG_DIRECTORY}/{check_instance(instance)}.toml"


def check_instance(name: str) -> str:
    """Give the name back. It becomes part of paths and of unit names, so nothing but the pattern is let through.

    Raises:
        VtpmError USAGE: that is no name for an instance.
    """
    if not NAME_PATTERN.fullmatch(name):
        cause = f"instance name: found {_found(name, str)}, expected {NAME_EXPECTED}"
        if len(name) > NAME_MAX:
            room = f"the path of its socket, /run/vtpm/NAME/ctrl.sock, may have {UNIX_PATH_MAX}"
            cause = f"instance name: found {len(name)} characters, expected at most {NAME_MAX}: {room}"
        raise VtpmError(Code.USAGE, cause, remedy="use another name, for example vtpm0")
    return name


def instances(directory: str = CONFIG_DIRECTORY) -> list[str]:
    """The names of the instances that have a file, sorted; other files in the directory are left aside.

    Raises:
        VtpmError CONFIG_MISSING, CONFIG_UNREADABLE: there is no such directory, or it cannot be read.
    """
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        raise VtpmError(
            Code.CONFIG_MISSING,
            f"{directory} does not exist",
            remedy=f"create it, and in it a file for each TPM: mkdir {directory}",
        ) from None
    except OSError as error:
        raise VtpmError(Code.CONFIG_UNREADABLE, f"{directory}: {error.strerror}", remedy="run this as root") from error
    stems = (name[: -len(".toml")] for name in names if name.endswith(".toml"))
    return sorted(stem for stem in stems if NAME_PATTERN.fullmatch(stem))


def load(path: str, instance: str) -> Config:
    """Read and check one file.

    Raises:
        VtpmError CONFIG_MISSING, CONFIG_UNREADABLE: there is no such file, or it cannot be read.
        VtpmError CONFIG_INVALID, USAGE: as parse().
    """
    content = _read_file(path, instance)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise VtpmError(
            Code.CONFIG_INVALID,
            f"{path}: line {line}: found the byte 0x{content[error.start]:02x}, expected text in UTF-8",
            remedy=f"save the file as UTF-8, then: vtpmctl check {path}",
        ) from error
    return parse(text, path, instance)


def parse(text: str, path: str, instance: str) -> Config:
    """Check one file's text; `path` is only for the errors.

    Raises:
        VtpmError CONFIG_INVALID: the text is no TOML, or says something that it may not.
        VtpmError USAGE: `instance` is no name for an instance.
    """
    check_instance(instance)
    document = _parse_toml(text, path)
    for name, value in document.items():
        if not any(table.name == name for table in SCHEMA):
            _refuse_table(path, name, value)
    tables = {table.field: _read_table(table, document.get(table.name, {}), path, instance) for table in SCHEMA}
    config = Config(instance=instance, path=path, **tables)
    _refuse_contradictions(config)
    _refuse_key_contradictions(config, "")
    _refuse_key_contradictions(config, "migration-")
    return config


def _refuse_contradictions(config: Config) -> None:
    """Values that are good each, and not together: (it is so, what is wrong, what to do)."""
    tpm, provision, ways = config.tpm, config.provision, (config.device.enabled, config.fuse.enabled, config.vtpm_proxy.enabled)
    addresses = (config.socket.control, config.socket.data, config.socket.mssim)
    for is_so, cause, remedy in (
        (
            tpm.startup == "deactivated" and tpm.version != "1.2",
            f'[tpm] startup: found "deactivated", expected "none", "clear" or "state" for a TPM {tpm.version}',
            'write startup = "clear", or version = "1.2"',
        ),
        (
            not any(ways) and all(address == "none" for address in addresses),
            "nothing leads to this TPM: none of [device], [fuse] and [vtpm-proxy] is enabled, and [socket] has no address",
            "enable one of them",
        ),
        (
            config.vtpm_proxy.enabled and tpm.power_on == "manual",
            '[vtpm-proxy] enabled: found true with power-on = "manual", expected false: the kernel wants an answer at once',
            'write power-on = "auto"',
        ),
        (
            (provision.idevid or provision.iak) and tpm.version == "1.2",
            "[provision] idevid, iak: found true, expected false: a TPM 1.2 has no such keys",
            'remove them, or write version = "2.0" in [tpm]',
        ),
        (
            provision.profile != "none" and tpm.version == "1.2",
            f'[provision] profile: found "{provision.profile}", expected "none": a TPM 1.2 has no profiles',
            'remove it, or write version = "2.0" in [tpm]',
        ),
        (
            (provision.idevid or provision.iak) and not provision.certificates,
            "[provision] certificates: found false with idevid or iak, expected true: they are nothing without",
            "write certificates = true",
        ),
    ):
        if is_so:
            raise VtpmError(Code.CONFIG_INVALID, f"{config.path}: {cause}", remedy=remedy)


def _refuse_key_contradictions(config: Config, prefix: str) -> None:
    """Of a key: one place, and a format that fits it."""
    names = [f"{prefix}{name}" for name in ("key-credential", "key-file", "passphrase-file")]
    values = [getattr(config.state, name.replace("-", "_")) for name in names]
    named = [name for name, value in zip(names, values) if value != "none"]
    found = [
        (f"{prefix}{name}", getattr(config.state, f"{prefix}{name}".replace("-", "_"))) for name in ("key-format", "key-mode")
    ]
    cause = ""
    if len(named) > 1:
        cause, remedy = f"found {' and '.join(named)}, expected one of them", "remove all but one"
    elif not named:
        name, value = next(((name, value) for name, value in found if value != "auto"), ("", ""))
        if name:
            cause, remedy = f'{name}: found "{value}", but no key', f"name one: {', '.join(names[:-1])} or {names[-1]}"
    elif named == names[2:] and found[0][1] in ("hex", "binary"):
        cause = f'{found[0][0]}: found "{found[0][1]}", expected "auto", "pbkdf2" or "sha512" for a passphrase'
        remedy = f"write {names[1]} instead of {names[2]}, or another format"
    if cause:
        raise VtpmError(Code.CONFIG_INVALID, f"{config.path}: [state] {cause}", remedy=remedy)


def changes(old: Config, new: Config) -> list[Change]:
    """What is different in `new`, and whether a running daemon can take it over."""
    return [
        Change(table.name, key.name, key.reloads)
        for table in SCHEMA
        for key in table.keys
        if getattr(getattr(old, table.field), key.field) != getattr(getattr(new, table.field), key.field)
    ]


def user_id(name: str) -> int:
    """The number of a user that is given as [device] owner is. Raises VtpmError USER_MISSING."""
    number = account_number(name)
    if number is not None:
        return number
    import pwd

    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise _missing("user", name, "passwd", "useradd") from None


def group_id(name: str) -> int:
    """The number of a group that is given as [device] group is. Raises VtpmError USER_MISSING."""
    number = account_number(name)
    if number is not None:
        return number
    import grp

    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise _missing("group", name, "group", "groupadd") from None


def _missing(kind: str, name: str, database: str, command: str) -> VtpmError:
    from shlex import quote  # only ever on the way out with an error

    remedy = f"name another, which this knows: getent {database} {quote(name)}; or create it: {command} --system {quote(name)}"
    return VtpmError(Code.USER_MISSING, f"there is no {kind} {name}", remedy=remedy)


def _read_file(path: str, instance: str) -> bytes:
    try:
        # O_NONBLOCK: a FIFO in the way is an error, not a daemon that waits for ever
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            _refuse_special(path, os.fstat(descriptor).st_mode)
            content = os.read(descriptor, FILE_MAX_BYTES + 1)
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError):
        raise VtpmError(
            Code.CONFIG_MISSING,
            f"{path} does not exist",
            remedy=f"create it; an empty file is a TPM 2.0 at /dev/{instance}: touch {path}",
        ) from None
    except PermissionError as error:
        raise VtpmError(
            Code.CONFIG_UNREADABLE, f"{path}: {error.strerror}", remedy=f"run this as root, or let it be read: chmod a+r {path}"
        ) from error
    except OSError as error:
        raise VtpmError(
            Code.CONFIG_UNREADABLE, f"{path}: {error.strerror}", remedy="see vtpm.d(5) for where the file is looked for"
        ) from error
    if len(content) > FILE_MAX_BYTES:
        raise VtpmError(
            Code.CONFIG_INVALID,
            f"{path}: found more than {FILE_MAX_BYTES} bytes, expected a configuration of at most that",
            remedy="name a TOML file, see vtpm.d(5)",
        )
    return content


def _refuse_special(path: str, mode: int) -> None:
    if not stat.S_ISREG(mode):
        found = "a directory" if stat.S_ISDIR(mode) else "a special file"
        raise VtpmError(
            Code.CONFIG_UNREADABLE, f"{path}: found {found}, expected a file", remedy="name a TOML file, see vtpm.d(5)"
        )


def _parse_toml(text: str, path: str) -> dict[str, Any]:
    try:
        document: dict[str, Any] = tomllib.loads(text)
        return document
    except RecursionError:
        cause = "nested too deeply"
    except ValueError as error:  # TOMLDecodeError is one; a number of more than 4300 digits is another
        what, _, where = str(error).partition(" (at ")
        # the parser has a line for everything but "end of document"
        line = where.rstrip(")") if where.startswith("line ") else f"line {text.rstrip().count(chr(10)) + 1}"
        cause = f"{line}: {_one_line(what)}"
    raise VtpmError(
        Code.CONFIG_INVALID, f"{path}: {cause}", remedy=f"correct the TOML syntax (strings in quotes), then: vtpmctl check {path}"
    )


def _read_table(table: Table, found: object, path: str, instance: str) -> Any:
    if not isinstance(found, dict):
        raise VtpmError(
            Code.CONFIG_INVALID,
            f"{path}: [{table.name}]: found {_found(found, dict)}, expected a table",
            remedy=f"write [{table.name}] on a line of its own and the keys below it",
        )
    for name in found:
        if not any(key.name == name for key in table.keys):
            _refuse_key(path, table, name)
    return table.values(**{key.field: _read_key(table, key, found.get(key.name), path, instance) for key in table.keys})


def _read_key(table: Table, key: Key, value: object, path: str, instance: str) -> Any:
    if value is None:  # TOML has no null: the key is not there
        value = key.default_for(instance)
    try:
        if type(value) is key.kind.type:  # not isinstance: true is an int in Python, not in TOML
            return key.kind.read(value)
    except ValueError:
        pass
    example = key.default_for(instance)
    raise VtpmError(
        Code.CONFIG_INVALID,
        f"{path}: [{table.name}] {key.name}: found {_found(value, key.kind.type)}, expected {key.kind.expected}",
        remedy=f"write for example: {key.name} = {_found(example, type(example))}",
    )


def _refuse_table(path: str, name: str, value: object) -> NoReturn:
    known = ", ".join(f"[{table.name}]" for table in SCHEMA)
    if isinstance(value, dict):
        similar = _similar(name, [table.name for table in SCHEMA])
        found, remedy = f"the table [{_one_line(name)}]", f"write [{similar}]" if similar else "remove it, or see vtpm.d(5)"
    else:
        home = [table.name for table in SCHEMA if any(key.name == name for key in table.keys)]
        found, remedy = f'"{_one_line(name)}" outside of any table', "write it below its table, see vtpm.d(5)"
        if home:
            remedy = f"write it below the line [{home[0]}]"
    raise VtpmError(Code.CONFIG_INVALID, f"{path}: found {found}, expected one of {known}", remedy=remedy)


def _refuse_key(path: str, table: Table, name: str) -> NoReturn:
    names = [key.name for key in table.keys]
    similar = _similar(name, names)
    home = [other.name for other in SCHEMA if any(key.name == name for key in other.keys)]
    remedy = f"remove {_one_line(name)}, or see vtpm.d(5)"
    if similar:
        remedy = f"write {similar} instead of {_one_line(name)}"
    elif home:
        remedy = f"write it below the line [{home[0]}]"
    expected = names[0] if len(names) == 1 else ", ".join(names[:-1]) + " or " + names[-1]
    raise VtpmError(
        Code.CONFIG_INVALID, f"{path}: [{table.name}]: found the key {_one_line(name)}, expected {expected}", remedy=remedy
    )


def _similar(name: str, names: list[str]) -> Optional[str]:
    import difflib  # only ever on the way out with an error

    matches = difflib.get_close_matches(name.lower().replace("_", "-"), names, n=1)
    return matches[0] if matches else None


def _found(value: object, expected: type) -> str:
    """A value for an error message; with its type in words when that is what is wrong."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "an array"
    if isinstance(value, str) and KEY_PATTERN.fullmatch(value):
        return f"{len(value)} hex digits, which are not shown"
    if isinstance(value, str):
        text, kind = f'"{_one_line(value)}"', "string"
    elif isinstance(value, bool):
        text, kind = str(value).lower(), "boolean"
    else:
        kind = {int: "integer", float: "float"}.get(type(value), "date or time")
        try:
            text = _one_line(str(value))
        except ValueError:  # 0xfff... may have any number of digits; in decimal Python writes 4300 at most
            return "an integer of thousands of digits"
    return text if type(value) is expected else f"the {kind} {text}"


def _one_line(text: str) -> str:
    """Printable, one line, at most 60 characters: an error message is one line whatever stands in the file."""
    printable = repr(text)[1:-1]
    return printable if len(printable) <= 60 else printable[:57] + "..."
