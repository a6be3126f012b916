"""Certificates of TPMs in the form that swtpm_cert gives them: values in, DER out.

Who has such a certificate expects the very fields: TCG EK Credential Profile for TPM Family 2.0, TCG Credential
Profiles for TPM Family 1.2, RFC 5280. What differs from provision/certificates.py, which makes those of our own CA: a
subject, the key usage of keys that sign, serial number and validity by order, RSA with SHA-1 for a TPM 1.2, and the
hardware module name as an attribute of a directory name. `cryptography` is not needed here, and it would refuse SHA-1.
"""

import re
from datetime import datetime, timedelta, timezone
from typing import NamedTuple

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.provision.der import (
    BIT_STRING,
    BOOLEAN,
    GENERALIZED_TIME,
    IA5_STRING,
    OCTET_STRING,
    PRINTABLE_STRING,
    SEQUENCE,
    SET,
    UTC_TIME,
    UTF8_STRING,
    element,
    integer,
    object_identifier,
)

KINDS = ("ek", "platform", "iak", "idevid")
#: RFC 5280, 4.1.2.2: "up to 20 octets", the first bit of which is the sign's.
SERIAL_MAX = (1 << 160) - 1
#: 99991231235959Z (RFC 5280, 4.1.2.5): for as many days as this.
FOR_EVER = -1

#: TCG_PCCLIENT_STORED_CERT: tag and type 0, the size of what follows, TCG_FULL_CERT's tag.
_STORED, _FULL = bytes.fromhex("100100"), bytes.fromhex("1002")

#: The names that GnuTLS has for attributes (swtpm_cert's --subject), and where a value has a type of its own.
_ATTRIBUTES = {
    "CN": ("2.5.4.3", 0),
    "SN": ("2.5.4.4", 0),
    "serialNumber": ("2.5.4.5", 0),
    "C": ("2.5.4.6", 0),
    "L": ("2.5.4.7", 0),
    "ST": ("2.5.4.8", 0),
    "STREET": ("2.5.4.9", 0),
    "O": ("2.5.4.10", 0),
    "OU": ("2.5.4.11", 0),
    "T": ("2.5.4.12", 0),
    "title": ("2.5.4.12", 0),
    "name": ("2.5.4.41", 0),
    "givenName": ("2.5.4.42", 0),
    "initials": ("2.5.4.43", 0),
    "UID": ("0.9.2342.19200300.100.1.1", 0),
    "DC": ("0.9.2342.19200300.100.1.25", IA5_STRING),
    "EMAIL": ("1.2.840.113549.1.9.1", IA5_STRING),
    "emailAddress": ("1.2.840.113549.1.9.1", IA5_STRING),
}
_PRINTABLE = re.compile(r"[A-Za-z0-9 '()+,./:=?-]*")
_ENTRY = re.compile(r"\s*([A-Za-z][A-Za-z0-9]*|[0-9]+(?:\.[0-9]+)+)\s*=\s*((?:[^,+\\]|\\.)*?)\s*(?:,|$)", re.DOTALL)

_TPM_2_0 = object_identifier("2.23.133.1.2")
_HARDWARE_MODULE_NAME = object_identifier("1.3.6.1.5.5.7.8.4")
_SUBJECT_ALTERNATIVE_NAME, _BASIC_CONSTRAINTS, _KEY_USAGE = "2.5.29.17", "2.5.29.19", "2.5.29.15"
_EXTENDED_KEY_USAGE, _AUTHORITY_KEY_IDENTIFIER, _DIRECTORY_ATTRIBUTES = "2.5.29.37", "2.5.29.35", "2.5.29.9"
_PURPOSE = {"ek": "2.23.133.8.1", "platform": "2.23.133.8.2"}
#: Bits of KeyUsage (RFC 5280, 4.2.1.3), the first one on the left.
_DIGITAL_SIGNATURE, _KEY_ENCIPHERMENT, _KEY_AGREEMENT = 0x80, 0x20, 0x08


class Tpm(NamedTuple):
    """What a TPM says of itself, as in certificates.TpmFacts; empty, and 0: not told."""

    manufacturer: str = ""
    model: str = ""
    version: str = ""
    family: str = ""
    level: int = 0
    revision: int = 0
    serial: str = ""


