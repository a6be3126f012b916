"""vtpmctl identity: which TPM this is, by its endorsement keys and certificates, and whether it is the one of before.

See cli/vtpmctl/owner_commands.py for the form of such a command. What is damaged is shown as damaged, and the rest is
shown too.
"""

import time
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional, Union

from swtpm_svc.cli.command import Report
from swtpm_svc.cli.passwords import Password
from swtpm_svc.errors import VtpmError
from swtpm_svc.provision import nv_certificates, subject_public_key
from swtpm_svc.provision.ek_templates import ENDORSEMENT_KEYS
from swtpm_svc.provision.refused import RefusedByTpm
from swtpm_svc.provision.tpm2_owner import Tpm2
from swtpm_svc.provision.tpm12_owner import Tpm12, secret_of
from swtpm_svc.service.identity import clones
from swtpm_svc.wire.protocol_error import ProtocolError
from swtpm_svc.wire.public_key import PublicKey
from swtpm_svc.wire.results import TpmResult
from swtpm_svc.wire.tpm2_numbers import Hc

if TYPE_CHECKING:
    from cryptography import x509

Tpm = Union[Tpm12, Tpm2]

#: Persistent objects in the owner's name: EKs, IDevID and IAK keys and others.
_PERSISTENT = (Hc.PERSISTENT_FIRST, Hc.PLATFORM_PERSISTENT - 1)


class _LocalCa(NamedTuple):
    """The certificate that the local CA signs with. `issuer` is None where there is none, and `reason` says why;
    `complaint` says why nobody accepts it now."""

    issuer: "Optional[x509.Certificate]"
    reason: str = ""
    complaint: Optional[VtpmError] = None


def show_identity(tpm: Tpm, record: "Optional[dict[str, Any]]", *, directory: str, owner: Password) -> Report:
    """`record`: what the daemon knows of the keys (identity_watch.py); None: it was not, or could not be asked."""
    password = owner.given()
    local_ca = _local_ca(directory)
    if isinstance(tpm, Tpm2):
        keys, certificates = _look_at_2_0(tpm, password or b"", local_ca)
    else:
        keys, certificates = _look_at_1_2(tpm, None if password is None else secret_of(password), local_ca)
    complaint = local_ca.complaint.message if local_ca.complaint else None
    served_as = _served_as(tpm, keys)
    values = {
        "version": tpm.version,
        "endorsement_keys": keys,
        "certificates": certificates,
        "local_ca_complaint": complaint,
        "served_as": served_as,
        "record": record,
    }
    lines = [f"TPM {tpm.version}"]
    for key in keys:
        place = f"  at {key['handle']}" if "handle" in key else ""
        lines.append(f"endorsement key {key['algorithm']}{place}")
        lines.append(f"  {'sha256':<12}{key['fingerprint']}" if "fingerprint" in key else f"  {key['error']}")
    lines += [] if keys else ["endorsement key: none is stored (vtpmctl createek makes it)"]
    for certificate in certificates:
        lines += _certificate_lines(certificate)
    lines += [] if certificates else ["certificates: none"]
    lines += [f"local CA: {complaint}"] if complaint else []
    if len(served_as) > 1:
        lines.append(f"served as: {', '.join(served_as)}, which have the SAME TPM: one state is a copy of the other")
    lines += _record_lines(record)
    return Report("\n".join(_printable(line) for line in lines), values)


def _served_as(tpm: Tpm, keys: "list[dict[str, Any]]") -> "list[str]":
    """The instances on this host that have this TPM, which is more than one if a state was copied."""
    words = {key["fingerprint"] for key in keys if "fingerprint" in key}
    if isinstance(tpm, Tpm2) and not words:
        try:
            mark = tpm.storage_mark()
        except (VtpmError, ProtocolError):  # a hierarchy is disabled
            mark = None
        words |= {f"{mark:016x}"} if mark is not None else set()
    return sorted({name for names in clones.who_has(words).values() for name in names})


