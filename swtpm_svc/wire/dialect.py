"""What differs between the two TPM versions where the service itself sends commands or answers them.

Sources: TPM Main Part 2 and 3, level 2 revision 116; TPM 2.0 Library Part 2 and 3, revision 1.59. Each command is named
with its section in Part 3.
"""

from swtpm_svc.wire.command_codes import CommandCode, Ordinal
from swtpm_svc.wire.enumerations import IntEnum, unique
from swtpm_svc.wire.hints import Optional
from swtpm_svc.wire.results import TpmRc, TpmResult
from swtpm_svc.wire.tpm_header import (
    RESULT,
    ST_NO_SESSIONS,
    TAG_RQU_COMMAND,
    TAG_RSP_COMMAND,
    encode_command,
    encode_response,
    results,
)
from swtpm_svc.wire.values import NamedTuple

#: Fresh entropy for a generator that goes on; what `Dialect.stir` is followed by.
STIR_BYTES = 48


@unique
class StartupType(IntEnum):
    """TPM_STARTUP_TYPE, of TPM 1.2 (TPM Main Part 2, section 4.5)."""

    CLEAR = 1
    STATE = 2
    DEACTIVATED = 3


@unique
class Su(IntEnum):
    """TPM_SU: how a TPM 2.0 starts and is shut down (Part 2, section 6.10)."""

    CLEAR = 0
    STATE = 1


class Dialect(NamedTuple):
    """One version's."""

    #: What a client gets for a command that the TPM cannot take at all: TPM_FAIL, TPM_RC_FAILURE.
    fatal: bytes
    #: What it gets from one that has failed: TPM_FAILEDSELFTEST, TPM_RC_FAILURE.
    in_failure: bytes
    #: What it gets from one that was not started: TPM_INVALID_POSTINIT, TPM_RC_INITIALIZE.
    unstarted: bytes
    #: TPM_BAD_LOCALITY, TPM_RC_LOCALITY.
    bad_locality: bytes
    #: Results that libtpms gives in failure mode, but not only there; and a command that changes nothing, to find out.
    failing: "frozenset[bytes]"
    test: bytes
    #: Where its response has the result of `in_failure`, then.
    verdict: slice
    startup_code: int
    #: Startup, by the configuration's word for how.
    startup: "dict[str, bytes]"
    #: Shutdown(CLEAR), which a TPM wants to hear before its power goes, (STATE), the code of any; None: it has none.
    shutdown: Optional[bytes]
    shutdown_state: Optional[bytes]
    shutdown_code: Optional[int]
    #: What makes a TPM that goes on give other random bytes than the one before; None: they are not part of its state.
    stir: Optional[bytes]

    def is_in_failure(self, response: bytes) -> bool:
        """Does the response to `test` say that libtpms is in failure mode for good?"""
        return response[self.verdict] == self.in_failure[RESULT]


def _startup_1_2(kind: StartupType) -> bytes:
    """TPM_Startup (section 3.2)."""
    return encode_command(TAG_RQU_COMMAND, Ordinal.STARTUP, kind.to_bytes(2, "big"))


def _startup_2_0(kind: Su) -> bytes:
    """TPM2_Startup (section 9.3)."""
    return encode_command(ST_NO_SESSIONS, CommandCode.STARTUP, kind.to_bytes(2, "big"))


def _begin_of_stir() -> bytes:
    """TPM2_StirRandom (section 16.2), without the bytes."""
    whole = encode_command(ST_NO_SESSIONS, CommandCode.STIR_RANDOM, STIR_BYTES.to_bytes(2, "big") + bytes(STIR_BYTES))
    return whole[:-STIR_BYTES]


DIALECTS = {
    "1.2": Dialect(
        fatal=encode_response(TAG_RSP_COMMAND, TpmResult.FAIL),
        in_failure=encode_response(TAG_RSP_COMMAND, TpmResult.FAILEDSELFTEST),
        unstarted=encode_response(TAG_RSP_COMMAND, TpmResult.INVALID_POSTINIT),
        bad_locality=encode_response(TAG_RSP_COMMAND, TpmResult.BAD_LOCALITY),
        failing=results(TpmResult.FAIL, TpmResult.FAILEDSELFTEST),
        test=encode_command(TAG_RQU_COMMAND, Ordinal.GET_TICKS),  # TPM_GetTicks (section 23.1)
        verdict=RESULT,
        startup_code=Ordinal.STARTUP,
        startup={kind.name.lower(): _startup_1_2(kind) for kind in StartupType},
        shutdown=None,
        shutdown_state=None,
        shutdown_code=None,
        stir=None,  # and any command after TPM_SaveState undoes that
    ),
    "2.0": Dialect(
        fatal=encode_response(ST_NO_SESSIONS, TpmRc.FAILURE),
        in_failure=encode_response(ST_NO_SESSIONS, TpmRc.FAILURE),
        unstarted=encode_response(ST_NO_SESSIONS, TpmRc.INITIALIZE),
        bad_locality=encode_response(ST_NO_SESSIONS, TpmRc.LOCALITY),
        failing=results(TpmRc.FAILURE),
        test=encode_command(ST_NO_SESSIONS, CommandCode.GET_TEST_RESULT),  # TPM2_GetTestResult (section 10.4)
        verdict=slice(-4, None),  # testResult, after outData
        startup_code=CommandCode.STARTUP,
        startup={kind.name.lower(): _startup_2_0(kind) for kind in Su},
        # TPM2_Shutdown (section 9.4)
        shutdown=encode_command(ST_NO_SESSIONS, CommandCode.SHUTDOWN, Su.CLEAR.to_bytes(2, "big")),
        shutdown_state=encode_command(ST_NO_SESSIONS, CommandCode.SHUTDOWN, Su.STATE.to_bytes(2, "big")),
        shutdown_code=CommandCode.SHUTDOWN,
        stir=_begin_of_stir(),
    ),
}

#: What a TPM answers before its Startup, and the Startup(CLEAR) that it wants.
STARTUP_WANTED = {dialect.unstarted: dialect.startup["clear"] for dialect in DIALECTS.values()}
