"""An instance's TOML file read and checked: load() and parse() give a `Config` with every value present.

What may stand in the file is the table in schema.py, how it is read is in toml_file.py; here is what a person is told
when it says something wrong: the file, the table, the key, what was found and what is expected.
"""

import os

from swtpm_svc.config import places, toml_file
from swtpm_svc.config.addresses import UNIX_PATH_MAX
from swtpm_svc.config.name_order import natural
from swtpm_svc.config.schema import (
    NAME_EXPECTED,
    NAME_MAX,
    NAME_PATTERN,
    SCHEMA,
    STATE_DIRECTORY,
    Config,
    ControlConfig,
    DeviceConfig,
    FuseConfig,
    KernelTpmConfig,
    Key,
    LogConfig,
    MigrationConfig,
    ProvisionConfig,
    SocketConfig,
    StateConfig,
    Table,
    TpmConfig,
    account_number,
)
from swtpm_svc.config.toml_file import CONFIG_DIRECTORY, FILE_MAX_BYTES, one_line
from swtpm_svc.config.word_patterns import looks_like_key
from swtpm_svc.errors import Code, VtpmError, quote
from swtpm_svc.wire.hints import Any, NoReturn, Optional
from swtpm_svc.wire.values import NamedTuple

__all__ = [
    "CONFIG_DIRECTORY",
    "FILE_MAX_BYTES",
    "SCHEMA",
    "STATE_DIRECTORY",
    "Change",
    "Config",
    "ControlConfig",
    "DeviceConfig",
    "FuseConfig",
    "KernelTpmConfig",
    "LogConfig",
    "MigrationConfig",
    "ProvisionConfig",
    "SocketConfig",
    "StateConfig",
    "TpmConfig",
    "changes",
    "check_instance",
    "default_path",
    "group_id",
    "instance_at",
    "instances",
    "load",
    "parse",
    "reloaded",
    "user_id",
]


class Change(NamedTuple):
    """One key whose value is another one after a reload."""

    table: str
    key: str
    reloads: bool


def default_path(instance: str) -> str:
    """The file that `vtpmd INSTANCE` reads.

    Raises:
        VtpmError USAGE: that is not a name for an instance.
    """
    return f"{CONFIG_DIRECTORY}/{check_instance(instance)}.toml"


def check_instance(name: str) -> str:
    """Give the name back. It becomes part of paths and of unit names, so nothing but the pattern is let through.

    Raises:
        VtpmError USAGE: that is not a name for an instance.
    """
    if not NAME_PATTERN.fullmatch(name):
        cause = f"instance name: found {_found(name, str)}, expected {NAME_EXPECTED}"
        if len(name) > NAME_MAX:
            room = f"the path of its control socket may have {UNIX_PATH_MAX}"
            cause = f"instance name: found {len(name)} characters, expected at most {NAME_MAX}: {room}"
        raise VtpmError(Code.USAGE, cause, remedy=_instance_meant(name))
    return name


def _instance_meant(name: str) -> str:
    """People give what the instance's things are called: its unit, its file, a path."""
    last = name.rstrip("/").rpartition("/")[2]
    meant = last.partition("@")[2] or last
    for ending in (".service", ".socket", ".toml"):
        meant = meant[: -len(ending)] if meant.endswith(ending) else meant
    if meant != name and NAME_PATTERN.fullmatch(meant):
        return (
            f"give the instance's name, without path or ending, perhaps {meant}: vtpmctl list has those that there are"
        )
    return "give a name such as vtpm0: vtpmctl list has those that there are"


def instance_at(path: str, directory: str = CONFIG_DIRECTORY) -> Optional[str]:
    """The instance that has this path, that of a device, a socket or a directory, by its configuration."""
    try:
        for name in instances(directory):
            try:
                found = load(f"{directory}/{name}.toml", name)
            except VtpmError:
                continue
            paths = [place.where for place in places.places(found)]
            if path in paths or (found.device.enabled and path == found.device.node):
                return name
    except VtpmError:
        pass
    return None


