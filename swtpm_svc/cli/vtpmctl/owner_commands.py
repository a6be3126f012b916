"""The commands of vtpmctl that make and own an endorsement key: createek, takeown, getpubek.

They send TPM commands, so they work on any TPM of either version, one of ours or a chip. A command gets the TPM and its
arguments by name, and returns a `Report`, as the control operations do.
"""

from typing import Any, Union

from swtpm_svc.cli import operator_files
from swtpm_svc.cli.command import Report, require_cryptography
from swtpm_svc.cli.passwords import Password
from swtpm_svc.cli.public_key_text import curve_name, key_text
from swtpm_svc.cli.vtpmctl.commands import DEFAULT_ALGORITHM
from swtpm_svc.errors import NAME, Code, VtpmError
from swtpm_svc.provision import ownership, subject_public_key
from swtpm_svc.provision.ek_templates import ENDORSEMENT_KEYS
from swtpm_svc.provision.refused import RefusedByTpm
from swtpm_svc.provision.tpm2_owner import Tpm2
from swtpm_svc.provision.tpm12_owner import Tpm12, secret_of
from swtpm_svc.wire.public_key import PublicKey, RsaPublicKey
from swtpm_svc.wire.results import TpmResult
from swtpm_svc.wire.tpm12 import WELL_KNOWN_SECRET

Tpm = Union[Tpm12, Tpm2]


def create_ek(tpm: Tpm, *, algorithm: str, force: bool, owner: Password) -> Report:
    if isinstance(tpm, Tpm12):
        refuse_algorithm(algorithm)
        if force:
            raise VtpmError(Code.USAGE, "a TPM 1.2 never gets another endorsement key", remedy="leave out --force")
        return _made(tpm.create_endorsement_key(), algorithm, {})
    key = ENDORSEMENT_KEYS[algorithm]
    password = owner.given()
    try:
        public = ownership.create_endorsement_key(
            tpm, key, endorsement=password or b"", owner=password or b"", replace=force
        )
    except RefusedByTpm as error:
        if error.code is Code.AUTH_FAILED and password is None:
            error.remedy = "the TPM has an owner: give the password, with --owner-password-file"
        raise
    return _made(public.key, algorithm, {"handle": f"{key.handle:#x}"})


def _made(key: PublicKey, algorithm: str, values: "dict[str, Any]") -> Report:
    fingerprint = subject_public_key.fingerprint(key)
    place = f" at {values['handle']}" if values else ""
    text = f"the endorsement key is made: {ENDORSEMENT_KEYS[algorithm].label}{place}, fingerprint sha256:{fingerprint}"
    return Report(text, {"algorithm": algorithm, **values, "fingerprint": fingerprint})


def take_ownership(tpm: Tpm, *, owner: Password, srk: Password) -> Report:
    if isinstance(tpm, Tpm2):
        if srk.given() is not None:
            raise VtpmError(
                Code.USAGE, "takeown makes no storage root key in a TPM 2.0", remedy="leave the SRK password out"
            )
        ownership.take_ownership(tpm, owner.required(confirm=True))
        return Report(
            "ownership is taken: the password is that of owner, endorsement and lockout", {"version": tpm.version}
        )
    require_cryptography()  # before anything is changed: both secrets go to a TPM 1.2 encrypted with its key
    srk_password = srk.given()
    secret = WELL_KNOWN_SECRET if srk_password is None else secret_of(srk_password)
    tpm.take_ownership(secret_of(owner.required(confirm=True)), secret)
    which = "the well-known one" if srk_password is None else "as given"
    text = f"ownership is taken; the storage root key's secret is {which}"
    return Report(text, {"version": tpm.version, "srk_well_known": srk_password is None})


def get_pubek(tpm: Tpm, *, algorithm: str, output: str, owner: Password) -> Report:
    if isinstance(tpm, Tpm12):
        refuse_algorithm(algorithm)
        key: PublicKey = pubek(tpm, owner)
    else:
        stored = ownership.find_endorsement_key(tpm, ENDORSEMENT_KEYS[algorithm])
        if stored is None:
            raise no_endorsement_key(algorithm)
        key = stored
    pem = subject_public_key.to_pem(key)
    operator_files.write_whole(output, pem, 0o644)
    return Report(key_text(key, output), {"file": output, "pem": pem.decode("ascii"), **_key_values(key)})


def no_endorsement_key(algorithm: str) -> VtpmError:
    return VtpmError(
        Code.TPM_REFUSED,
        f"there is no endorsement key {algorithm} at {ENDORSEMENT_KEYS[algorithm].handle:#x}",
        remedy=f"make it: vtpmctl createek {NAME} --algorithm {algorithm}; or name another --algorithm",
    )


def pubek(tpm: Tpm12, owner: Password) -> RsaPublicKey:
    """Read it as anybody may; when there is an owner, as the owner."""
    try:
        return tpm.read_pubek()
    except RefusedByTpm as error:
        if error.reason != TpmResult.DISABLED_CMD:
            raise
    return tpm.owner_read_pubek(secret_of(owner.required()))


def _key_values(key: PublicKey) -> "dict[str, Any]":
    if isinstance(key, RsaPublicKey):
        return {"bits": key.bits, "exponent": key.exponent, "modulus": key.modulus.hex()}
    return {"curve": curve_name(key), "x": key.x.hex(), "y": key.y.hex()}


def refuse_algorithm(algorithm: str) -> None:
    if algorithm != DEFAULT_ALGORITHM:
        raise VtpmError(
            Code.USAGE,
            f"a TPM 1.2 has no endorsement key {algorithm}",
            remedy=f"leave it out: it is {DEFAULT_ALGORITHM}",
        )
