"""The PCRs, for people to look at: which banks there are, and their values.

The kernel shows those of a TPM in sysfs (Documentation/ABI/testing/sysfs-class-tpm).
The codec is imported when somebody looks, as a start does not need it (service/later names it).
They are read past `Tpm.execute`, so that this does not count as what a client did last. The TPM must be free.
"""

from swtpm_svc.tpm import libtpms
from swtpm_svc.tpm.libtpms import LibtpmsError
from swtpm_svc.tpm.tpm import Tpm
from swtpm_svc.wire.algorithms import Alg, hash_name
from swtpm_svc.wire.command_codes import CommandCode, Ordinal
from swtpm_svc.wire.hints import Optional
from swtpm_svc.wire.tpm_header import ST_NO_SESSIONS, TAG_RQU_COMMAND, decode_response, encode_command


def pcr_banks(tpm: Tpm) -> "list[str]":
    """The hash algorithms of the PCR banks that hold PCRs; empty while the TPM is not started (TPM2_GetCapability)."""
    if not tpm.can_be_asked:
        return []
    if tpm.version == "1.2":
        return [hash_name(Alg.SHA1)]
    from swtpm_svc.wire import pcr_banks as codec

    command = encode_command(ST_NO_SESSIONS, CommandCode.GET_CAPABILITY, codec.encode_get_pcrs())
    answer = _answer(tpm.ask(command))
    if answer is None:
        return []
    return [hash_name(algorithm) for algorithm, has_pcrs in codec.decode_pcrs(answer).items() if has_pcrs]


def read_pcr(tpm: Tpm, algorithm: int, index: int) -> Optional[bytes]:
    """The digest in a PCR; None while the TPM is not powered or not started, or if it has no such PCR."""
    from swtpm_svc.wire import pcr_banks as codec

    if not tpm.is_running:
        return None
    if tpm.version == "1.2":
        # TPM_PCRRead (TPM Main Part 3, section 16.2): the index, and the digest alone
        command = encode_command(TAG_RQU_COMMAND, Ordinal.PCR_READ, index.to_bytes(4, "big"))
    else:
        command = encode_command(ST_NO_SESSIONS, CommandCode.PCR_READ, codec.encode_pcr_read(algorithm, index))
    try:
        answer = _answer(libtpms.process(memoryview(bytearray(command))))
    except LibtpmsError:
        return None
    if answer is None:
        return None
    return (answer if tpm.version == "1.2" else codec.decode_pcr_read(answer)) or None


def _answer(response: bytes) -> Optional[bytes]:
    """The body of a response; None: the TPM has refused."""
    _tag, rc, body = decode_response(response)
    return None if rc else body
