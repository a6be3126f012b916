"""What differs on the wire between the two TPM versions, where the service itself sends commands or answers them.

Sources: TPM Main Part 3; TPM 2.0 Library Part 3.
"""

from typing import NamedTuple, Optional

from swtpm_svc.wire.tpm_header import ST_NO_SESSIONS, TAG_RQU_COMMAND, TAG_RSP_COMMAND, encode_command, encode_response

#: Fresh entropy for a generator that goes on; what `Dialect.stir` is followed by.
STIR_BYTES = 48


class Dialect(NamedTuple):
    """What differs on the wire between the two TPM versions."""

    #: What a client gets for a command that the TPM cannot take at all: TPM_FAIL, TPM_RC_FAILURE.
    fatal: bytes
    #: What it gets from one that has failed: TPM_FAILEDSELFTEST, TPM_RC_FAILURE.
    in_failure: bytes
    #: Results that libtpms gives in failure mode, but not only there; and a command that changes nothing, to find out.
    failing: "frozenset[bytes]"
    test: bytes
    #: Where its response has the result of `in_failure`, then.
    verdict: slice
    #: TPM_BAD_LOCALITY, TPM_RC_LOCALITY.
    bad_locality: bytes
    startup: "dict[str, bytes]"
    #: What makes a TPM that goes on give other random bytes than the one before; None: they are not part of its state.
    stir: Optional[bytes]


# TPM Main Part 3 (TPM_Startup) and TPM 2.0 Part 3 (TPM2_Startup, TPM2_StirRandom).
DIALECTS = {
    "1.2": Dialect(
        fatal=encode_response(TAG_RSP_COMMAND, 0x09),
        in_failure=encode_response(TAG_RSP_COMMAND, 0x1C),
        failing=frozenset((b"\0\0\0\x09", b"\0\0\0\x1c")),  # TPM_FAIL, TPM_FAILEDSELFTEST
        test=encode_command(TAG_RQU_COMMAND, 0xF1, b""),  # TPM_GetTicks
        verdict=slice(6, 10),
        bad_locality=encode_response(TAG_RSP_COMMAND, 0x3D),
        startup={
            "clear": encode_command(TAG_RQU_COMMAND, 0x99, b"\0\1"),
            "state": encode_command(TAG_RQU_COMMAND, 0x99, b"\0\2"),
            "deactivated": encode_command(TAG_RQU_COMMAND, 0x99, b"\0\3"),
        },
        stir=None,  # and any command after TPM_SaveState undoes that
    ),
    "2.0": Dialect(
        fatal=encode_response(ST_NO_SESSIONS, 0x101),
        in_failure=encode_response(ST_NO_SESSIONS, 0x101),
        failing=frozenset((b"\0\0\1\1",)),
        test=encode_command(ST_NO_SESSIONS, 0x17C, b""),  # TPM2_GetTestResult: outData, testResult
        verdict=slice(-4, None),
        bad_locality=encode_response(ST_NO_SESSIONS, 0x907),
        startup={
            "clear": encode_command(ST_NO_SESSIONS, 0x144, b"\0\0"),
            "state": encode_command(ST_NO_SESSIONS, 0x144, b"\0\1"),
        },
        stir=encode_command(ST_NO_SESSIONS, 0x146, STIR_BYTES.to_bytes(2, "big") + bytes(STIR_BYTES))[:-STIR_BYTES],
    ),
}
