"""The configuration's tables and keys, as data: what may stand in an instance's TOML file. Documented in vtpm.d(5).

`SCHEMA` is the one place that says which tables and keys there are: parsing, the errors, the defaults, what SIGHUP
reloads and the test of the man page all come from it. A new table is a NamedTuple of its values, a line in `Config`
and an entry in `SCHEMA`.
"""

import os

from swtpm_svc.config.addresses import PORT_MAX, UNIX_PATH_MAX, parse_address
from swtpm_svc.config.word_patterns import ALPHANUMERIC, PRINTABLE, WordPattern, looks_like_key
from swtpm_svc.state.encryption import MODES
from swtpm_svc.state.keys import DEFAULT_KDF, FORMATS, Source
from swtpm_svc.wire.algorithms import ENDORSEMENT_KEY_NAMES, HASH_NAMES, STORAGE_KEY_NAMES
from swtpm_svc.wire.hints import Any, Callable, Optional, Union
from swtpm_svc.wire.values import NamedTuple

#: So many that the longest path of a socket, /run/vtpm/NAME/ctrl.sock, can be bound.
NAME_MAX = UNIX_PATH_MAX - len("/run/vtpm//ctrl.sock")
NAME_PATTERN = WordPattern(ALPHANUMERIC, ALPHANUMERIC + "._-", NAME_MAX)
NAME_EXPECTED = f"1 to {NAME_MAX} letters, digits, dots, dashes and underscores, the first a letter or digit"
ACCOUNT_MAX = 256  # characters: LOGIN_NAME_MAX (limits.h)
ID_MAX = (1 << 32) - 2  # 4294967295 says "leave it as it is" to chown(2)
#: A part of what credential_name_valid() of systemd takes.
CREDENTIAL_PATTERN = WordPattern(ALPHANUMERIC + "_", ALPHANUMERIC + "._-", 255)
PROFILE_MAX = 64 * 1024  # bytes of a profile: libtpms' own have one or two thousand
PROFILE_PATTERN = WordPattern(ALPHANUMERIC, ALPHANUMERIC + ":._-", 64)
#: What a name in a certificate takes, with room (RFC 5280, ub-common-name is 64).
PRINTABLE_PATTERN = WordPattern(PRINTABLE, PRINTABLE, 128)
_PRINTABLE_STRING = ALPHANUMERIC + " '()+,-./:=?"  # X.680
SERIAL_PATTERN = WordPattern(_PRINTABLE_STRING, _PRINTABLE_STRING, 64, may_be_empty=True)  # RFC 5280, ub-serial-number

BUFFER_SIZE_MAX = 4096  # bytes, and what libtpms has by itself (TPMLIB_SetBufferSize(3))

# register_chrdev_region() takes majors below CHRDEV_MAJOR_MAX; a minor has 20 bits (include/linux/fs.h, kdev_t.h).
MAJOR_MAX = 511
MINOR_MAX = (1 << 20) - 1

STATE_DIRECTORY = "/var/lib/vtpm"


class TpmConfig(NamedTuple):
    """[tpm]: which TPM it is, and what happens at power-on."""

    version: str
    power_on: str
    startup: str
    disable_auto_shutdown: bool
    buffer_size: int
    profile: str


class DeviceConfig(NamedTuple):
    """[device]: the character device.

    `owner` and `group` are names or numbers in decimal; `mode` is the permission bits.
    """

    enabled: bool
    name: str
    major: int
    minor: int
    owner: str
    group: str
    mode: int

    @property
    def node(self) -> str:
        return f"/dev/{self.name}"


class SocketConfig(NamedTuple):
    """[socket]: QEMU's emulator protocol, and the simulator's. Addresses are those of `parse_address`."""

    control: str
    data: str
    managed: str
    mssim: str
    mode: int


class FuseConfig(NamedTuple):
    """[fuse]: the TPM as files in a directory."""

    enabled: bool
    directory: str


class KernelTpmConfig(NamedTuple):
    """[vtpm-proxy]: a TPM of the kernel, /dev/tpmN."""

    enabled: bool


class StateConfig(NamedTuple):
    """[state]: where what survives power-off is kept, and how it is encrypted.

    It is in `file`, or if that is "none" in `directory`. Of each three places of a key one may be named.
    """

    directory: str
    file: str
    mode: int
    backup: bool
    fsync: bool
    lock: bool
    key_credential: str
    key_file: str
    passphrase_file: str
    key_format: str
    key_mode: str
    migration_key_credential: str
    migration_key_file: str
    migration_passphrase_file: str
    migration_key_format: str
    migration_key_mode: str

    @property
    def is_file(self) -> bool:
        return self.file != "none"

    @property
    def place(self) -> str:
        """The path of the file or of the directory."""
        return self.file if self.is_file else self.directory

    @property
    def key(self) -> Optional[Source]:
        """Where the key of the state files is; None: they are in clear."""
        return _key_source(self.key_credential, self.key_file, self.passphrase_file, self.key_format, self.key_mode)

    @property
    def migration_key(self) -> Optional[Source]:
        """Where the key of the control protocol's state blobs is."""
        return _key_source(
            self.migration_key_credential,
            self.migration_key_file,
            self.migration_passphrase_file,
            self.migration_key_format,
            self.migration_key_mode,
        )


