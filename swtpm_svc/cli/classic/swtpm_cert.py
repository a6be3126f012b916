"""`swtpm_cert`: a certificate for a TPM's key, signed by a CA's key.

Options and messages are swtpm_cert(8)'s. Of numbers that are none swtpm 0.10 makes 0; here, as in 0.11, they are
refused.
"""

import os
import re
import signal
import sys
from typing import TYPE_CHECKING, NamedTuple, NoReturn, Optional

from swtpm_svc.cli.classic import SWTPM_VERSION
from swtpm_svc.cli.classic.guarded_command import guarded
from swtpm_svc.cli.classic.option_scanner import REQUIRED, Found, Option, Problem, scan
from swtpm_svc.errors import VtpmError
from swtpm_svc.provision import swtpm_certificate
from swtpm_svc.provision.swtpm_certificate import FOR_EVER, KINDS, Platform, Tpm, Wanted

if TYPE_CHECKING:
    from swtpm_svc.provision.swtpm_signer import Signer

_PROGRAM = "swtpm_cert"
_VERSION = f"TPM certificate tool version {SWTPM_VERSION}, Copyright (c) 2015 IBM Corp."

_WITH_VALUE = [
    "pubkey",
    "modulus",
    "exponent",
    "ecc-x",
    "ecc-y",
    "ecc-curveid",
    "public",
    "keyalgo",
    "signkey",
    "signkey-password",
    "signkey-pwd",
    "parentkey-password",
    "parentkey-pwd",
    "issuercert",
    "out-cert",
    "serial",
    "days",
    "type",
    "tpm-manufacturer",
    "tpm-model",
    "tpm-version",
    "platform-manufacturer",
    "platform-model",
    "platform-version",
    "tpm-spec-family",
    "tpm-spec-level",
    "tpm-spec-revision",
    "tpm-serial-num",
    "subject",
]
_FLAGS = ["pem", "add-header", "tpm2", "allow-signing", "decryption", "print-capabilities", "version"]
OPTIONS = (
    *(Option(name, REQUIRED) for name in _WITH_VALUE),
    *(Option(name) for name in _FLAGS),
    Option("help", letter="h"),
)

HELP = """Usage: swtpm_cert [options]

Make a certificate for a TPM's key; the private part of that key is not needed.

The key:
--pubkey <file>            : the public key in PEM
--modulus <hex>            : an RSA key's modulus
--exponent <number>        : its exponent; default is 0x10001
--ecc-x <hex>              : x of an EC key
--ecc-y <hex>              : y of an EC key
--ecc-curveid <id>         : its curve: secp256r1 (default), secp384r1, secp521r1

Who signs:
--signkey <file>           : the CA's key in PEM, or pkcs11:...
--signkey-password <p>     : its password
--signkey-pwd <pwd>        : its password, in another form (below)
--issuercert <file>        : the CA's certificate in PEM

The certificate:
--out-cert <file>          : where to write it; without it: standard output
--pem                      : in PEM; default is DER
--add-header               : behind the header that a TPM 1.2's NV storage has
--type <type>              : ek (default), platform, iak or idevid
--serial <number>          : serial number; default is 1
--days <number>            : days that it is valid; -1 for ever; default is 365
--subject <name>           : such as C=US,O=Organization,CN=name; not used with a TPM 1.2
--tpm2                     : for a TPM 2
--allow-signing            : the key of a TPM 2 may sign
--decryption               : the key of a TPM 2 may decrypt; the default without --allow-signing
--tpm-manufacturer <name>, --tpm-model <model>, --tpm-version <version>
                           : the TPM
--tpm-serial-num <number>  : its serial number, for iak and idevid
--tpm-spec-family <family>, --tpm-spec-level <level>, --tpm-spec-revision <revision>
                           : the specification that it follows
--platform-manufacturer <name>, --platform-model <model>, --platform-version <version>
                           : the platform

--print-capabilities       : print capabilities and exit
--version                  : print the version and exit
--help, -h                 : print this help and exit

Forms of a password: <password>, pass:<password>, fd:<number>, file:<file>, env:<variable>

Environment: SWTPM_PKCS11_PIN is the PIN of a PKCS #11 key, for the command that signs with it.
"""

FEATURES = ("cmdarg-signkey-pwd", "cmdarg-parentkey-pwd", "cmdarg-tpm-serial-num", "supports-iak-idevid")

_CURVES = {"secp256r1": (3, 32), "secp384r1": (4, 48), "secp521r1": (5, 66)}
_DEFAULT_EXPONENT, _DEFAULT_DAYS = 0x10001, 365
#: Characters: more than an RSA key of 16384 bits has, and less than the parts of a certificate may have.
_VALUE_MAX = 4200
_HEX_DIGITS = re.compile("[0-9A-Fa-f]*")
_DECIMAL = re.compile("[0-9]+")
_NUMBER = re.compile("-?(0[xX][0-9A-Fa-f]+|[0-9]+)")


class Wrong(Exception):
    """The command line is wrong; the message says why. `is_usage`: the help follows."""

    def __init__(self, message: str, *, is_usage: bool = False) -> None:
        super().__init__(message)
        self.is_usage = is_usage


