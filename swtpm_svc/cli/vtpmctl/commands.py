"""The commands of vtpmctl: the table that parser, dispatch, completion and the manual's check are made from.

A row says everything about a command except how it is done, and imports nothing for it: help and completion do not
wait. A new command is a row here and a function, and its place in vtpmctl(8) and docs/reference.md; tests say what is missing.
After a change here: make completion.
"""

from swtpm_svc.cli import passwords
from swtpm_svc.cli.command import Argument, Command, Cryptography, Given, Offer, Program
from swtpm_svc.state.encryption import MODES
from swtpm_svc.state.keys import DEFAULT_KDF, FORMATS
from swtpm_svc.wire.algorithms import ENDORSEMENT_KEY_NAMES, HASH_NAMES, STORAGE_KEY_NAMES

CA_DIRECTORY = "/var/lib/vtpm-ca"
DEFAULT_ALGORITHM = "rsa2048"
DEFAULT_OUTPUT = "pubek.pem"
STATE_TYPES = ("permanent", "volatile", "savestate")
#: Those of wire.ptm.InfoFlag.
INFO_NAMES = (
    *("specification", "attributes", "features", "algorithms", "commands", "active-profile", "profiles"),
    "runtime-attributes",
)
INFO_DEFAULT = "specification,attributes,features"
#: What --from and --to of rekey take.
KEY_SOURCES = ("none", "prompt", "file=", "fd=", "credential=")
KEY_EXPECTED = "none, prompt, file=PATH, fd=N or credential=NAME, then perhaps ,format=FORMAT and ,mode=MODE"

_MODULES = "swtpm_svc.cli.vtpmctl"
_PATH = "swtpm_svc.cli.operator_files:path_argument"
_TEXT, _TEXT_PATH = f"{_MODULES}.create:text_argument", f"{_MODULES}.create:path_argument"
_KEY = f"{_MODULES}.key_places:place"

_TARGET = "an instance (vtpmctl list), or a device's path such as /dev/vtpm0"
_DEVICE = Argument(("name",), _TARGET, "NAME", Offer.INSTANCE_OR_PATH)
_TPM = Argument(
    ("name",),
    f"{_TARGET}, a socket's, tcp:HOST:PORT or vsock:CID:PORT; default: $TPM_DEVICE",
    "NAME",
    Offer.INSTANCE_OR_PATH,
    optional=True,
    variable="TPM_DEVICE",
)
_ALGORITHM = Argument(
    ("--algorithm",),
    f"of a TPM 2.0: {', '.join(ENDORSEMENT_KEY_NAMES)} (default {DEFAULT_ALGORITHM})",
    "NAME",
    choices=ENDORSEMENT_KEY_NAMES,
    default=DEFAULT_ALGORITHM,
)
_OWNER, _SRK = passwords.arguments("owner"), passwords.arguments("srk")
_STATE_TYPE = Argument(("type",), ", ".join(STATE_TYPES[:2]) + f" or {STATE_TYPES[2]}", choices=STATE_TYPES)
_KEEP_VOLATILE = Argument(("--keep-volatile",), "do not delete stored volatile state once it was read")
_NO_STARTUP = Argument(("--no-startup",), "do not send the Startup command that [tpm] startup names")


def _ca(what: str) -> Argument:
    text = f"{what} directory (default {CA_DIRECTORY})"
    return Argument(("--ca",), text, "DIR", Offer.DIRECTORY, type=_PATH, default=CA_DIRECTORY, dest="directory")