def _key_source(credential: str, file: str, passphrase_file: str, key_format: str, mode: str) -> Optional[Source]:
    for kind, name, default in (
        ("credential", credential, "hex"),
        ("file", file, "hex"),
        ("file", passphrase_file, DEFAULT_KDF),
    ):
        if name != "none":
            return Source(kind, name, default if key_format == "auto" else key_format, None if mode == "auto" else mode)
    return None


class MigrationConfig(NamedTuple):
    """[migration]: how the state's lock goes from one host's TPM to another's, where both have the same storage."""

    incoming: bool
    release_lock: bool


class ProvisionConfig(NamedTuple):
    """[provision]: what a new TPM is given, as a manufacturer does.

    `endorsement_keys` and `pcr_banks` are of a TPM 2.0.
    """

    enabled: bool
    endorsement_keys: "tuple[str, ...]"
    pcr_banks: "tuple[str, ...]"
    storage_key: str
    idevid: bool
    iak: bool
    certificates: bool
    ca: str
    platform_manufacturer: str
    platform_model: str
    platform_version: str
    platform_serial: str


class ControlConfig(NamedTuple):
    """[control]: who may use the control operations, besides root and the service's own user."""

    group: str


class LogConfig(NamedTuple):
    """[log]: how much is written to the journal, and where commands are captured."""

    level: str
    pcap: str


class Config(NamedTuple):
    """One instance, every value present."""

    instance: str
    path: str
    tpm: TpmConfig
    device: DeviceConfig
    socket: SocketConfig
    fuse: FuseConfig
    kernel_tpm: KernelTpmConfig
    state: StateConfig
    migration: MigrationConfig
    provision: ProvisionConfig
    control: ControlConfig
    log: LogConfig


class Kind(NamedTuple):
    """What a value may be: its TOML type, the rest of the rule in words, and the conversion (ValueError: it may
    not)."""

    type: type
    expected: str
    read: Callable[[Any], Any]


class Key(NamedTuple):
    """One key. `{instance}` in `default` stands for the instance's name; `reloads`: SIGHUP is enough for a change."""

    name: str
    kind: Kind
    default: Union[str, int, bool]
    meaning: str
    reloads: bool = False

    @property
    def field(self) -> str:
        return self.name.replace("-", "_")

    def default_for(self, instance: str) -> Union[str, int, bool]:
        return self.default.format(instance=instance) if isinstance(self.default, str) else self.default


class Table(NamedTuple):
    """One table; `values` is the NamedTuple with a field for each key. `Config` has it under `alias`, or its name."""

    name: str
    values: Callable[..., Any]
    keys: tuple[Key, ...]
    alias: str = ""

    @property
    def field(self) -> str:
        return self.alias or self.name


def _one_of(*choices: str) -> Kind:
    def read(value: str) -> str:
        if value not in choices:
            raise ValueError
        return value

    quoted = [f'"{choice}"' for choice in choices]
    return Kind(str, ", ".join(quoted[:-1]) + " or " + quoted[-1], read)


def _integer(low: int, high: int) -> Kind:
    def read(value: int) -> int:
        if not low <= value <= high:
            raise ValueError
        return value

    return Kind(int, f"an integer from {low} to {high}", read)


