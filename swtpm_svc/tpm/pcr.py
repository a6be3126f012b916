"""The PCRs, for people to look at: which banks there are, and their values.

The kernel shows those of a TPM in sysfs (Documentation/ABI/testing/sysfs-class-tpm).
They are read past `Tpm.execute`, so that what a client did last stays what a client did last. The TPM must be free.
"""

from struct import Struct
from typing import Optional

from swtpm_svc.tpm import libtpms
from swtpm_svc.tpm.libtpms import LibtpmsError
from swtpm_svc.tpm.tpm import Tpm
from swtpm_svc.wire.tpm_header import HEADER_SIZE, ST_NO_SESSIONS, TAG_RQU_COMMAND, encode_command

#: PC Client platforms have 24 of them in every bank, libtpms too.
PCR_COUNT = 24

_ORD_PCR_READ = 0x15  # TPM Main Part 3, TPM_PCRRead
_CC_PCR_READ = 0x17E  # TPM 2.0 Part 3, TPM2_PCR_Read
# TPM2_GetCapability(TPM_CAP_PCRS, 0, 1): TPML_PCR_SELECTION after moreData and capability (TPM 2.0 Part 2, 10.9.7,
# 6.12).
_GET_PCR_BANKS = encode_command(ST_NO_SESSIONS, 0x17A, Struct(">III").pack(5, 0, 1))
_PCR_SELECTIONS = HEADER_SIZE + 5
_PCR_SELECTION = Struct(">HB")
#: TPM_ALG_ID of the hashes (TCG Algorithm Registry).
HASH_NAMES = {0x04: "sha1", 0x0B: "sha256", 0x0C: "sha384", 0x0D: "sha512", 0x12: "sm3_256"}
_ALGORITHMS = {name: algorithm for algorithm, name in HASH_NAMES.items()}


def pcr_banks(tpm: Tpm) -> "list[str]":
    """The hash algorithms of the PCR banks that hold PCRs; empty while the TPM is not started (TPM2_GetCapability)."""
    if not tpm.can_be_asked:
        return []
    if tpm.version == "1.2":
        return ["sha1"]
    response = tpm.ask(_GET_PCR_BANKS)
    if response[6:10] != bytes(4):
        return []
    banks, position = [], _PCR_SELECTIONS + 4
    for _ in range(int.from_bytes(response[_PCR_SELECTIONS:position], "big")):
        algorithm, size = _PCR_SELECTION.unpack_from(response, position)
        position += _PCR_SELECTION.size
        if any(response[position : position + size]):
            banks.append(HASH_NAMES.get(algorithm, f"{algorithm:#x}"))
        position += size
    return banks


def algorithm_of(bank: str) -> int:
    """The TPM_ALG_ID of a bank that `pcr_banks` names."""
    algorithm = _ALGORITHMS.get(bank)
    return int(bank, 16) if algorithm is None else algorithm


def read_pcr(tpm: Tpm, algorithm: int, index: int) -> Optional[bytes]:
    """The digest in a PCR; None while the TPM is not powered or not started, or if it has no such PCR."""
    if not tpm.is_running:
        return None
    if tpm.version == "1.2":
        command, start = encode_command(TAG_RQU_COMMAND, _ORD_PCR_READ, index.to_bytes(4, "big")), HEADER_SIZE
    else:
        bits = bytearray(PCR_COUNT // 8)
        bits[index // 8] = 1 << index % 8
        selection = b"\0\0\0\1" + algorithm.to_bytes(2, "big") + bytes([len(bits)]) + bits
        command = encode_command(ST_NO_SESSIONS, _CC_PCR_READ, selection)
        # pcrUpdateCounter, a selection like ours, then TPML_DIGEST: a count and a TPM2B_DIGEST
        start = HEADER_SIZE + 4 + len(selection) + 4 + 2
    try:
        response = libtpms.process(memoryview(bytearray(command)))
    except LibtpmsError:
        return None
    if response[6:10] != bytes(4):
        return None
    return response[start:] or None
