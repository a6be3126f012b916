"""vtpmctl ek: the endorsement key, its certificate or its fingerprint, for other programs.

See owner_commands.py for its form.
"""

from typing import Any, Optional, Union

from swtpm_svc.cli import operator_files
from swtpm_svc.cli.command import Report
from swtpm_svc.cli.passwords import Password
from swtpm_svc.cli.vtpmctl import owner_commands
from swtpm_svc.errors import NAME, Code, VtpmError
from swtpm_svc.provision import nv_certificates, subject_public_key
from swtpm_svc.provision.ek_templates import ENDORSEMENT_KEYS
from swtpm_svc.provision.ownership import find_endorsement_key
from swtpm_svc.provision.refused import RefusedByTpm
from swtpm_svc.provision.tpm2_owner import Tpm2
from swtpm_svc.provision.tpm12_owner import Tpm12, secret_of
from swtpm_svc.wire.public_key import PublicKey
from swtpm_svc.wire.results import TpmResult

Tpm = Union[Tpm12, Tpm2]


def show_ek(
    tpm: Tpm,
    *,
    algorithm: str,
    pem: bool,
    der: bool,
    cert: bool,
    fingerprint: bool,
    output: Optional[str],
    owner: Password,
) -> Report:
    if (pem and der) or (fingerprint and (pem or der or cert)):
        raise VtpmError(
            Code.USAGE,
            "--pem, --der and --fingerprint exclude each other, and --cert goes with the first two only",
            remedy="give one of them; --cert --der is the certificate as DER",
        )
    if isinstance(tpm, Tpm12):
        owner_commands.refuse_algorithm(algorithm)
    values: dict[str, Any] = {"algorithm": algorithm}
    if cert:
        certificate = _require_certificate(tpm, algorithm, owner)
        values["certificate"] = _certificate_pem(certificate)
        content = certificate if der else values["certificate"].encode()
    else:
        key = _require_key(tpm, algorithm, owner)
        values["fingerprint"] = subject_public_key.fingerprint(key)
        values["pem"] = subject_public_key.to_pem(key).decode()
        line = (
            f"sha256:{values['fingerprint']}  endorsement key {ENDORSEMENT_KEYS[algorithm].label}, its "
            "SubjectPublicKeyInfo\n"
        )
        content = line.encode() if fingerprint else subject_public_key.to_der(key) if der else values["pem"].encode()
    if output is not None:
        operator_files.write_whole(output, content, 0o644)
        return Report(f"{output} successfully written", {**values, "file": output})
    if der:
        return Report("", values, content)
    return Report(content.decode().rstrip("\n"), values)


def _require_key(tpm: Tpm, algorithm: str, owner: Password) -> PublicKey:
    if isinstance(tpm, Tpm12):
        return owner_commands.pubek(tpm, owner)
    key = find_endorsement_key(tpm, ENDORSEMENT_KEYS[algorithm])
    if key is None:
        raise owner_commands.no_endorsement_key(algorithm)
    return key


def _require_certificate(tpm: Tpm, algorithm: str, owner: Password) -> bytes:
    if isinstance(tpm, Tpm2):
        index = ENDORSEMENT_KEYS[algorithm].certificate_index
        found = nv_certificates.read(tpm, index, owner.given() or b"")
    else:
        index = nv_certificates.EK_INDEX_1_2
        try:
            found = nv_certificates.read_1_2(tpm, index)
        except RefusedByTpm as error:
            if error.reason != TpmResult.AUTH_CONFLICT:
                raise
            found = nv_certificates.read_1_2(tpm, index, secret_of(owner.required()))
    if found is None:
        raise VtpmError(
            Code.TPM_REFUSED,
            f"there is no certificate of an endorsement key {algorithm} at NV index {index:#x}",
            remedy=f"see those that there are: vtpmctl identity {NAME}; only who makes a TPM gives it one",
        )
    return found


def _certificate_pem(der: bytes) -> str:
    from swtpm_svc.provision import ca, certificate_facts

    try:
        return ca.pem(certificate_facts.load(der)).decode()
    except ValueError as error:
        raise VtpmError(
            Code.TPM_REFUSED,
            f"what the TPM has as certificate is {error}",
            remedy=f"see what it is: vtpmctl identity {NAME}",
        ) from error