class Platform(NamedTuple):
    manufacturer: str = ""
    model: str = ""
    version: str = ""


class Wanted(NamedTuple):
    """One certificate to make. `spki`: the SubjectPublicKeyInfo of the key, DER; `subject`: what `subject` has made."""

    kind: str
    is_tpm2: bool
    spki: bytes
    is_rsa: bool
    tpm: Tpm
    platform: Platform
    subject: bytes
    serial: int
    days: int
    allow_signing: bool = False
    decryption: bool = False


class Signed(NamedTuple):
    """The parts of a certificate that its issuer decides: his name and key identifier, and how he signs, all DER but
    the identifier."""

    issuer: bytes
    key_identifier: bytes
    algorithm: bytes


def subject(text: str) -> bytes:
    """A distinguished name, DER, of "CN=vm,O=us": the last one comes first, as RFC 4514 reads it and swtpm 0.10 does.

    Raises:
        VtpmError USAGE: it is none.
    """
    found, position = [], 0
    while position < len(text):
        entry = _ENTRY.match(text, position)
        if entry is None or not entry[2]:
            raise _bad_subject(text, f"it cannot be read from '{text[position:]}' on")
        found.append(_attribute(text, entry[1], _unescaped(entry[2])))
        position = entry.end()
        if position == len(text) and text.endswith(",") and entry[0].endswith(","):
            raise _bad_subject(text, "it ends with a comma")
    return element(SEQUENCE, *(element(SET, one) for one in reversed(found)))


def to_be_signed(wanted: Wanted, signed: Signed, now: datetime) -> bytes:
    """TBSCertificate (RFC 5280, 4.1.2)."""
    if wanted.days == FOR_EVER:
        end = datetime(9999, 12, 31, 23, 59, 59, tzinfo=timezone.utc)
    else:
        try:
            end = now + timedelta(days=wanted.days)
        except OverflowError:
            raise VtpmError(
                Code.USAGE,
                f"Days value of '{wanted.days}' is outside valid range.",
                remedy="give fewer; -1 is for ever",
            ) from None
    return element(
        SEQUENCE,
        element(0xA0, integer(2)),  # version 3
        integer(wanted.serial),
        signed.algorithm,
        signed.issuer,
        element(SEQUENCE, _time(now), _time(end)),
        # a TPM 1.2's has none (TCG Credential Profiles, 3.2)
        wanted.subject if wanted.is_tpm2 else element(SEQUENCE),
        wanted.spki,
        element(0xA3, element(SEQUENCE, *_extensions(wanted, signed))),
    )


def certificate(content: bytes, algorithm: bytes, signature: bytes) -> bytes:
    return element(SEQUENCE, content, algorithm, element(BIT_STRING, b"\0", signature))


def with_header(der: bytes) -> bytes:
    """As a TPM 1.2 has it in its NV storage."""
    return _STORED + (len(der) + len(_FULL)).to_bytes(2, "big") + _FULL + der


def _extensions(wanted: Wanted, signed: Signed) -> "list[bytes]":
    extensions = [
        _extension(_SUBJECT_ALTERNATIVE_NAME, _names(wanted), critical=wanted.kind in ("ek", "platform")),
        _extension(_BASIC_CONSTRAINTS, element(SEQUENCE), critical=True),
    ]
    if wanted.kind == "ek":
        extensions.append(_extension(_DIRECTORY_ATTRIBUTES, _specification(wanted.tpm)))
    identifier = element(SEQUENCE, element(0x80, signed.key_identifier))
    extensions += [
        _extension(_AUTHORITY_KEY_IDENTIFIER, identifier),
        _extension(_KEY_USAGE, _usage(wanted), critical=True),
    ]
    if wanted.kind in _PURPOSE:
        purpose = _extension(_EXTENDED_KEY_USAGE, element(SEQUENCE, object_identifier(_PURPOSE[wanted.kind])))
        # the order means nothing; it is swtpm_cert's, so that the bytes can be compared
        extensions.insert(0 if wanted.kind == "ek" else len(extensions), purpose)
    return extensions


