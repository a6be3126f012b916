"""The options of swtpm_setup, and what they ask for."""

import os
from typing import Optional

from swtpm_svc.cli.classic.option_scanner import OPTIONAL, REQUIRED, Found, Option, Problem, scan

PROGRAM = "swtpm_setup"

_WITH_VALUE = (
    "tpm",
    "tpm-state",
    "tpmstate",
    "swtpm_ioctl",
    "tcsd-system-ps-file",
    "ownerpass",
    "srkpass",
    "config",
    "vmid",
    "keyfile",
    "keyfile-fd",
    "pwdfile",
    "pwdfile-fd",
    "cipher",
    "pcr-banks",
    "rsa-keysize",
    "ek1keyalgo",
    "ek2keyalgo",
    "iakkeyalgo",
    "idevidkeyalgo",
    "write-ek-cert-files",
    "profile",
    "profile-name",
    "profile-file",
    "profile-file-fd",
    "profile-remove-disabled",
    "logfile",
    "runas",
)
_FLAGS = (
    "tpm2",
    "createek",
    "ecc",
    "create-spk",
    "allow-signing",
    "decryption",
    "take-ownership",
    "owner-well-known",
    "srk-well-known",
    "create-ek-cert",
    "create-platform-cert",
    "lock-nvram",
    "display",
    "overwrite",
    "not-overwrite",
    "reconfigure",
    "print-profiles",
    "print-capabilities",
    "no-iak",
    "version",
)
OPTIONS = (
    *(Option(name, REQUIRED) for name in _WITH_VALUE),
    *(Option(name) for name in _FLAGS),
    Option("create-config-files", OPTIONAL),
    Option("help", letter="h"),
)
_DEPRECATED = ("swtpm_ioctl", "tcsd-system-ps-file")
#: Options that are of a TPM 2 alone, in the order in which they are looked at.
_OF_TPM2 = ("ecc", "create-spk", "reconfigure", "allow-signing", "decryption", "pcr-banks")
_PROFILES = ("profile", "profile-name", "profile-file", "profile-file-fd")

HELP = """Usage: swtpm_setup [options]

Make the state of a new TPM, with keys and certificates as a manufacturer leaves them.

Where:
--tpm-state <dir>, --tpmstate <dir>
                      : the folder of the state: a path, or dir://<path>; mandatory
--config <file>       : configuration; default: swtpm_setup.conf in $XDG_CONFIG_HOME, $HOME/.config or /etc
--logfile <file>      : where messages go
--runas <user>        : do it as this user
--tpm <program>       : accepted; the TPM is made in this process
--overwrite           : replace a state that is there
--not-overwrite       : leave a state that is there, and end well
--reconfigure         : change the PCR banks of a TPM 2 that is there, and nothing else

What:
--tpm2                : a TPM 2; default is a TPM 1.2
--createek            : an endorsement key; in a TPM 2 two
--ek1keyalgo <a>, --ek2keyalgo <a>
                      : their algorithms: rsa2048 (default of the first), rsa3072, rsa4096, secp256r1, secp384r1
                        (default of the second), secp521r1
--rsa-keysize <size>  : of the RSA endorsement key: 2048 (default), 3072, 4096 or max
--allow-signing       : endorsement keys that may sign: not the standard ones
--decryption          : endorsement keys that may decrypt; the default without --allow-signing
--create-spk          : a storage primary key
--ecc                 : on an elliptic curve
--pcr-banks <banks>   : the PCR banks that are active, such as sha1,sha256; '-' for all; default: sha256
--create-ek-cert      : a certificate for each endorsement key
--create-platform-cert: a platform certificate
--iakkeyalgo <a>      : an initial attestation key with certificate
--idevidkeyalgo <a>   : an initial device identity with certificate
--write-ek-cert-files <dir>
                      : write certificates there, too
--vmid <id>           : the virtual machine's name, for certificates
--lock-nvram          : let nobody write those NV indices any more
--take-ownership      : own the TPM 1.2
--ownerpass <pwd>     : its owner password; default is ooo
--owner-well-known    : an owner password of 20 zero octets
--srkpass <pwd>       : its SRK password; default is sss
--srk-well-known      : an SRK password of 20 zero octets
--profile <json>, --profile-name <name>, --profile-file <file>, --profile-file-fd <fd>
                      : the profile of a TPM 2 (libtpms 0.10)
--profile-remove-disabled <check|fips-host>

Encryption of the state:
--keyfile <file>, --keyfile-fd <fd>
                      : a key of 32 or 64 hex digits
--pwdfile <file>, --pwdfile-fd <fd>
                      : a passphrase
--cipher <cipher>     : aes-128-cbc (default) or aes-256-cbc

Others:
--create-config-files[=words]
                      : write configuration files for this user; words: overwrite, root, skip-if-exist
--display             : accepted
--print-capabilities  : print capabilities and exit
--print-profiles      : print profiles and exit
--version             : print the version and exit
--help, -h            : print this help and exit
"""