def instances(directory: str = CONFIG_DIRECTORY) -> list[str]:
    """The names of the instances that have a file, in a person's order; other files in the directory are left aside.

    Raises:
        VtpmError CONFIG_MISSING, CONFIG_UNREADABLE: there is no such directory, or it cannot be read.
    """
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        raise VtpmError(
            Code.CONFIG_MISSING,
            f"{directory} does not exist",
            remedy=f"make it, and a TPM in it: install -d -m 0755 {quote(directory)}; then vtpmctl create vtpm0",
        ) from None
    except OSError as error:
        raise VtpmError(
            Code.CONFIG_UNREADABLE, f"{directory}: {error.strerror}", remedy=toml_file.unreadable(directory, error)
        ) from error
    stems = (name[: -len(".toml")] for name in names if name.endswith(".toml"))
    return sorted((stem for stem in stems if NAME_PATTERN.fullmatch(stem)), key=natural)


def load(path: str, instance: str) -> Config:
    """Read and check one file.

    Raises:
        VtpmError CONFIG_MISSING, CONFIG_UNREADABLE: there is no such file, or it cannot be read.
        VtpmError CONFIG_INVALID, USAGE: as parse().
    """
    return parse(toml_file.read(path, instance), path, instance)


def parse(text: str, path: str, instance: str) -> Config:
    """Check one file's text; `path` is only for the errors.

    Raises:
        VtpmError CONFIG_INVALID: the text is not TOML, or says something that it may not.
        VtpmError USAGE: `instance` is not a name for an instance.
    """
    check_instance(instance)
    document = toml_file.parse_toml(text, path)
    for name, value in document.items():
        if not any(table.name == name for table in SCHEMA):
            _refuse_table(path, name, value)
    tables = {table.field: _read_table(table, document.get(table.name, {}), path, instance) for table in SCHEMA}
    config = Config(instance=instance, path=path, **tables)
    _refuse_contradictions(config)
    places.refuse_contradictions(config)
    _refuse_key_contradictions(config, "")
    _refuse_key_contradictions(config, "migration-")
    return config