# fmt: off
_CREATE = (
    Argument(("name",), "the new instance's name", "NAME", Offer.INSTANCE),
    Argument(("--tpm-version",), "1.2 or 2.0 (default 2.0)", "VERSION", ("1.2", "2.0"), type=_TEXT),
    Argument(("--group",), "the group that may use the device (default vtpm)", "GROUP", Offer.GROUP, type=_TEXT),
    Argument(("--ek",), f"of a TPM 2.0, with commas between: {', '.join(ENDORSEMENT_KEY_NAMES)} "
             "(default rsa2048,ecc-p384)", "KEYS", ENDORSEMENT_KEY_NAMES, type=_TEXT),
    Argument(("--pcr-banks",), f"of a TPM 2.0, with commas between: {', '.join(HASH_NAMES)} (default sha256,sha384)",
             "BANKS", HASH_NAMES, type=_TEXT),
    Argument(("--srk",), f"of a TPM 2.0: {', '.join(STORAGE_KEY_NAMES)} (default none)", "KEY", STORAGE_KEY_NAMES,
             type=_TEXT),
    Argument(("--profile",), "of a TPM 2.0, with libtpms 0.10: a profile's name or file", "PROFILE", Offer.FILE,
             type=_TEXT),
    Argument(("--ca",), f"the CA's directory (default {CA_DIRECTORY})", "DIR", Offer.DIRECTORY, type=_TEXT_PATH),
    Argument(("--key-file",), "encrypt the state with the key in this file", "FILE", Offer.FILE, type=_TEXT_PATH),
    Argument(("--passphrase-file",), "or with one that is derived from the passphrase in this file", "FILE",
             Offer.FILE, type=_TEXT_PATH),
    Argument(("--key-format",), f"what that file holds: {', '.join(FORMATS)} (default hex, of a passphrase "
             f"{DEFAULT_KDF})", "FORMAT", ("auto", *FORMATS), type=_TEXT),
    Argument(("--key-mode",), f"the cipher: {', '.join(MODES)} (default as long as the key, of a passphrase aes-cbc)",
             "MODE", ("auto", *MODES), type=_TEXT),
    Argument(("--platform-manufacturer",), "who made the machine", "TEXT", type=_TEXT),
    Argument(("--platform-model",), "its model", "TEXT", type=_TEXT),
    Argument(("--platform-version",), "its version", "TEXT", type=_TEXT),
    Argument(("--platform-serial",), "its serial number", "TEXT", type=_TEXT),
    Argument(("--idevid",), "of a TPM 2.0: with an initial device identity"),
    Argument(("--iak",), "of a TPM 2.0: with an initial attestation key"),
    Argument(("--no-certificates",), "make keys only"),
    *_OWNER,
    *_SRK,
)

_NAMED = Argument(("name",), "an instance, or a path that is its own", "NAME", Offer.INSTANCE_OR_PATH)
#: About instances, by their names: no TPM is asked.
_REPORTS = (
    Command("list", "list the instances", f"{_MODULES}.reports:list_instances", given=Given.HOST),
    Command("status", "show what is known about an instance", f"{_MODULES}.reports:status", (
        Argument(("name",), "an instance (vtpmctl list), or a path that is its own", "NAME", Offer.INSTANCE_OR_PATH),
    ), Given.INSTANCE),
    Command("check", "check a configuration without starting anything", f"{_MODULES}.reports:check", (
        Argument(("name",), "an instance, or the path of a file", "NAME|FILE", Offer.INSTANCE_OR_PATH),
    ), Given.HOST, Cryptography.PERHAPS),
    Command("doctor", "examine this host: accounts, devices, SELinux", f"{_MODULES}.reports:doctor", (
        Argument(("names",), "instances; without one all that there are", "NAME", Offer.INSTANCE, many=True),
        Argument(("--all",), "all instances, as without a name", dest="every"),
        Argument(("--failed",), "of these, those that failed, hang, or are started again and again"),
        Argument(("--ima",), "compare each installed file with its IMA signature"),
    ), Given.INSTANCE, Cryptography.PERHAPS),
    Command("decode", "say in words what a number or a message of a TPM means", f"{_MODULES}.decode:run", (
        Argument(("text",), "a return code, command, response, handle or NV index; - reads standard input", "HEX|-"),
        Argument(("answer",), "behind a command: its response or return code", "HEX|-", optional=True),
        Argument(("--tpm-version",), "1.2 or 2.0, of a number (default both)", "VERSION", choices=("1.2", "2.0")),
        Argument(("--secrets",), "show authorization values and what else may be secret"),
    )),
    Command("create", "make a TPM as a manufacturer does, and its configuration", f"{_MODULES}.create:run", _CREATE,
            Given.HOST, Cryptography.PERHAPS, waiting="making the TPM"),
    Command("verify", "try whether a state is good, and which of its generations", f"{_MODULES}.verify:run", (
        Argument(("name",), "an instance, or the path of a file or directory; without it all instances",
                 "NAME|FILE|DIR", Offer.INSTANCE_OR_PATH, optional=True),
        Argument(("--key",), f"the key of the state (default: what [state] says): {KEY_EXPECTED}", "KEY", KEY_SOURCES,
                 type=_KEY),
    ), Given.HOST, Cryptography.PERHAPS, waiting="trying the state"),
    Command("export", "write a TPM with all that belongs to it to one file", f"{_MODULES}.exporting:run", (
        _NAMED,
        Argument(("file",), "is replaced as a whole", "FILE", Offer.FILE, type=_PATH),
        Argument(("--volatile",), "with the volatile state, for a TPM that is to go on where it was"),
        Argument(("--key",), f"encrypt the state in it with this key (default: what [state] says): {KEY_EXPECTED}",
                 "KEY", KEY_SOURCES, type=_KEY),
    ), Given.INSTANCE, Cryptography.PERHAPS),
    Command("import", "make an instance of what export wrote", f"{_MODULES}.importing:run", (
        Argument(("file",), "written by export", "FILE", Offer.FILE, type=_PATH),
        Argument(("name",), "the instance (default: as it was called)", "NAME", Offer.INSTANCE, optional=True),
        Argument(("--overwrite",), "replace a state that is there, which becomes the generation before"),
        Argument(("--key",), f"the key that it was exported with (default: what [state] says): {KEY_EXPECTED}", "KEY",
                 KEY_SOURCES, type=_KEY),
    ), Given.HOST, Cryptography.PERHAPS),
    Command("restore", "have the generation before in the place of the current state", f"{_MODULES}.restoring:run", (
        _NAMED,
        Argument(("--generation",), "previous or backup (default: the first of them that is there)",
                 choices=("previous", "backup")),
    ), Given.INSTANCE, Cryptography.PERHAPS),
    Command("rekey", "encrypt the state of a stopped instance with another key", f"{_MODULES}.rekey:run", (
        Argument(("name",), "an instance, see vtpmctl list", "NAME", Offer.INSTANCE),
        Argument(("--from",), f"the key until now (default none: the state is in clear): {KEY_EXPECTED}", "KEY",
                 KEY_SOURCES, type=_KEY, dest="old"),
        Argument(("--to",), "the key from now on (default: what [state] says), in the same forms", "KEY",
                 KEY_SOURCES, type=_KEY, dest="new"),
    ), Given.INSTANCE, Cryptography.PERHAPS),
)


