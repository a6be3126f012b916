"""What a manufacturer does with a new TPM: banks, keys, certificates. The TPM must have been started (TPM_Startup,
CLEAR).

All EK templates here are the default ones of the TCG EK Credential Profile, so none is stored: the NV indices for a
template and a nonce are for others. Where certificates are: provision/nv_certificates.py.
"""

from typing import Callable, NamedTuple, Optional

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.provision import device_keys, nv_certificates, ownership
from swtpm_svc.provision.device_keys import DeviceKey
from swtpm_svc.provision.ek_templates import ENDORSEMENT_KEYS
from swtpm_svc.provision.issuer import Issuer
from swtpm_svc.provision.tpm2_owner import Tpm2
from swtpm_svc.provision.tpm12_owner import Tpm12
from swtpm_svc.wire.algorithms import HASHES
from swtpm_svc.wire.public_key import PublicKey
from swtpm_svc.wire.tpm2_numbers import Rh
from swtpm_svc.wire.tpm12 import WELL_KNOWN_SECRET


class Made(NamedTuple):
    """One thing that is now in the TPM: a key, a certificate, or a key with its certificate (DER)."""

    label: str
    key: Optional[PublicKey] = None
    handle: int = 0
    certificate: bytes = b""
    nv_index: int = 0


class Order(NamedTuple):
    """What a TPM 2.0 shall have.

    The names are those of ENDORSEMENT_KEYS, wire.algorithms.HASHES and STORAGE_KEYS; "none": no storage key.
    """

    endorsement_keys: "tuple[str, ...]"
    pcr_banks: "tuple[str, ...]"
    storage_key: str
    idevid: bool
    iak: bool


def manufacture_2_0(tpm: Tpm2, order: Order, issuer: Optional[Issuer]) -> "list[Made]":
    """Make it all. The PCR banks are as ordered from the next start on. Without `issuer` there are no certificates.

    Raises:
        VtpmError TPM_REFUSED: the TPM does not have what is ordered. RefusedByTpm, ProtocolError, and what the issuer
        raises.
    """
    _allocate(tpm, order.pcr_banks)
    keys = []
    for name in order.endorsement_keys:
        key = ENDORSEMENT_KEYS[name]
        public = ownership.create_endorsement_key(tpm, key)
        keys.append(Made(f"EK {key.label}", public.key, key.handle, nv_index=key.certificate_index))
    if order.storage_key != "none":
        keys.append(_make(tpm, device_keys.STORAGE_KEYS[order.storage_key], Rh.OWNER))
    identities = [(device_keys.IDEVID, order.idevid), (device_keys.IAK, order.iak)]
    keys += [_make(tpm, key, Rh.ENDORSEMENT) for key, is_ordered in identities if is_ordered]
    return keys if issuer is None else _certify(tpm, keys, issuer)


def _allocate(tpm: Tpm2, names: "tuple[str, ...]") -> None:
    banks = tpm.pcr_banks()
    for name in names:
        if HASHES[name] not in banks:
            raise VtpmError(
                Code.TPM_REFUSED,
                f"this TPM has no PCR bank {name}",
                remedy="name others: --pcr-banks of create, pcr-banks in [provision]",
            )
    ordered = {HASHES[name] for name in names}
    wanted = {algorithm: algorithm in ordered for algorithm in banks}
    if wanted != banks and not tpm.pcr_allocate(wanted).is_done:
        cause = f"this TPM has no room for the PCR banks {', '.join(names)}"
        raise VtpmError(Code.TPM_REFUSED, cause, remedy="name fewer: --pcr-banks of create, pcr-banks in [provision]")


def _make(tpm: Tpm2, key: DeviceKey, hierarchy: int) -> Made:
    handle, public = tpm.create_primary(hierarchy, key.template)
    try:
        tpm.persist(handle, key.handle)
    finally:
        tpm.flush(handle)
    return Made(key.label, public.key, key.handle, nv_index=key.certificate_index)


def _certify(tpm: Tpm2, keys: "list[Made]", issuer: Issuer) -> "list[Made]":
    """The keys with their certificates, and the platform certificate behind that of the first endorsement key."""
    done: list[Made] = []
    endorsement = b""
    for made in keys:
        certify = _certificate_of(made, issuer, endorsement)
        if certify is None:
            done.append(made)
            continue
        assert made.key is not None
        done.append(made._replace(certificate=certify(made.key)))
        nv_certificates.write(tpm, made.nv_index, done[-1].certificate)
        if not endorsement:
            endorsement = done[-1].certificate
            platform = issuer.platform(made.key)
            nv_certificates.write(tpm, nv_certificates.PLATFORM_INDEX, platform)
            done.append(Made("platform certificate", certificate=platform, nv_index=nv_certificates.PLATFORM_INDEX))
    return done


def _certificate_of(made: Made, issuer: Issuer, endorsement: bytes) -> "Optional[Callable[[PublicKey], bytes]]":
    if made.handle == device_keys.IDEVID.handle:
        return lambda key: issuer.identity(key, endorsement)
    if made.handle == device_keys.IAK.handle:
        return lambda key: issuer.attestation(key, endorsement)
    return issuer.endorsement if made.nv_index else None


def manufacture_1_2(
    tpm: Tpm12, issuer: Optional[Issuer], *, owner: Optional[bytes] = None, srk: bytes = WELL_KNOWN_SECRET
) -> "list[Made]":
    """Endorsement key, certificates, lock of the NV storage, and with the secret `owner` ownership.

    libtpms makes a TPM 1.2 that is enabled and activated (measured), so there is nothing to do about that.

    Raises:
        RefusedByTpm, ProtocolError, and what the issuer raises.
    """
    tpm.allow_presence_by_command()
    made = [Made("EK RSA 2048", tpm.create_endorsement_key())]
    if issuer is not None:
        key = made[0].key
        assert key is not None
        made[0] = made[0]._replace(certificate=issuer.endorsement(key), nv_index=nv_certificates.EK_INDEX_1_2)
        made.append(
            Made("platform certificate", certificate=issuer.platform(key), nv_index=nv_certificates.PLATFORM_INDEX_1_2)
        )
        for one in made:
            nv_certificates.write_1_2(tpm, one.nv_index, one.certificate)
    tpm.nv_lock()
    if owner is not None:
        tpm.take_ownership(owner, srk)
        made.append(Made("owner and SRK RSA 2048"))
    return made