def is_program(path: str) -> bool:
    """Can it be run? A directory has the same permission bit."""
    return os.path.isfile(path) and os.access(path, os.X_OK)


class SetupError(Exception):
    """It cannot be done; the text says why. `is_usage`: the help follows; `is_spoken`: swtpm_setup says it on standard
    output."""

    def __init__(self, message: str, *, is_usage: bool = False, is_spoken: bool = False) -> None:
        super().__init__(message)
        self.is_usage, self.is_spoken = is_usage, is_spoken


class Given:
    """The options by their names; `notices` are to be printed."""

    def __init__(self, values: "dict[str, str]", notices: "tuple[str, ...]") -> None:
        self.values, self.notices = values, notices

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def get(self, name: str) -> Optional[str]:
        return self.values.get(name)


def read(words: "list[str]") -> Given:
    """
    Raises:
        SetupError.
    """
    values: dict[str, str] = {}
    notices = []
    for event in scan(OPTIONS, _joined(words)):
        if isinstance(event, Problem):
            raise SetupError(f"{PROGRAM}: {event.message}", is_usage=True)
        if not isinstance(event, Found):
            continue
        name, value = event.option.name, event.value or ""
        if name in ("help", "version"):
            return Given({name: ""}, ())
        if name in _DEPRECATED:
            notices.append(f"Warning: --{name} is deprecated and has no effect.")
        name = "tpm-state" if name == "tpmstate" else name
        if name == "pcr-banks" and values.get(name):
            value = f"{values[name]},{value}"
        values[name] = value
    return Given(values, tuple(notices))


def _joined(words: "list[str]") -> "list[str]":
    """The words of --create-config-files may stand behind it, too."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] == "--create-config-files" and not word.startswith("-"):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def refuse_contradictions(given: Given) -> None:
    """
    Raises:
        SetupError: what is asked for does not go together.
    """
    is_tpm2 = "tpm2" in given
    if is_tpm2 and "take-ownership" in given:
        raise SetupError("Taking ownership is not supported for TPM 2.")
    if not is_tpm2:
        for name in _OF_TPM2:
            if name in given:
                raise SetupError(f"--{name} requires --tpm2.")
    profiles = [name for name in _PROFILES if name in given]
    if len(profiles) > 1:
        raise SetupError("Only one of --profile, --profile-name, --profile-file, and --profile-file-fd may be given.")
    if profiles and not is_tpm2:
        raise SetupError("There's no --profile support for TPM 1.2")
    if "profile-remove-disabled" in given and given.get("profile-remove-disabled") not in ("check", "fips-host"):
        value = given.get("profile-remove-disabled")
        raise SetupError(f"Unsupported parameter for --profile-remove-disabled: {value}")
    if "reconfigure" in given:
        if profiles:
            raise SetupError("Reconfiguration does not accept a (new) profile.")
        if any(name in given for name in ("createek", "create-spk", "create-ek-cert", "create-platform-cert")):
            raise SetupError("Reconfiguration is not supported with creation of EK or certificates")
    if ("iakkeyalgo" in given or "idevidkeyalgo" in given) and "create-ek-cert" not in given:
        raise SetupError("When creating IAK and/or IDevID keys, then an EK certificate must be created as well.")