_NOW = Argument(("--now",), "and now")


def _unit(name: str, text: str, *arguments: Argument) -> Command:
    return Command(name, text, f"{_MODULES}.units:{name}", (_NAMED, *arguments), Given.INSTANCE)


#: The service of an instance, by systemctl's and journalctl's words.
_UNITS = (
    _unit("start", "start the service"),
    _unit("stop", "stop the service; its device goes"),
    _unit("restart", "restart the service, which its clients do not notice"),
    _unit("enable", "start the service at each boot", _NOW),
    _unit("disable", "do not start the service at boot any more", _NOW),
    _unit("logs", "show what the service has said",
          Argument(("--follow", "-f"), "go on with what comes"),
          Argument(("--lines", "-n"), "only the last N", "N", type=f"{_MODULES}.units:count"),
          )._replace(streams=True),
    Command("edit", "change the configuration, which is checked before it takes the old one's place",
            f"{_MODULES}.edit:run", (
        _NAMED,
        Argument(("--unit",), "edit a drop-in of the unit instead, as systemctl edit does"),
    ), Given.INSTANCE),
)


def _operation(name: str, text: str, function: str, *arguments: Argument) -> Command:
    return Command(name, text, f"{_MODULES}.operations:{function}", (_DEVICE, *arguments), Given.DEVICE)


#: Control requests, to a device or a control socket.
_OPERATIONS = (
    _operation("capabilities", "list the control operations that the device supports", "capabilities"),
    _operation("init", "power the TPM on, or reset it", "init", _KEEP_VOLATILE, _NO_STARTUP),
    _operation("reset", "reset the TPM, as a reset of the hardware does", "reset", _NO_STARTUP),
    _operation("shutdown", "shut the TPM down; its service ends", "shutdown"),
    _operation("established", "show or reset the tpmEstablished bit", "established",
               Argument(("--reset",), "reset the bit"),
               Argument(("--locality",), "the locality that resets it (default 3)", type=int, choices=(3, 4), default=3)),
    _operation("locality", "set the locality of the commands that follow", "set_locality",
               Argument(("locality",), "0 to 4", "N", type=int, choices=(0, 1, 2, 3, 4))),
    _operation("hash", "measure data: the hash sequence of a dynamic launch", "hash_data",
               Argument(("file",), "the data; - is standard input", "FILE|-", Offer.FILE)),
    _operation("cancel", "end the TPM command that is running", "cancel"),
    _operation("store-volatile", "store the volatile state, for the next init to go on with", "store_volatile"),
    _operation("save", "save state of the TPM to a file", "save",
               _STATE_TYPE, Argument(("file",), "is replaced as a whole", "FILE", Offer.FILE)),
    _operation("load", "load state into a stopped TPM", "load",
               _STATE_TYPE, Argument(("file",), "written by save", "FILE", Offer.FILE)),
    _operation("info", "show what the TPM implementation says about itself, as JSON", "info",
               Argument(("--flags",), "a number, or names with commas: " + ", ".join(INFO_NAMES), "FLAGS",
                        INFO_NAMES, type=f"{_MODULES}.operations:info_flags", default=INFO_DEFAULT)),
    _operation("config", "show which keys protect the state", "get_config"),
    _operation("buffer-size", "show or, while it is stopped, set the size of the TPM's buffer", "buffer_size",
               Argument(("size",), "bytes", "N", type=f"{_MODULES}.operations:buffer_bytes", optional=True)),
)

