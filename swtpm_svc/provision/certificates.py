"""The certificates of one TPM: of its endorsement key, its platform, its identity and attestation keys. Values in, DER
out.

Written down in: TCG EK Credential Profile for TPM Family 2.0, TCG Credential Profiles for TPM Family 1.2, TCG Platform
Certificate Profile, TCG TPM 2.0 Keys for Device Identity and Attestation, RFC 5280, RFC 4108 (hardware module name),
RFC 4043 (permanent identifier).

The key of a TPM 1.2 is named rsaEncryption, not id-RSAES-OAEP: its profile allows both, and OpenSSL reads only the
first.
"""

import hashlib
from typing import NamedTuple, Union

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from cryptography.x509.oid import ObjectIdentifier as Oid

from swtpm_svc.provision.ca import Authority, usage
from swtpm_svc.provision.der import OCTET_STRING, SEQUENCE, SET, UTF8_STRING, element, integer

TPM_MANUFACTURER, TPM_MODEL, TPM_VERSION = Oid("2.23.133.2.1"), Oid("2.23.133.2.2"), Oid("2.23.133.2.3")
#: tcg-paa-platformManufacturerStr, -platformModel, -platformVersion, -platformSerial.
PLATFORM = (Oid("2.23.133.5.1.1"), Oid("2.23.133.5.1.4"), Oid("2.23.133.5.1.5"), Oid("2.23.133.5.1.6"))
#: Of the older profile that goes with TPM 1.2; it has no serial number.
PLATFORM_1_2 = (Oid("2.23.133.2.4"), Oid("2.23.133.2.5"), Oid("2.23.133.2.6"))
EK_CERTIFICATE, PLATFORM_CERTIFICATE, AIK_CERTIFICATE = Oid("2.23.133.8.1"), Oid("2.23.133.8.2"), Oid("2.23.133.8.3")
#: tcg-cap-verifiedTPMResidency, -verifiedTPMFixed, -verifiedTPMRestricted: what the CA has seen of the key.
VERIFIED_RESIDENCY, VERIFIED_FIXED, VERIFIED_RESTRICTED = (Oid(f"2.23.133.11.1.{number}") for number in (1, 2, 3))
HARDWARE_MODULE_NAME, PERMANENT_IDENTIFIER = Oid("1.3.6.1.5.5.7.8.4"), Oid("1.3.6.1.5.5.7.8.3")
SUBJECT_DIRECTORY_ATTRIBUTES = Oid("2.5.29.9")
#: 80 bits.
_SERIAL_DIGITS = 20

# the object identifiers of the few structures that `cryptography` has no class for
_TPM_SPECIFICATION = bytes.fromhex("06056781050210")  # tcg-at-tpmSpecification, 2.23.133.2.16
_TPM_2_0 = bytes.fromhex("06056781050102")  # tcg-sv-tpm20, 2.23.133.1.2
_EK_SHA256 = bytes.fromhex("06056781050c01")  # tcg-on-ekPermIdSha256, 2.23.133.12.1

TpmKey = Union[rsa.RSAPublicKey, ec.EllipticCurvePublicKey]


class TpmFacts(NamedTuple):
    """What a TPM says of itself: "id:00001014", "swtpm", "id:20191023"; specification family "2.0" or "1.2", level,
    revision."""

    manufacturer: str
    model: str
    version: str
    family: str
    level: int
    revision: int


class PlatformFacts(NamedTuple):
    """The machine that the TPM is part of."""

    manufacturer: str
    model: str
    version: str
    serial: str = ""


def ek_certificate(authority: Authority, key: TpmKey, tpm: TpmFacts) -> bytes:
    """The certificate of an endorsement key. Raises what Authority.issue raises, as do the others."""
    builder = _builder(key, x509.Name([]), [x509.DirectoryName(_tpm_name(tpm))])
    builder = builder.add_extension(_encryption_usage(key), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([EK_CERTIFICATE]), critical=False)
    return _issue(authority, builder.add_extension(_specification(tpm), critical=False))


def platform_certificate(authority: Authority, key: TpmKey, tpm: TpmFacts, platform: PlatformFacts) -> bytes:
    """The certificate that says which machine the TPM with this endorsement key is part of."""
    if tpm.family == "1.2":
        name = _name([*_tpm_attributes(tpm), *zip(PLATFORM_1_2, platform)])
    else:
        name = _name(list(zip(PLATFORM, platform)))
    builder = _builder(key, x509.Name([]), [x509.DirectoryName(name)])
    builder = builder.add_extension(_encryption_usage(key), critical=True)
    return _issue(authority, builder.add_extension(x509.ExtendedKeyUsage([PLATFORM_CERTIFICATE]), critical=False))


