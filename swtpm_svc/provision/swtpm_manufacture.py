"""What swtpm_setup does with a new TPM, step by step, with the words that it says at each.

Another way than provision/manufacture.py, which is that of our own instances: other keys, certificates by whatever
program the configuration names, in the order that swtpm_setup has.
"""

from typing import Callable, NamedTuple, Optional

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.provision import nv_certificates
from swtpm_svc.provision.refused import RefusedByTpm
from swtpm_svc.provision.swtpm_templates import Key
from swtpm_svc.provision.tpm2_owner import Tpm2
from swtpm_svc.provision.tpm12_owner import Tpm12
from swtpm_svc.wire.algorithms import HASHES
from swtpm_svc.wire.public_key import PublicKey
from swtpm_svc.wire.results import TpmRc
from swtpm_svc.wire.tpm2_numbers import Rh
from swtpm_svc.wire.tpm2_public import encode_public

Tell = Callable[[str], None]
#: Gives the certificate, DER, of a kind (ek, platform, iak, idevid) for a key; the name is for files.
Certify = Callable[[str, PublicKey, str], bytes]


class Plan20(NamedTuple):
    """What a TPM 2.0 shall have. `banks`: the PCR banks that stay; None: all that there are."""

    storage_key: Optional[Key] = None
    endorsement_keys: "tuple[Key, ...]" = ()
    attestation_key: Optional[Key] = None
    identity_key: Optional[Key] = None
    ek_certificate: bool = False
    platform_certificate: bool = False
    lock: bool = False
    banks: "Optional[tuple[str, ...]]" = None


class Plan12(NamedTuple):
    """What a TPM 1.2 shall have. `owner` and `srk`: secrets, for who takes ownership."""

    endorsement_key: bool = False
    owner: Optional[bytes] = None
    srk: bytes = b""
    ek_certificate: bool = False
    platform_certificate: bool = False
    lock: bool = False


def manufacture_2_0(tpm: Tpm2, plan: Plan20, certify: Certify, tell: Tell) -> None:
    """
    Raises:
        VtpmError TPM_REFUSED: no PCR bank is left, or the TPM has not what is wanted. RefusedByTpm, ProtocolError, and
            what `certify` raises.
    """
    if plan.storage_key is not None:
        _create(tpm, plan.storage_key, Rh.OWNER, "SPK")
        tell(f"Successfully created storage primary key with handle {plan.storage_key.handle:#x}.")
    wants_platform = plan.platform_certificate
    for key in plan.endorsement_keys:
        public = _create(tpm, key, Rh.ENDORSEMENT, "EK")
        tell(f"Successfully created {key.label} EK with handle {key.handle:#x}.")
        if key.template_index:
            nv_certificates.write(tpm, key.template_index, encode_public(key.template), lock=plan.lock)
            tell(f"Successfully created NVRAM area {key.template_index:#x} for {key.label} EK template.")
        made = []
        if plan.ek_certificate:
            made.append((key.certificate_index, certify("ek", public, key.name), f"{key.label} EK"))
        if wants_platform:
            made.append((nv_certificates.PLATFORM_INDEX, certify("platform", public, ""), "platform"))
            wants_platform = False
        for index, certificate, name in made:
            _write(tpm, index, certificate, name, plan, tell)
    for wanted, kind, name in ((plan.attestation_key, "iak", "IAK"), (plan.identity_key, "idevid", "IDevID")):
        if wanted is not None:
            public = _create(tpm, wanted, Rh.ENDORSEMENT, name)
            tell(f"Successfully created {wanted.label} {name} primary key with handle {wanted.handle:#x}.")
            _write(tpm, wanted.certificate_index, certify(kind, public, wanted.name), name, plan, tell)
    activate(tpm, plan.banks, tell)


