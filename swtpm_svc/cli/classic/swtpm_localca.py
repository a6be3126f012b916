"""`swtpm_localca`: a certificate for a TPM's key from swtpm's local CA, which is made when there is none.

swtpm's runs swtpm_cert for that; this one calls what is in it. swtpm_setup does so too, and spares two processes and
two readings of the CA's key for each certificate.
"""

import os
import signal
import sys
from contextlib import suppress
from typing import Callable, NamedTuple, Optional

from swtpm_svc.cli.classic import settings_file, swtpm_cert
from swtpm_svc.cli.classic.guarded_command import guarded
from swtpm_svc.cli.classic.option_scanner import REQUIRED, Found, Option, Problem, scan
from swtpm_svc.errors import VtpmError
from swtpm_svc.provision.swtpm_ca import LocalCa, Settings, user_name
from swtpm_svc.provision.swtpm_certificate import with_header
from swtpm_svc.provision.swtpm_signer import PKCS11
from swtpm_svc.state import named_files

PROGRAM = "swtpm_localca"
CONFIG, OPTIONS_FILE = "swtpm-localca.conf", "swtpm-localca.options"

_TPM_OPTIONS = (
    "tpm-spec-family",
    "tpm-spec-revision",
    "tpm-spec-level",
    "tpm-manufacturer",
    "tpm-model",
    "tpm-version",
    "tpm-serial-num",
)
#: As whom a person is told of a kind of certificate, where that is not its name.
_NAMED = {"ek": "EK"}
OPTIONS = (
    *(Option(name, REQUIRED) for name in ("type", "ek", "key", "dir", "vmid", "optsfile", "configfile", "logfile")),
    *(Option(name, REQUIRED) for name in _TPM_OPTIONS),
    *(Option(name) for name in ("tpm2", "allow-signing", "decryption")),
    Option("help", letter="h"),
)

HELP = """Usage: swtpm_localca [options]

Make a certificate for a TPM's key with the local CA; the CA is made if there is none.

--type type           The certificate: ek, platform, iak or idevid
--ek key, --key key   The key: the modulus of an RSA key, or x=...,y=...[,id=...] of an EC key
--dir directory       Where to write the certificate; default is the current directory
--vmid vmid           The ID of the virtual machine
--optsfile file       A file with options for swtpm_cert
--configfile file     A file that says where the CA is: statedir, signingkey, signingkey_password, issuercert,
                      certserial
--logfile file        Where messages go
--tpm-spec-family s   The specification's family, such as 2.0
--tpm-spec-revision i The specification's revision, such as 146
--tpm-spec-level i    The specification's level, such as 0
--tpm-manufacturer s  The manufacturer of the TPM, such as id:00001014
--tpm-model s         Its model, such as swtpm
--tpm-version i       Its (firmware) version, such as id:20160511
--tpm-serial-num s    Its serial number; for iak and idevid
--tpm2                For a TPM 2
--allow-signing       The TPM 2's EK may sign
--decryption          The TPM 2's EK may decrypt
--help, -h            Print this help and exit

Environment: SWTPM_ROOTCA_PASSWORD is the password of the root CA's key.
"""


class Failure(Exception):
    """It cannot be done; the text says why. `is_usage`: the help follows."""

    def __init__(self, message: str, *, is_usage: bool = False) -> None:
        super().__init__(message)
        self.is_usage = is_usage


class Job(NamedTuple):
    """One certificate to make, as the options say it."""

    kind: str
    key: str
    directory: str
    vmid: str
    options_file: str
    config_file: str
    log_file: Optional[str]
    #: Those of swtpm_cert that are handed on.
    options: "dict[str, str]"