def _local_ca(directory: str) -> _LocalCa:
    from swtpm_svc.provision import ca

    try:
        authority = ca.load(directory)
        return _LocalCa(authority.certificate, complaint=authority.complaint())
    except VtpmError as error:
        return _LocalCa(None, error.message)


def _look_at_2_0(tpm: Tpm2, owner: bytes, local_ca: _LocalCa) -> "tuple[list[dict[str, Any]], list[dict[str, Any]]]":
    places = {key.handle: name for name, key in ENDORSEMENT_KEYS.items()}
    keys: list[dict[str, Any]] = []
    #: Fingerprints of all keys that are stored, and where.
    stored: dict[str, str] = {}
    for handle in tpm.handles(*_PERSISTENT):
        found: dict[str, Any] = {"handle": f"{handle:#x}"}
        try:
            found["fingerprint"] = subject_public_key.fingerprint(tpm.read_key(handle))
            stored.setdefault(found["fingerprint"], found["handle"])
        except (VtpmError, ProtocolError) as error:  # no asymmetric key, one on another curve, or removed meanwhile
            found["error"] = str(error)
        if handle in places:
            keys.append({"algorithm": places[handle], **found})
    keys.sort(key=lambda key: list(ENDORSEMENT_KEYS).index(key["algorithm"]))
    fingerprints = {key["algorithm"]: key.get("fingerprint") for key in keys}

    def look(role: str, index: int, expected: Optional[str]) -> "Optional[dict[str, Any]]":
        return _look(role, index, lambda: nv_certificates.read(tpm, index, owner), expected, stored, local_ca)

    wanted = [(f"EK {name}", key.certificate_index, fingerprints.get(name)) for name, key in ENDORSEMENT_KEYS.items()]
    wanted.append(("platform", nv_certificates.PLATFORM_INDEX, None))
    wanted += [("IDevID", index, None) for index in tpm.handles(*nv_certificates.IDENTITY_INDICES)]
    looked = [look(role, index, expected) for role, index, expected in wanted]
    return keys, [certificate for certificate in looked if certificate is not None]


def _look_at_1_2(
    tpm: Tpm12, owner: Optional[bytes], local_ca: _LocalCa
) -> "tuple[list[dict[str, Any]], list[dict[str, Any]]]":
    key: dict[str, Any] = {"algorithm": "rsa2048"}
    try:
        key["fingerprint"] = subject_public_key.fingerprint(_read_pubek(tpm, owner))
    except RefusedByTpm as error:
        if error.reason not in (TpmResult.DISABLED_CMD, TpmResult.NO_ENDORSEMENT):
            raise
        key["error"] = (
            "only its owner may read it: --owner-password-file" if error.reason == TpmResult.DISABLED_CMD else ""
        )
    keys = [key] if "fingerprint" in key or key["error"] else []
    stored = {key["fingerprint"]: "the endorsement key"} if "fingerprint" in key else {}
    certificates: list[dict[str, Any]] = []
    for role, index in (("EK rsa2048", nv_certificates.EK_INDEX_1_2), ("platform", nv_certificates.PLATFORM_INDEX_1_2)):

        def read(index: int = index) -> Optional[bytes]:
            try:
                return nv_certificates.read_1_2(tpm, index)
            except RefusedByTpm as error:
                if error.reason != TpmResult.AUTH_CONFLICT or owner is None:
                    raise
                return nv_certificates.read_1_2(tpm, index, owner)

        certificate = _look(role, index, read, key.get("fingerprint"), stored, local_ca)
        if certificate is not None:
            certificates.append(certificate)
    return keys, certificates


def _read_pubek(tpm: Tpm12, owner: Optional[bytes]) -> PublicKey:
    try:
        return tpm.read_pubek()
    except RefusedByTpm as error:
        if error.reason != TpmResult.DISABLED_CMD or owner is None:
            raise
        return tpm.owner_read_pubek(owner)


