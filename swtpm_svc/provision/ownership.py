"""Endorsement keys and ownership of a TPM 2.0, and which version of TPM answers at all."""

from typing import Callable, Optional, Union

from swtpm_svc.errors import NAME, TCTI, Code, VtpmError
from swtpm_svc.provision.ek_templates import EndorsementKey
from swtpm_svc.provision.refused import RefusedByTpm, already, broken
from swtpm_svc.provision.tpm2_owner import Tpm2
from swtpm_svc.provision.tpm12_owner import Tpm12
from swtpm_svc.wire import tpm2
from swtpm_svc.wire.command_codes import CommandCode
from swtpm_svc.wire.protocol_error import ProtocolError
from swtpm_svc.wire.public_key import PublicKey
from swtpm_svc.wire.results import TpmRc
from swtpm_svc.wire.tpm2_numbers import Pt, Rh
from swtpm_svc.wire.tpm2_public import Public
from swtpm_svc.wire.tpm_header import ST_NO_SESSIONS, TAG_RSP_COMMAND, decode_response

#: A command that a TPM of each version answers, each in its own way, and that changes nothing.
PROBE = tpm2.encode(CommandCode.GET_CAPABILITY, (), tpm2.encode_get_property(Pt.PERMANENT))

#: In the order in which a password is set: the owner's comes last, so that who has it has all.
_HIERARCHIES: "dict[int, str]" = {
    Rh.LOCKOUT: "lockout",
    Rh.ENDORSEMENT: "endorsement hierarchy",
    Rh.OWNER: "owner hierarchy",
}

#: What CreatePrimary answers to a template with an algorithm that the TPM does not have.
_UNSUPPORTED = (TpmRc.VALUE, TpmRc.KEY_SIZE, TpmRc.CURVE)


def connect(execute: Callable[[bytes], bytes]) -> Union[Tpm12, Tpm2]:
    """The TPM at the other end, by its version.

    Raises:
        VtpmError PROTOCOL, ProtocolError: what answers is not a TPM.
    """
    tag, _rc, _body = decode_response(execute(PROBE))
    if tag == ST_NO_SESSIONS:
        return Tpm2(execute)
    if tag == TAG_RSP_COMMAND:
        return Tpm12(execute)
    raise broken(f"a response with tag {tag:#06x} is not a TPM's")


def find_endorsement_key(tpm: Tpm2, key: EndorsementKey) -> Optional[PublicKey]:
    """What is stored at the key's handle, by whatever template it was made; None: nothing."""
    try:
        return tpm.read_key(key.handle)
    except RefusedByTpm as error:
        if error.reason == TpmRc.HANDLE:
            return None
        raise


def create_endorsement_key(
    tpm: Tpm2, key: EndorsementKey, *, endorsement: bytes = b"", owner: bytes = b"", replace: bool = False
) -> Public:
    """Make the endorsement key from the TPM's seed, and store it at its handle.

    `endorsement` and `owner` are the passwords of these hierarchies. `replace`: remove what is stored there, once the
    new one is made; a TPM whose seed was not changed makes the same key again.

    Raises:
        VtpmError ALREADY_PROVISIONED: something is stored there. RefusedByTpm, ProtocolError.
    """
    is_stored = key.handle in tpm.handles(key.handle, key.handle)
    if is_stored and not replace:
        raise already(
            f"there is a key at {key.handle:#x} already",
            f"see it: vtpmctl ek {NAME}; --force replaces it, and nothing brings it back",
        )
    try:
        handle, public = tpm.create_primary(Rh.ENDORSEMENT, key.template, endorsement)
    except RefusedByTpm as error:
        if error.reason in _UNSUPPORTED:
            options = "--algorithm of createek, --ek of create or endorsement-keys in [provision]"
            error.remedy = f"name another key, with {options}: this TPM has no {key.label}"
        raise
    try:
        if is_stored:
            tpm.persist(key.handle, key.handle, owner)
        tpm.persist(handle, key.handle, owner)
    finally:
        tpm.flush(handle)
    return public


def take_ownership(tpm: Tpm2, password: bytes) -> None:
    """Set the passwords of lockout, endorsement hierarchy and owner hierarchy; all or, when one fails, none.

    Raises:
        VtpmError ALREADY_PROVISIONED: one is set. USAGE: to the TPM that password is the empty one, or too long.
        RefusedByTpm, ProtocolError, and what the way to the TPM raises.
    """
    if not password.rstrip(b"\0"):  # Part 1, "Authorization Values": zeros at the end do not belong to it
        cause = "a password of zero bytes is the empty one to a TPM 2.0, which would have no owner"
        raise VtpmError(Code.USAGE, cause, remedy="give one that has another byte")
    taken = ", ".join(_HIERARCHIES[hierarchy] for hierarchy in tpm.authorizations_set())
    if taken:
        raise already(
            f"the TPM has an owner already: a password is set for {taken}", f"tpm2_changeauth -T {TCTI} changes it"
        )
    try:
        for hierarchy in _HIERARCHIES:
            tpm.change_auth(hierarchy, password)
    except BaseException as error:  # an interrupt too
        _give_up(tpm, password)
        if isinstance(error, RefusedByTpm) and error.reason == TpmRc.SIZE:
            raise VtpmError(
                Code.USAGE,
                f"a password of {len(password)} bytes is too long for the TPM",
                remedy="32 bytes are always possible",
            ) from error
        raise


def _give_up(tpm: Tpm2, password: bytes) -> None:
    """Remove what was set. The TPM says what that is: the answer to the last command may be lost.

    Raises:
        VtpmError: it cannot be done now.
    """
    try:
        for hierarchy in tpm.authorizations_set():
            tpm.change_auth(hierarchy, b"", password)
    except (VtpmError, ProtocolError) as error:
        code = error.code if isinstance(error, VtpmError) else Code.PROTOCOL
        cause = f"ownership may have been taken in part, and giving it up failed: {error}"
        remedy = (
            f"see which: tpm2_getcap properties-variable -T {TCTI}; remove each: tpm2_changeauth -T {TCTI} -c "
            "owner -p file:FILE"
        )
        raise VtpmError(code, cause, remedy=remedy) from error
