"""The hash sequence of a dynamic launch or an H-CRTM event, and tpmEstablished, which says that there was one.

Sources: PC Client Platform TPM Profile, "Locality-Controlled Functions"; TPM Main Part 1, "TPM_HASH_START"; libtpms'
man pages TPM_IO_Hash_Start(3) and TPM_IO_TpmEstablished_Get(3). Functions return the TPM's result code.
"""

from swtpm_svc.tpm import libtpms
from swtpm_svc.tpm.tpm import Tpm
from swtpm_svc.wire.results import TpmResult


def hash_start(tpm: Tpm) -> int:
    # libtpms says the same of a TPM 1.2, but is in failure mode then; and so below
    if tpm.version == "1.2":
        if tpm.is_hashing:
            return TpmResult.FAIL
        if not tpm.is_started():
            return TpmResult.INVALID_POSTINIT
    result = tpm.guarded(libtpms.hash_start)
    tpm.is_hashing = result == TpmResult.SUCCESS
    return result


def hash_data(tpm: Tpm, data: bytes) -> int:
    if not tpm.is_hashing and tpm.version == "1.2":
        return TpmResult.SHA_THREAD  # as libtpms 0.9.2 (measured)
    return libtpms.hash_data(data) if tpm.is_running else TpmResult.FAIL


def hash_end(tpm: Tpm) -> int:
    if not tpm.is_hashing and tpm.version == "1.2":
        return TpmResult.SHA_THREAD
    tpm.is_hashing = False
    return tpm.guarded(libtpms.hash_end)


def get_established(tpm: Tpm) -> bool:
    return tpm.is_there and libtpms.get_established()


def reset_established(tpm: Tpm, locality: int) -> int:
    """Clear tpmEstablished as `locality`."""
    libtpms.set_locality(locality)
    try:
        return tpm.guarded(libtpms.reset_established)
    finally:
        libtpms.set_locality(tpm.locality)