def _text(pattern: WordPattern, expected: str) -> Kind:
    def read(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError
        return value

    return Kind(str, expected, read)


def _list_of(*choices: str) -> Kind:
    """In one string, with commas between; read as a tuple."""

    def read(value: str) -> "tuple[str, ...]":
        words = tuple(word.strip() for word in value.split(","))
        if len(set(words)) != len(words) or not set(words) <= set(choices):
            raise ValueError
        return words

    return Kind(str, f"one or more of {', '.join(choices)}, with commas between and each once", read)


def account_number(account: str) -> Optional[int]:
    """The number of a user or group that is given by its number; None: it is given by its name."""
    return int(account) if account.isascii() and account.isdigit() else None


def _read_account(value: str) -> str:
    """The system's databases say which names there are, a directory among them. Here only what none of them can hold is
    refused."""
    if not 0 < len(value) <= ACCOUNT_MAX or not value.isprintable() or ":" in value:
        raise ValueError
    number = account_number(value)
    if number is not None and number > ID_MAX:
        raise ValueError
    return value


def _read_mode(value: str) -> int:
    if len(value.removeprefix("0") if len(value) == 4 else value) != 3 or not set(value) <= set("01234567"):
        raise ValueError
    return int(value, 8)


def _read_directory(value: str) -> str:
    if not value.startswith("/") or not value.isprintable() or ".." in value.split("/") or len(value) > 1024:
        raise ValueError
    return os.path.normpath("/" + value.lstrip("/"))


def _read_file(value: str) -> str:
    return value if value == "none" else _read_directory(value)


def _read_profile(value: str) -> str:
    if PROFILE_PATTERN.fullmatch(value):
        return value
    if value.startswith("{"):
        import json  # few say it so

        try:
            if len(value) > PROFILE_MAX or not value.isprintable() or not isinstance(json.loads(value), dict):
                raise ValueError
        except RecursionError:  # it has braces by the thousand
            raise ValueError from None
        return value
    return _read_directory(value)


def _read_credential(value: str) -> str:
    if not CREDENTIAL_PATTERN.fullmatch(value) or looks_like_key(value):
        raise ValueError
    return value


def _read_address(value: str) -> str:
    address = parse_address(value)
    return _read_directory(value) if address is not None and address.path else value


def _read_port_pair(value: str) -> str:
    """A TCP address whose next port is a port too; or "none"."""
    address = parse_address(value)
    if address is not None and (address.path or address.cid is not None or address.port == PORT_MAX):
        raise ValueError
    return value


DEVICE_NAME = _text(NAME_PATTERN, NAME_EXPECTED)
USER = Kind(str, f"the name of a user, or a number up to {ID_MAX}", _read_account)
GROUP = Kind(str, f"the name of a group, or a number up to {ID_MAX}", _read_account)
MODE = Kind(str, 'three octal digits in quotes, such as "0660"', _read_mode)
DIRECTORY = Kind(str, "an absolute path without ..", _read_directory)
FILE = Kind(str, '"none" or an absolute path without ..', _read_file)
CREDENTIAL = Kind(
    str,
    '"none" or the name of a credential: letters, digits, dots, dashes and underscores, the first neither a dot nor a dash',
    _read_credential,
)
KEY_FORMAT = _one_of("auto", *FORMATS)
KEY_MODE = _one_of("auto", *MODES)
ADDRESS = Kind(
    str,
    f'"none", an absolute path of at most {UNIX_PATH_MAX} bytes, "tcp:[HOST:]PORT" or "vsock:CID:PORT"',
    _read_address,
)
PORT_PAIR = Kind(str, f'"none" or "tcp:[HOST:]PORT" with a port below {PORT_MAX}', _read_port_pair)
PROFILE = Kind(
    str, '"none", the name of a profile of libtpms, one JSON object, or an absolute path without ..', _read_profile
)
WORDS = _text(PRINTABLE_PATTERN, "1 to 128 printable ASCII characters")
SERIAL = _text(SERIAL_PATTERN, "at most 64 letters, digits, spaces and '()+,-./:=?")
BOOLEAN = Kind(bool, "true or false", bool)
LEVEL = _one_of("debug", "info", "notice", "warning", "error")

# fmt: off
SCHEMA = (
    Table("tpm", TpmConfig, (
        Key("version", _one_of("1.2", "2.0"), "2.0", "the TPM specification that is served"),
        Key("power-on", _one_of("auto", "manual"), "auto", "power the TPM when the service starts, or wait for vtpmctl init"),
        Key("startup", _one_of("none", "clear", "state", "deactivated"), "clear", "the Startup command sent at power-on"),
        Key("disable-auto-shutdown", BOOLEAN, False, "whether a TPM 2.0 loses its power without TPM2_Shutdown"),
        Key("buffer-size", _integer(0, BUFFER_SIZE_MAX), 0, "how long a command or response may be; 0: as libtpms has it"),
        Key("profile", PROFILE, "none", "the profile of a new TPM 2.0: a name, a file or JSON (libtpms 0.10)"),
    )),
    Table("device", DeviceConfig, (
        Key("enabled", BOOLEAN, True, "whether there is a character device at all"),
        Key("name", DEVICE_NAME, "{instance}", "the name below /dev"),
        Key("major", _integer(0, MAJOR_MAX), 0, "the device's major number; 0: the kernel chooses"),
        Key("minor", _integer(0, MINOR_MAX), 0, "the device's minor number"),
        Key("owner", USER, "root", "the user that owns the device node"),
        Key("group", GROUP, "vtpm", "the group of the device node"),
        Key("mode", MODE, "0660", "the permission bits of the device node"),
    )),
    Table("socket", SocketConfig, (
        Key("control", ADDRESS, "/run/vtpm/{instance}/ctrl.sock", "where the control protocol is spoken, as QEMU wants it"),
        Key("data", ADDRESS, "none", "where TPM commands are taken; QEMU brings a socket of its own"),
        Key("managed", ADDRESS, "none", "the same, where each connection has objects and sessions of its own"),
        Key("mssim", PORT_PAIR, "none", "where Microsoft's simulator protocol is spoken; its platform port is the next one"),
        Key("mode", MODE, "0660", "the permission bits of the UNIX sockets, whose group is that of [control]"),
    )),
    Table("fuse", FuseConfig, (
        Key("enabled", BOOLEAN, False, "whether the TPM is also served as files, by FUSE"),
        Key("directory", DIRECTORY, "/run/vtpm/{instance}/fs", "where they are"),
    )),
    Table("vtpm-proxy", KernelTpmConfig, (
        Key("enabled", BOOLEAN, False, "whether the kernel gets the TPM as its own, /dev/tpmN"),
    ), alias="kernel_tpm"),  # in the file it is called as the kernel's driver, everywhere else as what the driver makes
    Table("state", StateConfig, (
        Key("directory", DIRECTORY, f"{STATE_DIRECTORY}/{{instance}}", "where the TPM's state is kept"),
        Key("file", FILE, "none", "the one file or block device that it is kept in, instead of a directory"),
        Key("mode", MODE, "0600", "the permission bits of the state's files"),
        Key("backup", BOOLEAN, False, "whether a start goes back to the generation before if the last one is damaged"),
        Key("fsync", BOOLEAN, True, "whether what is stored is on the disk before a response says so"),
        Key("lock", BOOLEAN, True, "whether the state is locked against other programs"),
        Key("key-credential", CREDENTIAL, "none", "the credential that holds the key of the state files"),
        Key("key-file", FILE, "none", "the file that holds it"),
        Key("passphrase-file", FILE, "none", "the file that holds a passphrase for it"),
        Key("key-format", KEY_FORMAT, "auto", "what is there: a key, hex or binary, or a passphrase for pbkdf2 or sha512"),
        Key("key-mode", KEY_MODE, "auto", "the cipher"),
        Key("migration-key-credential", CREDENTIAL, "none", "the credential that holds the key of state blobs"),
        Key("migration-key-file", FILE, "none", "the file that holds it"),
        Key("migration-passphrase-file", FILE, "none", "the file that holds a passphrase for it"),
        Key("migration-key-format", KEY_FORMAT, "auto", "what is there, as for key-format"),
        Key("migration-key-mode", KEY_MODE, "auto", "the cipher"),
    )),
    Table("migration", MigrationConfig, (
        Key("incoming", BOOLEAN, False, "whether the state is not locked before a state blob comes, or a command"),
        Key("release-lock", BOOLEAN, False, "whether the lock is given up when all state blobs were given out"),
    )),
    Table("provision", ProvisionConfig, (
        Key("enabled", BOOLEAN, False, "whether the service gives a new TPM what follows, when it starts without a state"),
        Key("endorsement-keys", _list_of(*ENDORSEMENT_KEY_NAMES), "rsa2048,ecc-p384", "the endorsement keys of a TPM 2.0"),
        Key("pcr-banks", _list_of(*HASH_NAMES), "sha256,sha384", "the PCR banks of a TPM 2.0"),
        Key("storage-key", _one_of("none", *STORAGE_KEY_NAMES), "none", "the storage root key of a TPM 2.0, at 0x81000001"),
        Key("idevid", BOOLEAN, False, "whether a TPM 2.0 gets an initial device identity"),
        Key("iak", BOOLEAN, False, "whether a TPM 2.0 gets an initial attestation key"),
        Key("certificates", BOOLEAN, True, "whether the local CA certifies the keys"),
        Key("ca", DIRECTORY, "/var/lib/vtpm-ca", "the directory of the local CA, which is made if there is none"),
        Key("platform-manufacturer", WORDS, "python3-swtpm", "who made the machine, for the platform certificate"),
        Key("platform-model", WORDS, "vtpm", "the machine's model"),
        Key("platform-version", WORDS, "1", "its version"),
        Key("platform-serial", SERIAL, "", "its serial number"),
    )),
    Table("control", ControlConfig, (
        Key("group", GROUP, "vtpm-admin", "members may use the control operations", reloads=True),
    )),
    Table("log", LogConfig, (
        Key("level", LEVEL, "info", "the least severe message that is logged", reloads=True),
        Key("pcap", FILE, "none", "the file in which commands and responses are captured, secrets among them"),
    )),
)
# fmt: on


def defaults(instance: str) -> Config:
    """What an empty file says, unchecked."""
    tables = {
        table.field: table.values(**{key.field: key.kind.read(key.default_for(instance)) for key in table.keys})
        for table in SCHEMA
    }
    return Config(instance=instance, path="", **tables)