def _extension(dotted: str, value: bytes, *, critical: bool = False) -> bytes:
    mark = element(BOOLEAN, b"\xff") if critical else b""
    return element(SEQUENCE, object_identifier(dotted), mark, element(OCTET_STRING, value))


def _usage(wanted: Wanted) -> bytes:
    if wanted.kind in ("iak", "idevid"):
        bits = _DIGITAL_SIGNATURE
    else:
        # of a TPM 1.2, which has no other keys, swtpm_cert does not ask
        encryption = _KEY_ENCIPHERMENT if wanted.is_rsa or not wanted.is_tpm2 else _KEY_AGREEMENT
        bits = _DIGITAL_SIGNATURE if wanted.is_tpm2 and wanted.allow_signing else 0
        if not bits or wanted.decryption:
            bits |= encryption
    unused = (bits & -bits).bit_length() - 1
    return element(BIT_STRING, bytes([unused, bits]))


def _names(wanted: Wanted) -> bytes:
    tpm, platform = wanted.tpm, wanted.platform
    of_tpm = _numbered("2.23.133.2.", (1, 2, 3), (tpm.manufacturer, tpm.model, tpm.version))
    if wanted.kind == "ek":
        groups = of_tpm
    elif wanted.kind in ("iak", "idevid"):
        value = element(SEQUENCE, _TPM_2_0, element(OCTET_STRING, _octets(tpm.serial)))
        groups = [element(SET, element(SEQUENCE, _HARDWARE_MODULE_NAME, value))]
    elif wanted.is_tpm2:
        groups = _numbered("2.23.133.5.1.", (1, 4, 5), platform)
    else:
        of_platform = _numbered("2.23.133.2.", (4, 5, 6), platform)
        # two names in one, which is no Name of X.501: but so swtpm_cert has it
        groups = [element(SEQUENCE, *of_tpm), element(SEQUENCE, *of_platform)]
    return element(SEQUENCE, element(0xA4, element(SEQUENCE, *groups)))


def _numbered(prefix: str, numbers: "tuple[int, ...]", texts: "tuple[str, ...]") -> "list[bytes]":
    return [
        element(SET, element(SEQUENCE, object_identifier(f"{prefix}{number}"), element(UTF8_STRING, _octets(text))))
        for number, text in zip(numbers, texts)
    ]


def _specification(tpm: Tpm) -> bytes:
    value = element(SEQUENCE, element(UTF8_STRING, _octets(tpm.family)), integer(tpm.level), integer(tpm.revision))
    return element(SEQUENCE, element(SEQUENCE, object_identifier("2.23.133.2.16"), element(SET, value)))


def _time(moment: datetime) -> bytes:
    if moment.year < 2050:  # RFC 5280, 4.1.2.5
        return element(UTC_TIME, moment.strftime("%y%m%d%H%M%SZ").encode())
    return element(GENERALIZED_TIME, moment.strftime("%Y%m%d%H%M%SZ").encode())


def _attribute(text: str, name: str, value: str) -> bytes:
    dotted, tag = _ATTRIBUTES.get(name, (name if "." in name else "", 0))
    if not dotted:
        raise _bad_subject(text, f"no attribute is called '{name}'")
    if tag == IA5_STRING and not value.isascii():
        raise _bad_subject(text, f"{name} cannot be '{value}': it takes ASCII characters only")
    try:
        identifier = object_identifier(dotted)
    except ValueError as error:
        raise _bad_subject(text, str(error)) from None
    tag = tag or (PRINTABLE_STRING if _PRINTABLE.fullmatch(value) else UTF8_STRING)
    return element(SEQUENCE, identifier, element(tag, _octets(value)))


def _octets(text: str) -> bytes:
    """As they were on the command line, whatever they mean."""
    return text.encode(errors="surrogateescape")


def _unescaped(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)


def _bad_subject(text: str, what: str) -> VtpmError:
    return VtpmError(
        Code.USAGE, f"Could not set DN on CRT: --subject {text}: {what}", remedy="give it as CN=NAME,O=ORGANIZATION"
    )