class Key(NamedTuple):
    """A public key as certificates have it."""

    spki: bytes
    is_rsa: bool


def main(words: "Optional[list[str]]" = None) -> int:
    """The command; its exit status."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # who does not read any more ends it, without a word
    return guarded(_PROGRAM, lambda: _main(sys.argv[1:] if words is None else words))


def _main(words: "list[str]") -> int:
    try:
        return _run(words)
    except Wrong as error:
        print(error, file=sys.stderr)
        if error.is_usage:
            _print_help()
    except VtpmError as error:
        print(error.report(_PROGRAM) if error.remedy else error.message, file=sys.stderr)
    return 1


def scanned(words: "list[str]") -> "dict[str, str]":
    """The options by their names; what is to be printed is the last one.

    Raises:
        Wrong.
    """
    given: dict[str, str] = {}
    for event in scan(OPTIONS, words, long_only=True):
        if isinstance(event, Problem):
            raise Wrong(f"{_PROGRAM}: {event.message}", is_usage=True)
        if isinstance(event, Found):
            given[event.option.name] = event.value or ""
            if event.option.name in _PRINTED:
                break
    return given


def _print_help() -> None:
    print(f"{_VERSION}\n\n{HELP}", end="")


def _print_version() -> None:
    print(_VERSION)


def _print_capabilities() -> None:
    features = ", ".join(f'"{feature}"' for feature in FEATURES)
    print(f'{{ "type": "{_PROGRAM}", "features": [ {features} ], "version": "{SWTPM_VERSION}" }}')


_PRINTED = {"help": _print_help, "version": _print_version, "print-capabilities": _print_capabilities}


def _run(words: "list[str]") -> int:
    given = scanned(words)
    for name, show in _PRINTED.items():
        if name in given:
            show()
            return 0
    wanted = request(given)
    der = _signer(given).issue(wanted)
    if "add-header" in given:
        der = swtpm_certificate.with_header(der)
    write(given.get("out-cert"), _pem(der) if "pem" in given else der)
    return 0


def request(given: "dict[str, str]") -> Wanted:
    """The certificate that the options, by their names, describe.

    Raises:
        Wrong. VtpmError USAGE.
    """
    for name, value in given.items():
        if len(value) > _VALUE_MAX:
            _refuse(f"The value of --{name} is too long.")
    serial, days = _serial(given.get("serial", "1")), _days(given)
    key = _key(given)
    if "issuercert" not in given:
        _refuse("The issuer certificate name is required.")
    if "signkey" not in given:
        raise Wrong("Missing signature key.", is_usage=True)
    kind = given.get("type", "ek").lower()
    if kind not in KINDS:
        _refuse(f"Unknown certificate type '{given['type']}'.")
    is_tpm2 = "tpm2" in given
    if kind in ("ek", "platform"):
        _all_of(given, "tpm-manufacturer", "tpm-model", "tpm-version")
    else:
        _all_of(given, "tpm-serial-num")
    if kind == "ek":
        _all_of(given, "tpm-spec-family", "tpm-spec-level", "tpm-spec-revision")
    if kind == "platform":
        _all_of(given, "platform-manufacturer", "platform-model", "platform-version")
    maker, model, version, family = (
        given.get(f"tpm-{name}", "") for name in ("manufacturer", "model", "version", "spec-family")
    )
    level, revision = _number(given, "tpm-spec-level"), _number(given, "tpm-spec-revision")
    tpm = Tpm(maker, model, version, family, level, revision, given.get("tpm-serial-num", ""))
    platform = Platform(*(given.get(f"platform-{name}", "") for name in Platform._fields))
    subject = swtpm_certificate.subject(given.get("subject", "") if is_tpm2 else "")
    signs, decrypts = "allow-signing" in given, "decryption" in given
    return Wanted(kind, is_tpm2, *key, tpm, platform, subject, serial, days, signs, decrypts)


def _refuse(message: str) -> NoReturn:
    raise Wrong(message)


def _all_of(given: "dict[str, str]", *names: str) -> None:
    if not all(name in given for name in names):
        _refuse(f"{' and '.join(f'--{name}' for name in names)} must {'all ' if len(names) > 1 else ''}be provided.")


def _serial(text: str) -> int:
    # a number of more digits is too large, and would take long to read
    if not _DECIMAL.fullmatch(text):
        _refuse("Serial number is invalid.")
    if len(text.lstrip("0")) > 49 or int(text) > swtpm_certificate.SERIAL_MAX:
        _refuse("Serial number is too large.")
    if not int(text):
        _refuse("Serial number is invalid.")  # RFC 5280, 4.1.2.2
    return int(text)


def _days(given: "dict[str, str]") -> int:
    text = given.get("days", str(_DEFAULT_DAYS))
    if not _NUMBER.fullmatch(text):
        _refuse(f"Could not parse the number of days '{text}'.")
    days = int(text, 0) if "x" in text.lower() else int(text[:20])
    if not FOR_EVER <= days < 1 << 31:
        _refuse(f"Days value of '{text}' is outside valid range.")
    return days


def _number(given: "dict[str, str]", name: str) -> int:
    text = given.get(name, "0")
    if not _DECIMAL.fullmatch(text) or len(text) > 10:
        _refuse(f"--{name} must be a number, not '{text}'.")
    return int(text)


def _key(given: "dict[str, str]") -> Key:
    """In the order in which swtpm_cert looks at them: a file wins over what else there is."""
    exponent = _exponent(given)
    modulus = _octets(given["modulus"]) if "modulus" in given else None
    point = [_octets(given[name]) for name in ("ecc-x", "ecc-y") if name in given]
    curve = given.get("ecc-curveid", "secp256r1")
    if "public" in given or "keyalgo" in given:
        _refuse("ML-KEM and ML-DSA keys are not supported: leave --public and --keyalgo out.")
    if curve not in _CURVES:
        _refuse(f"Unsupported ECC curve id: {curve}")
    if modulus is not None and point:
        _refuse("RSA modulus and ECC parameters cannot both be given.")
    if "pubkey" in given:
        return _key_in(given["pubkey"])
    if len(point) == 1:
        _refuse("ECC x and y parameters must both be given.")
    if modulus is None and not point:
        raise Wrong("Missing public EK file and modulus or ECC parameters.", is_usage=True)
    from swtpm_svc.provision.subject_public_key import spki
    from swtpm_svc.wire.public_key import EccPublicKey, RsaPublicKey

    if modulus is not None:
        if not any(modulus):
            _refuse("The RSA modulus is empty.")
        return Key(spki(RsaPublicKey(modulus, exponent)), is_rsa=True)
    number, size = _CURVES[curve]
    if any(len(part.lstrip(b"\0")) > size for part in point):
        _refuse(f"ECC x and y parameters are too long for {curve}.")
    x, y = (part.lstrip(b"\0") for part in point)
    return Key(spki(EccPublicKey(number, x, y)), is_rsa=False)


def _exponent(given: "dict[str, str]") -> int:
    text = given.get("exponent", str(_DEFAULT_EXPONENT))
    exponent = int(text, 0) if _NUMBER.fullmatch(text) and not re.match("0[0-9]", text) else 0
    if not 0 < exponent < 1 << 32:
        _refuse("Exponent is wrong and cannot be 0.")
    return exponent


def _octets(text: str) -> bytes:
    if len(text) % 2:
        _refuse(f"Got an odd number of hex digits ({len(text)}).\n    hex digits: {text}")
    if not _HEX_DIGITS.fullmatch(text):
        wrong = next(letter for letter in text if not _HEX_DIGITS.fullmatch(letter))
        _refuse(f"Illegal hex character '{wrong}'.")
    return bytes.fromhex(text)


def _key_in(path: str) -> Key:
    from swtpm_svc.state import named_files

    try:
        content = named_files.read_input(path, 1 << 20)
    except OSError as error:
        _refuse(f"Could not open the public key file {path}: {error.strerror}")
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    try:
        key = serialization.load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm):
        _refuse(f"Could not import EK from {path}: it has no public key in PEM.")
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return Key(der, is_rsa=isinstance(key, rsa.RSAPublicKey))


def _signer(given: "dict[str, str]") -> "Signer":
    from swtpm_svc.provision import swtpm_signer

    password = _password(given["signkey-pwd"]) if "signkey-pwd" in given else None
    if password is None and "signkey-password" in given:
        password = os.fsencode(given["signkey-password"])
    return swtpm_signer.load(given["signkey"], password, given["issuercert"])


def _password(text: str) -> bytes:
    """One of the forms of --signkey-pwd; all of a file is the password, the end of its line too."""
    kind, _, value = text.partition(":")
    if kind == "pass":
        return os.fsencode(value)
    if kind == "env":
        found = os.environb.get(os.fsencode(value))
        if found is None:
            _refuse(
                f"Could not get password from environment variable.\n    --signkey-pwd: there is no variable {value}"
            )
        return found
    from swtpm_svc.state import named_files

    try:
        if kind == "file":
            content = named_files.read_input(value, 4096)
        elif kind == "fd":
            content = os.read(int(value), 4096)
        else:
            return os.fsencode(text)
    except ValueError:
        _refuse(f"Could not parse the file descriptor number '{value}' of --signkey-pwd.")
    except OverflowError:
        _refuse(f"Could not read password from file descriptor {value}: it is no descriptor")
    except OSError as error:
        what = (
            f"open password file {value} for reading"
            if kind == "file"
            else f"read password from file descriptor {value}"
        )
        _refuse(f"Could not {what}: {error.strerror}")
    return content


def _pem(der: bytes) -> bytes:
    from base64 import b64encode

    text = b64encode(der)
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return b"\n".join([b"-----BEGIN CERTIFICATE-----", *lines, b"-----END CERTIFICATE-----", b""])


def write(path: Optional[str], content: bytes) -> None:
    if path is None:
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
        return
    from swtpm_svc.state import named_files

    try:
        named_files.replace(path, content, 0o600, is_exact=True, in_place=True)
    except OSError as error:
        _refuse(f"Could not open {path} for writing the certificate: {error.strerror}")
