"""The certificates in a TPM's NV storage, as DER.

Sources: TCG EK Credential Profile for TPM Family 2.0 (indices); TCG Registry of Reserved TPM 2.0 Handles and Localities
(the platform certificate's index, the range of IDevID and IAK); TCG PC Client Specific Implementation Specification for
Conventional BIOS (what a TPM 1.2 has before a certificate).
"""

from typing import Optional

from swtpm_svc.errors import NAME, TCTI, Code, VtpmError
from swtpm_svc.provision.refused import RefusedByTpm
from swtpm_svc.provision.tpm2_owner import Tpm2
from swtpm_svc.provision.tpm12_owner import Tpm12
from swtpm_svc.wire.results import TpmRc, TpmResult
from swtpm_svc.wire.tpm2 import NvAttribute, NvPublic
from swtpm_svc.wire.tpm2_numbers import Rh
from swtpm_svc.wire.tpm12 import NvPermission

PLATFORM_INDEX = 0x01C08000
#: From the first to the last index for IDevID and IAK certificates; which of them is whose, the certificate says.
IDENTITY_INDICES = (0x01C90000, 0x01C9FFFF)
#: TPM_NV_INDEX_EKCert and TPM_NV_INDEX_PlatformCert, with the bit that says that a manufacturer has defined them.
EK_INDEX_1_2, PLATFORM_INDEX_1_2 = 0x1000F000, 0x1000F002

# TCG_PCCLIENT_STORED_CERT of a whole certificate: tag, type 0, size of what follows; TCG_FULL_CERT's tag
_STORED_TAG, _FULL_TAG = bytes.fromhex("100100"), bytes.fromhex("1002")
_HEADER_BYTES = 7

#: As the EK profile wants it, and swtpm_setup has it.
_ATTRIBUTES = (
    NvAttribute.PPWRITE
    | NvAttribute.WRITEDEFINE
    | NvAttribute.PPREAD
    | NvAttribute.OWNERREAD
    | NvAttribute.AUTHREAD
    | NvAttribute.NO_DA
    | NvAttribute.PLATFORMCREATE
)


def read(tpm: Tpm2, index: int, owner: bytes = b"") -> Optional[bytes]:
    """What a TPM 2.0 has at the index; None: nothing. `owner`: his password, for an index that he alone may read.

    Raises:
        RefusedByTpm, ProtocolError. VtpmError TPM_REFUSED: the index is for others to read.
    """
    try:
        attributes = tpm.nv_read_public(index).attributes
    except RefusedByTpm as error:
        if error.reason == TpmRc.HANDLE:
            return None
        raise
    if not attributes & NvAttribute.WRITTEN:
        return None
    # with its own password, the empty one, only where a failure does not count against dictionary attacks
    if attributes & NvAttribute.AUTHREAD and attributes & NvAttribute.NO_DA:
        return _whole(tpm.nv_read(index, index))
    if attributes & NvAttribute.OWNERREAD:
        return _whole(tpm.nv_read(index, Rh.OWNER, owner))
    raise VtpmError(
        Code.TPM_REFUSED,
        f"NV index {index:#x} can be read neither by everybody nor by the owner",
        remedy=f"read it as its attributes say: tpm2_nvreadpublic -T {TCTI} {index:#x}",
    )


def read_1_2(tpm: Tpm12, index: int, owner: Optional[bytes] = None) -> Optional[bytes]:
    """What a TPM 1.2 has at the index; None: nothing. `owner`: his secret, without which a TPM that is in use refuses.

    Raises:
        RefusedByTpm, ProtocolError. VtpmError TPM_REFUSED: there is something else, or no owner who could read it.
    """
    try:
        header = tpm.nv_read(index, _HEADER_BYTES, owner=owner)
    except RefusedByTpm as error:
        if error.reason == TpmResult.BADINDEX:
            return None
        if error.reason == TpmResult.AUTH_CONFLICT and not tpm.has_owner():
            cause = f"NV index {index:#x} is for the owner to read, and nobody owns the TPM yet: takeown comes first"
            raise VtpmError(Code.TPM_REFUSED, cause, remedy=f"take ownership: vtpmctl takeown {NAME}") from error
        raise
    size = int.from_bytes(header[3:5], "big") - len(_FULL_TAG)
    if header[:3] != _STORED_TAG or header[5:] != _FULL_TAG or size < 0:
        raise VtpmError(
            Code.TPM_REFUSED,
            f"NV index {index:#x} holds no certificate: it begins with {header.hex()}",
            remedy="it is damaged, or in use for something else: see who has written it",
        )
    return tpm.nv_read(index, _HEADER_BYTES + size, owner=owner)[_HEADER_BYTES:]


def write(tpm: Tpm2, index: int, certificate: bytes, *, lock: bool = True) -> None:
    """Define the index of a TPM 2.0 as the platform's, which everybody may read, and write it; with `lock` for ever."""
    tpm.nv_define_space(NvPublic(index, _ATTRIBUTES, len(certificate)))
    tpm.nv_write(index, certificate)
    if lock:
        tpm.nv_write_lock(index)


def write_1_2(tpm: Tpm12, index: int, certificate: bytes) -> None:
    """The same in a TPM 1.2 whose NV storage is not locked yet.

    Then it is for its owner alone, as that of swtpm_setup is.
    """
    content = _FULL_TAG + certificate
    stored = _STORED_TAG + len(content).to_bytes(2, "big") + content
    tpm.nv_define_space(index, len(stored), NvPermission.OWNERREAD | NvPermission.OWNERWRITE)
    tpm.nv_write(index, stored)


def _whole(data: bytes) -> bytes:
    """Without what a larger index has behind its certificate. Anything but a DER element is left as it is."""
    if len(data) < 4 or data[0] != 0x30 or data[1] not in (0x81, 0x82):
        return data
    sizes = data[1] & 0x7F
    end = 2 + sizes + int.from_bytes(data[2 : 2 + sizes], "big")
    return data[:end]