def activate(tpm: Tpm2, banks: "Optional[tuple[str, ...]]", tell: Tell) -> None:
    """Leave these PCR banks, of the names that the TPM has; None: all as they are. From the next start on.

    Raises:
        VtpmError TPM_REFUSED: it has none of them. RefusedByTpm, ProtocolError.
    """
    if banks is None:
        return
    present = tpm.pcr_banks()
    known = [name for name, algorithm in HASHES.items() if algorithm in present]
    chosen = list(dict.fromkeys(name for name in banks if name in known))
    if not chosen:
        cause = "No PCR banks could be allocated. None of the selected algorithms are supported."
        raise VtpmError(Code.TPM_REFUSED, cause, remedy=f"give some of {','.join(known)}")
    if not tpm.pcr_allocate(
        {present_one: present_one in {HASHES[name] for name in chosen} for present_one in present}
    ).is_done:
        raise VtpmError(
            Code.TPM_REFUSED, f"The TPM has no room for the PCR banks {','.join(chosen)}.", remedy="give fewer"
        )
    tell(f"Successfully activated PCR banks {','.join(chosen)} among {','.join(known)}.")


def _create(tpm: Tpm2, key: Key, hierarchy: int, what: str) -> PublicKey:
    try:
        handle, public = tpm.create_primary(hierarchy, key.template)
    except RefusedByTpm as error:
        if error.reason not in (TpmRc.VALUE, TpmRc.KEY_SIZE, TpmRc.CURVE):
            raise
        hint = " RSA-4096 needs libtpms 0.11 and the profile 'default-v2'." if key.name == "rsa4096" else ""
        cause = (
            f"TPM2_CreatePrimary({what}, {key.name}) failed: {error.return_code:#x}; this TPM has no {key.name}.{hint}"
        )
        raise VtpmError(Code.TPM_REFUSED, cause, remedy="name another algorithm") from error
    try:
        tpm.persist(handle, key.handle)
    finally:
        tpm.flush(handle)
    return public.key


def _write(tpm: Tpm2, index: int, certificate: bytes, name: str, plan: Plan20, tell: Tell) -> None:
    nv_certificates.write(tpm, index, certificate, lock=plan.lock)
    tell(f"Successfully created NVRAM area {index:#x} for {name} certificate.")


def manufacture_1_2(tpm: Tpm12, plan: Plan12, certify: Certify, tell: Tell) -> None:
    """
    Raises:
        RefusedByTpm, ProtocolError, and what `certify` raises. Its certificates are without the header that a TPM 1.2
            has before them.
    """
    tpm.allow_presence_by_command()
    if not plan.endorsement_key:
        _lock_1_2(tpm, plan, tell)
        return
    key = tpm.create_endorsement_key()
    tell("Successfully created EK.")
    if plan.owner is not None:
        tpm.take_ownership(plan.owner, plan.srk)
        tell("Successfully took ownership of the TPM.")
    made = []
    if plan.ek_certificate:
        made.append((nv_certificates.EK_INDEX_1_2, certify("ek", key, "rsa2048"), "EK"))
        if plan.platform_certificate:
            made.append((nv_certificates.PLATFORM_INDEX_1_2, certify("platform", key, ""), "Platform"))
    for index, certificate, name in made:
        nv_certificates.write_1_2(tpm, index, certificate)
        tell(f"Successfully created NVRAM area for {name} certificate.")
    _lock_1_2(tpm, plan, tell)


def _lock_1_2(tpm: Tpm12, plan: Plan12, tell: Tell) -> None:
    if plan.lock:
        tpm.nv_lock()
        tell("Successfully locked NVRAM access.")


def serial_number(ek_certificate: bytes) -> str:
    """The TPM's serial number, as IAK and IDevID certificates have it: who certified the EK, and with which number."""
    from cryptography import x509

    certificate = x509.load_der_x509_certificate(ek_certificate)
    issuer = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier or b""
    serial = f"{certificate.serial_number:x}"
    return f"IBM:{issuer.hex()}:{'0' * (len(serial) % 2)}{serial}"