def main(words: "Optional[list[str]]" = None) -> int:
    """The command; its exit status."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # who does not read any more ends it, without a word
    return guarded(PROGRAM, lambda: _main(sys.argv[1:] if words is None else words))


def _main(words: "list[str]") -> int:
    try:
        job = parse(words)
        if job is None:
            print(HELP, end="")
            return 0
        tell, complain = _voices(job.log_file)
    except Failure as error:
        print(error, file=sys.stderr)
        if error.is_usage:
            print(HELP, end="")
        return 1
    try:
        tell(make(job, find_ca(job, tell)))
    except (Failure, VtpmError) as error:
        complain(str(error))
        return 1
    return 0


def parse(words: "list[str]") -> Optional[Job]:
    """None: help is wanted.

    Raises:
        Failure.
    """
    given: dict[str, str] = {}
    for event in scan(OPTIONS, words):
        if isinstance(event, Problem):
            raise Failure(f"{PROGRAM}: {event.message}", is_usage=True)
        if isinstance(event, Found):
            if event.option.name == "help":
                return None
            given["ek" if event.option.name == "key" else event.option.name] = event.value or ""
    return Job(
        given.get("type", "").lower(),
        given.get("ek", ""),
        given.get("dir", "."),
        given.get("vmid", ""),
        given.get("optsfile") or settings_file.find(OPTIONS_FILE),
        given.get("configfile") or settings_file.find(CONFIG),
        given.get("logfile"),
        {name: given[name] for name in (*_TPM_OPTIONS, "tpm2", "allow-signing", "decryption") if name in given},
    )


def find_ca(job: Job, tell: Callable[[str], None]) -> LocalCa:
    """The CA that the configuration describes. `tell` hears what a person is told.

    Raises:
        Failure.
    """
    _refuse_unreadable("options", job.options_file)
    _refuse_unreadable("config", job.config_file)
    try:
        values = settings_file.read(job.config_file)
    except OSError:
        raise Failure(_no_rights("config", job.config_file)) from None
    for name in ("statedir", "signingkey", "issuercert"):
        if not values.get(name):
            raise Failure(f"Missing '{name}' config value in config file {job.config_file}.")
    key = values["signingkey"].replace("\\;", ";")
    if key.startswith(PKCS11):
        # for the command that signs
        os.environ["SWTPM_PKCS11_PIN"] = values.get("SWTPM_PKCS11_PIN", "swtpm-tpmca")
        tell("CA uses a PKCS#11 key; using SWTPM_PKCS11_PIN")
        os.environ.update({name[4:]: value for name, value in values.items() if name.startswith("env:")})
    password, root_password = values.get("signingkey_password"), os.environ.get("SWTPM_ROOTCA_PASSWORD")
    directory = values["statedir"]
    settings = Settings(
        directory,
        key,
        values["issuercert"],
        values.get("certserial") or os.path.join(directory, "certserial"),
        os.fsencode(password) if password else None,
        os.fsencode(root_password) if root_password else None,
    )
    return LocalCa(settings, tell)


def make(job: Job, ca: LocalCa) -> str:
    """Make the certificate and write it; what a person is told.

    Raises:
        Failure, VtpmError.
    """
    if not os.path.isdir(job.directory):
        raise _not_created(job, f"There is no directory {job.directory}, which --dir names")
    der, is_tpm2 = _certified(job, ca)
    try:
        content = der if is_tpm2 else with_header(der)
        swtpm_cert.write(os.path.join(job.directory, f"{job.kind}.cert"), content)
    except swtpm_cert.Wrong as error:
        raise _not_created(job, error) from error
    return _created(job)


def certify(job: Job, ca: LocalCa, tell: Callable[[str], None]) -> bytes:
    """The certificate, DER, which is written nowhere. `tell` hears what a person is told.

    Raises:
        Failure, VtpmError.
    """
    der, _is_tpm2 = _certified(job, ca)
    tell(_created(job))
    return der


def _certified(job: Job, ca: LocalCa) -> "tuple[bytes, bool]":
    """DER, and whether it is that of a TPM 2."""
    try:
        given = _options_of(job)
        # before a CA is made for what is wrong
        wanted = swtpm_cert.request({**given, "signkey": "-", "issuercert": "-"})
        return ca.issue(wanted), wanted.is_tpm2
    except (swtpm_cert.Wrong, VtpmError) as error:
        raise _not_created(job, error) from error


def _created(job: Job) -> str:
    return f"Successfully created {_NAMED.get(job.kind, job.kind)} certificate locally."


def _not_created(job: Job, error: "Exception | str") -> Failure:
    return Failure(f"Could not create {_NAMED.get(job.kind, job.kind)} certificate locally\n{error}")


def _options_of(job: Job) -> "dict[str, str]":
    """What swtpm_cert would be given."""
    try:
        words = settings_file.read_text(job.options_file).split()
    except OSError:
        raise Failure(_no_rights("options", job.options_file)) from None
    given = swtpm_cert.scanned(words)
    given.update(job.options)
    if job.kind != "ek":
        given.pop("allow-signing", None)
        given.pop("decryption", None)
    vmid = (job.vmid or "unknown").replace("+", "_").replace(",", "_")
    attribute = "serialNumber" if job.kind in ("iak", "idevid") else "CN"
    given.update({"type": job.kind, "days": "-1", "subject": f"{attribute}={vmid}", **_key_options(job.key)})
    return given


def _key_options(key: str) -> "dict[str, str]":
    if "," not in key:
        return {"modulus": key}
    names = {"x": "ecc-x", "y": "ecc-y", "id": "ecc-curveid"}
    pairs = (part.partition("=") for part in key.split(","))
    return {names[name]: value for name, _, value in pairs if name in names}


def _refuse_unreadable(what: str, path: str) -> None:
    try:
        os.close(named_files.open_input(path))
    except OSError:
        raise Failure(_no_rights(what, path)) from None


def _no_rights(what: str, path: str) -> str:
    return f"Need read rights on {what} file {path} for user {user_name()}."


def _print(text: str, fd: int) -> None:
    with suppress(OSError):  # nobody listens any more, or the disk is full: the certificate is what was asked for
        os.write(fd, os.fsencode(f"{text}\n"))


def _voices(log_file: Optional[str]) -> "tuple[Callable[[str], None], Callable[[str], None]]":
    """How to tell a person something, and how to complain: both go to the log file where there is one.

    Raises:
        Failure: it cannot be written.
    """
    if log_file is None:
        return lambda text: _print(text, 1), lambda text: _print(text, 2)
    try:
        flags = os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        log = named_files.open_output(log_file, flags, 0o640, takes_readers=True)
    except OSError as error:
        raise Failure(f"Cannot write to logfile {log_file}: {error.strerror}.") from None
    return lambda text: _print(text, log), lambda text: _print(text, log)