def _refuse_contradictions(config: Config) -> None:
    """Values that are good one by one, but not together: (whether it is so, what is wrong, what to do)."""
    tpm, provision, ways = (
        config.tpm,
        config.provision,
        (config.device.enabled, config.fuse.enabled, config.kernel_tpm.enabled),
    )
    state, default = config.state, f"{STATE_DIRECTORY}/{config.instance}"
    socket = config.socket
    addresses = (socket.control, socket.data, socket.managed, socket.mssim)
    for is_so, cause, remedy in (
        (
            tpm.startup == "deactivated" and tpm.version != "1.2",
            f'[tpm] startup: found "deactivated", expected "none", "clear" or "state" for a TPM {tpm.version}',
            'write startup = "clear", or version = "1.2"',
        ),
        (
            not any(ways) and all(address == "none" for address in addresses),
            "nothing leads to this TPM: none of [device], [fuse] and [vtpm-proxy] is enabled, and [socket] has no "
            "address",
            "enable one of them",
        ),
        (
            config.kernel_tpm.enabled and tpm.power_on == "manual",
            '[vtpm-proxy] enabled: found true with power-on = "manual", expected false: '
            "the kernel wants an answer at once",
            'write power-on = "auto"',
        ),
        (
            state.is_file and state.directory != default,
            f'[state] file: found "{one_line(state.file)}" with directory = "{one_line(state.directory)}", '
            "expected one of them",
            "remove the one that the state is not in",
        ),
        (
            state.is_file and state.backup,
            "[state] backup: found true with file, expected false: a file has room for one generation",
            "remove one of them",
        ),
        (
            state.is_file and provision.enabled,
            "[provision] enabled: found true with file in [state], expected false: such a TPM is made elsewhere",
            "write enabled = false, and put the TPM into the file: vtpm.d(5), [state]",
        ),
        (
            (provision.idevid or provision.iak) and tpm.version == "1.2",
            "[provision] idevid, iak: found true, expected false: a TPM 1.2 has no such keys",
            'remove them, or write version = "2.0" in [tpm]',
        ),
        (
            tpm.profile != "none" and tpm.version == "1.2",
            f'[tpm] profile: found "{one_line(tpm.profile)}", expected "none": a TPM 1.2 has no profiles',
            'remove it, or write version = "2.0" in [tpm]',
        ),
        (
            socket.managed != "none" and tpm.version == "1.2",
            f'[socket] managed: found "{one_line(socket.managed)}", expected "none": a TPM 1.2 has no resource manager',
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
        (f"{prefix}{name}", getattr(config.state, f"{prefix}{name}".replace("-", "_")))
        for name in ("key-format", "key-mode")
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


def reloaded(old: Config, new: Config) -> Config:
    """`old`, with what a running daemon takes over of `new`."""
    for table in SCHEMA:
        was, found = getattr(old, table.field), getattr(new, table.field)
        taken = {key.field: getattr(found, key.field) for key in table.keys if key.reloads}
        old = old._replace(**{table.field: was._replace(**taken)})
    return old


def user_id(name: str) -> int:
    """The number of a user that is given as [device] owner is. Raises VtpmError USER_MISSING."""
    number = account_number(name)
    if number is not None:
        return number
    import pwd

    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise VtpmError(
            Code.USER_MISSING, f"there is no user {name}", remedy=_make_account("passwd", "useradd", name)
        ) from None


def group_id(name: str) -> int:
    """The number of a group that is given as [device] group is. Raises VtpmError USER_MISSING."""
    number = account_number(name)
    if number is not None:
        return number
    import grp

    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise VtpmError(
            Code.USER_MISSING, f"there is no group {name}", remedy=_make_account("group", "groupadd", name)
        ) from None


def _make_account(database: str, command: str, name: str) -> str:
    return (
        f"see whether it is known: getent {database} {quote(name)}; name another, or make it: {command} --system "
        f"{quote(name)}"
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
        found, remedy = (
            f"the table [{one_line(name)}]",
            f"write [{similar}]" if similar else "remove it, or see vtpm.d(5)",
        )
    else:
        home = [table.name for table in SCHEMA if any(key.name == name for key in table.keys)]
        found, remedy = f'"{one_line(name)}" outside of any table', "write it below its table, see vtpm.d(5)"
        if home:
            remedy = f"write it below the line [{home[0]}]"
    raise VtpmError(Code.CONFIG_INVALID, f"{path}: found {found}, expected one of {known}", remedy=remedy)


def _refuse_key(path: str, table: Table, name: str) -> NoReturn:
    names = [key.name for key in table.keys]
    similar = _similar(name, names)
    home = [other.name for other in SCHEMA if any(key.name == name for key in other.keys)]
    remedy = f"remove {one_line(name)}, or see vtpm.d(5)"
    if similar:
        remedy = f"write {similar} instead of {one_line(name)}"
    elif home:
        remedy = f"write it below the line [{home[0]}]"
    expected = names[0] if len(names) == 1 else ", ".join(names[:-1]) + " or " + names[-1]
    raise VtpmError(
        Code.CONFIG_INVALID,
        f"{path}: [{table.name}]: found the key {one_line(name)}, expected {expected}",
        remedy=remedy,
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
    if isinstance(value, str) and looks_like_key(value):
        return f"{len(value.removeprefix('0x'))} hex digits, which are not shown"
    if isinstance(value, str):
        text, kind = f'"{one_line(value)}"', "string"
    elif isinstance(value, bool):
        text, kind = str(value).lower(), "boolean"
    else:
        kind = {int: "integer", float: "float"}.get(type(value), "date or time")
        try:
            text = one_line(str(value))
        except ValueError:  # 0xfff... may have any number of digits; in decimal Python writes 4300 at most
            return "an integer of thousands of digits"
    return text if type(value) is expected else f"the {kind} {text}"
