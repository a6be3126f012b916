"""The return codes that this program gives or looks for, an enumeration for each version of the TPM.

All others there are stay plain numbers; `return_codes` has the words for each. The control protocol's `tpm_result` is
a TPM_RESULT for both versions. Quick to import: the table of errors stands on it.
"""

from swtpm_svc.wire.enumerations import IntEnum, unique


@unique
class TpmResult(IntEnum):
    """TPM_RESULT (TPM Main Part 2 level 2 revision 116, section 16, "Return Codes")."""

    SUCCESS = 0x000
    AUTHFAIL = 0x001
    BADINDEX = 0x002
    BAD_PARAMETER = 0x003
    DEACTIVATED = 0x006
    DISABLED = 0x007
    DISABLED_CMD = 0x008
    FAIL = 0x009
    BAD_ORDINAL = 0x00A
    KEYNOTFOUND = 0x00D
    NOSPACE = 0x011
    OWNER_SET = 0x014
    SHA_THREAD = 0x01A
    FAILEDSELFTEST = 0x01C
    IOERROR = 0x01F
    DECRYPT_ERROR = 0x021
    NO_ENDORSEMENT = 0x023
    INVALID_POSTINIT = 0x026
    AUTH_CONFLICT = 0x03B
    BAD_LOCALITY = 0x03D
    RETRY = 0x800
    DEFEND_LOCK_RUNNING = 0x803


@unique
class TpmRc(IntEnum):
    """TPM_RC (TPM 2.0 Library Part 2 revision 1.59, section 6.6.3, "TPM_RC Values").

    Those of format 1 are without the handle, session or parameter that they are about: `without_subject`.
    """

    SUCCESS = 0x000
    VALUE = 0x084
    KEY_SIZE = 0x087
    HANDLE = 0x08B
    AUTH_FAIL = 0x08E
    SIZE = 0x095
    BAD_AUTH = 0x0A2
    CURVE = 0x0A6
    INITIALIZE = 0x100
    FAILURE = 0x101
    COMMAND_CODE = 0x143
    AUTH_CONTEXT = 0x145
    CONTEXT_GAP = 0x901
    OBJECT_MEMORY = 0x902
    SESSION_MEMORY = 0x903
    MEMORY = 0x904
    SESSION_HANDLES = 0x905
    LOCALITY = 0x907
    REFERENCE_H0 = 0x910
    REFERENCE_S0 = 0x918
    LOCKOUT = 0x921


def without_subject(rc: int) -> int:
    """A TPM_RC as `TpmRc` has it (Part 2, section 6.6.2: bits 6 and 8 to 11 of format 1 say what it is about)."""
    return rc & 0x0BF if rc & 0x080 else rc