def _look(
    role: str,
    index: int,
    read: Callable[[], Optional[bytes]],
    expected: Optional[str],
    stored: "dict[str, str]",
    local_ca: _LocalCa,
) -> "Optional[dict[str, Any]]":
    """One certificate's values; None: there is none. What goes wrong is a value too."""
    from swtpm_svc.provision import certificate_facts

    values: dict[str, Any] = {"role": role, "index": f"{index:#x}"}
    try:
        der = read()
        if der is None:
            return None
        certificate = certificate_facts.load(der)
    except (VtpmError, ValueError) as error:  # a ProtocolError is one too
        hint = (
            "; give the owner's password"
            if isinstance(error, RefusedByTpm) and error.reason == TpmResult.AUTH_CONFLICT
            else ""
        )
        return {**values, "error": f"{error}{hint}"}
    if role == "IDevID" and certificate_facts.is_for_attestation(certificate):
        values["role"] = "IAK"
    values.update(certificate_facts.describe(certificate))
    fingerprint = certificate_facts.fingerprint_of_key(certificate)
    values["key"] = {"fingerprint": fingerprint, "stored_at": stored.get(fingerprint or "")}
    if role.startswith("EK "):
        values["key"]["is_ek"] = None if None in (expected, fingerprint) else fingerprint == expected
    values["local_ca"] = (
        None if local_ca.issuer is None else certificate_facts.is_signed_by(certificate, local_ca.issuer)
    )
    if local_ca.issuer is None:
        values["local_ca_reason"] = local_ca.reason
    return values


# --- text ------------------------------------------------------------------------------------------------------------


def _certificate_lines(values: "dict[str, Any]") -> "list[str]":
    from swtpm_svc.provision import validity

    lines = [f"certificate {values['role']}  at NV index {values['index']}"]
    if "error" in values:
        return [*lines, f"  cannot be used: {values['error']}"]

    def text(name: str) -> str:
        value = values[name]
        return f"cannot be read: {value['error']}" if isinstance(value, dict) else str(value)

    about = (
        text("tpm")
        if "error" in values["tpm"]
        else ", ".join(f"{name} {value}" for name, value in values["tpm"].items())
    )
    rows = {
        "subject": text("subject"),
        "tells of": about,
        "issuer": text("issuer"),
        "serial": text("serial"),
        "valid": f"{text('not_before')} to {text('not_after')}{validity.WORDS.get(text('validity'), '')}",
        "sha256": text("sha256"),
        "key": _key_words(values["key"]),
        "local CA": _ca_words(values),
    }
    return [*lines, *(f"  {name:<12}{value}" for name, value in rows.items() if value)]


def _key_words(key: "dict[str, Any]") -> str:
    if key["fingerprint"] is None:
        return "cannot be read"
    if key.get("is_ek"):
        return (
            f"the endorsement key ({key['stored_at']})" if key["stored_at"].startswith("0x") else "the endorsement key"
        )
    if key.get("is_ek") is False:
        return f"NOT the endorsement key: sha256:{key['fingerprint']}"
    where = key["stored_at"]
    return f"sha256:{key['fingerprint']}, " + (
        f"{where}" if where else "which is not stored, or not to be read, in the TPM"
    )


def _ca_words(values: "dict[str, Any]") -> str:
    if values["local_ca"] is None:
        return f"not known: {values['local_ca_reason']}"
    return "has signed it" if values["local_ca"] else "has NOT signed it"


def _record_lines(record: "Optional[dict[str, Any]]") -> "list[str]":
    if record is None:
        return ["changed: not known; there is no service to ask, or it has not seen the TPM started yet"]
    change = record.get("change")
    if not change:
        return ["changed: nothing that it is known by"]
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(change["time"]))
    lines = [f"changed: it is another TPM than before, or was cleared, as was seen at {when}"]
    for name, was in change["was"].items():
        now = change["is"].get(name)
        lines += [f"  {name} was  {was}", f"  {name} is   {now or 'not there any more'}"]
    return lines


def _printable(line: str) -> str:
    """Certificates are the work of strangers, and a terminal obeys what it is sent."""
    return "".join(letter if letter.isprintable() else "?" for letter in line)