_POWER = (
    _operation("on", "power the TPM on; a running one is reset", "power_on", _KEEP_VOLATILE, _NO_STARTUP),
    _operation("off", "power the TPM off; the service and the device stay", "power_off"),
    _operation("reset", "reset the TPM, as a reset of the hardware does", "power_reset", _NO_STARTUP),
)

#: TPM commands, to any TPM of either version.
_TPM_COMMANDS = (
    Command("createek", "make the endorsement key", f"{_MODULES}.owner_commands:create_ek", (
        _TPM,
        _ALGORITHM,
        Argument(("--force",), "of a TPM 2.0: replace the key that is stored at its place"),
        *_OWNER,
    ), Given.STARTED_TPM),
    Command("takeown", "take ownership: set the owner's password", f"{_MODULES}.owner_commands:take_ownership",
            (_TPM, *_OWNER, *_SRK), Given.STARTED_TPM, Cryptography.PERHAPS),
    Command("getpubek", "write the endorsement key's public part to a file and show it",
            f"{_MODULES}.owner_commands:get_pubek", (
        _TPM,
        _ALGORITHM,
        Argument(("--output",), f"the file, which is replaced as a whole (default {DEFAULT_OUTPUT})", "FILE", Offer.FILE,
                 default=DEFAULT_OUTPUT),
        *_OWNER,
    ), Given.TPM, Cryptography.ALWAYS),
    Command("ek", "show the endorsement key, its certificate or its fingerprint", f"{_MODULES}.ek:show_ek", (
        _TPM,
        _ALGORITHM,
        Argument(("--pem",), "as PEM (the default)"),
        Argument(("--der",), "as DER, which is binary"),
        Argument(("--cert",), "its certificate, not the key"),
        Argument(("--fingerprint",), "SHA-256 of the key's DER form"),
        Argument(("--output",), "to this file, which is replaced as a whole", "FILE", Offer.FILE),
        *_OWNER,
    ), Given.TPM, Cryptography.ALWAYS),
    Command("identity", "show endorsement keys, certificates, and what has changed",
            f"{_MODULES}.identity:show_identity", (_TPM, _ca("the local CA's"), *_OWNER),
            Given.WATCHED_TPM, Cryptography.ALWAYS),
)


def _action(name: str, text: str, function: str, *arguments: Argument) -> Command:
    return Command(name, text, f"{_MODULES}.authority:{function}", (*arguments, _ca("the CA's")),
                   cryptography=Cryptography.ALWAYS)


_CA = (
    _action("show", "show the certificates of the CA and what signs for it", "show"),
    _action("create", "make the CA now, if there is none; else the first TPM that needs it does", "create"),
    _action("export", "write the root certificate, which verifiers need, in PEM", "export",
            Argument(("--chain",), "all certificates, from the issuer's to the root's"),
            Argument(("--output",), "to this file, which is replaced as a whole", "FILE", Offer.FILE)),
    _action("import", "let an issuer of your own sign, in place of a CA that is made here", "import_issuer",
            Argument(("chain",), "PEM: the issuer's certificate, then that of who signed it, and so on", "CHAIN",
                     Offer.FILE),
            Argument(("--key",), "the issuer's key, PEM, not encrypted", "FILE", Offer.FILE),
            Argument(("--signer",), "a command that signs what it reads, in place of a key", "COMMAND"),
            Argument(("--force",), "replace the CA that is there, and keep it aside")),
)
# fmt: on

PROGRAM = Program(
    "vtpmctl",
    "Look at and control virtual TPMs.",
    "Exit statuses and all details: vtpmctl(8)",
    everywhere=(Argument(("--json",), "print JSON"),),
    commands=(
        *_REPORTS,
        *_UNITS,
        Command("power", "switch the TPM of a running service on or off, or reset it", actions=_POWER),
        *_OPERATIONS,
        *_TPM_COMMANDS,
        Command("ca", "show, hand out or replace the local certification authority", actions=_CA),
    ),
    headings=(
        ("Look", ("list", "status", "doctor", "check", "logs", "decode")),
        ("Make and run instances", ("create", "edit", "start", "stop", "restart", "enable", "disable")),
        ("Power of a TPM", ("power", "init", "reset", "shutdown")),
        ("State", ("verify", "export", "import", "restore", "rekey", "save", "load", "store-volatile")),
        ("Keys, owner, identity", ("identity", "ek", "createek", "takeown", "getpubek", "ca")),
        (
            "Control operations",
            ("capabilities", "info", "config", "buffer-size", "locality", "established", "hash", "cancel"),
        ),
    ),
)