def idevid_certificate(authority: Authority, key: TpmKey, tpm: TpmFacts, ek: bytes, serial: str = "") -> bytes:
    """The certificate of an initial device identity (IDevID).

    `ek`: the TPM's EK certificate, DER; `serial`: the device's, which has to be (IEEE 802.1AR). Without one the EK
    stands for it.
    """
    return _issue(authority, _identity(key, tpm, ek, serial, [VERIFIED_RESIDENCY, VERIFIED_FIXED]))


def iak_certificate(authority: Authority, key: TpmKey, tpm: TpmFacts, ek: bytes, serial: str = "") -> bytes:
    """The certificate of an initial attestation key (IAK), which signs only what the TPM itself has made."""
    builder = _identity(key, tpm, ek, serial, [VERIFIED_RESIDENCY, VERIFIED_FIXED, VERIFIED_RESTRICTED])
    return _issue(authority, builder.add_extension(x509.ExtendedKeyUsage([AIK_CERTIFICATE]), critical=False))


def _identity(key: TpmKey, tpm: TpmFacts, ek: bytes, serial: str, verified: "list[Oid]") -> x509.CertificateBuilder:
    subject = x509.Name([x509.NameAttribute(NameOID.SERIAL_NUMBER, serial or _serial_of_key(ek))])
    names = [_hardware_module_name(tpm, ek), _permanent_identifier(ek), x509.DirectoryName(_tpm_name(tpm))]
    builder = _builder(key, subject, names)
    builder = builder.add_extension(usage("digital_signature"), critical=True)
    policies = [x509.PolicyInformation(policy, None) for policy in verified]
    return builder.add_extension(x509.CertificatePolicies(policies), critical=False)


def _builder(key: TpmKey, subject: x509.Name, names: "list[x509.GeneralName]") -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key)
        # without a subject the alternative name is all there is, and critical (RFC 5280, 4.1.2.6)
        .add_extension(x509.SubjectAlternativeName(names), critical=not list(subject))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    )


def _issue(authority: Authority, builder: x509.CertificateBuilder) -> bytes:
    return authority.issue(builder).public_bytes(Encoding.DER)


def _encryption_usage(key: TpmKey) -> x509.KeyUsage:
    return usage("key_encipherment" if isinstance(key, rsa.RSAPublicKey) else "key_agreement")


def _tpm_attributes(tpm: TpmFacts) -> "list[tuple[Oid, str]]":
    return [(TPM_MANUFACTURER, tpm.manufacturer), (TPM_MODEL, tpm.model), (TPM_VERSION, tpm.version)]


def _tpm_name(tpm: TpmFacts) -> x509.Name:
    return _name(_tpm_attributes(tpm))


def _name(attributes: "list[tuple[Oid, str]]") -> x509.Name:
    return x509.Name([x509.NameAttribute(oid, text) for oid, text in attributes if text])


def _specification(tpm: TpmFacts) -> x509.UnrecognizedExtension:
    """SubjectDirectoryAttributes (RFC 5280, 4.2.1.8) with one attribute: family, level and revision (EK profile,
    3.1.3)."""
    family = element(UTF8_STRING, tpm.family.encode())
    value = element(SEQUENCE, family, integer(tpm.level), integer(tpm.revision))
    attribute = element(SEQUENCE, _TPM_SPECIFICATION, element(SET, value))
    return x509.UnrecognizedExtension(SUBJECT_DIRECTORY_ATTRIBUTES, element(SEQUENCE, attribute))


def _hardware_module_name(tpm: TpmFacts, ek: bytes) -> x509.OtherName:
    """Which TPM it is: its manufacturer's code, who certified its EK, and the serial number of that certificate."""
    certificate = x509.load_der_x509_certificate(ek)
    issuer = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier or b""
    manufacturer = tpm.manufacturer[3:] if tpm.manufacturer.startswith("id:") else tpm.manufacturer
    serial = f"{manufacturer}:{issuer.hex()}:{certificate.serial_number:x}"
    return x509.OtherName(HARDWARE_MODULE_NAME, element(SEQUENCE, _TPM_2_0, element(OCTET_STRING, serial.encode())))


def _serial_of_key(ek: bytes) -> str:
    """The beginning of the EK's fingerprint (subject_public_key): no two TPMs have the same."""
    key = x509.load_der_x509_certificate(ek).public_key()
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()[
        :_SERIAL_DIGITS
    ]


def _permanent_identifier(ek: bytes) -> x509.OtherName:
    digest = element(UTF8_STRING, hashlib.sha256(ek).hexdigest().encode())
    return x509.OtherName(PERMANENT_IDENTIFIER, element(SEQUENCE, digest, _EK_SHA256))
