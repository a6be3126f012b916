"""A TPM that refuses a command, as an error for a person: what it answered in words, and what to do."""

from swtpm_svc.errors import NAME, TCTI, Code, VtpmError
from swtpm_svc.wire import command_codes, return_codes

START = 'vtpmctl createek and takeown start it; [tpm] startup = "clear" does so at each power-on'
POWER = f"power it on: vtpmctl init {NAME}"
PASSWORD = "give the password that the owner has set"

# TPM Main Part 2, "Return codes".
TPM_AUTHFAIL = 0x01
TPM_BADINDEX = 0x02
TPM_DEACTIVATED = 0x06
TPM_DISABLED = 0x07
TPM_DISABLED_CMD = 0x08
TPM_FAIL = 0x09
TPM_OWNER_SET = 0x14
TPM_NO_ENDORSEMENT = 0x23
TPM_INVALID_POSTINIT = 0x26
TPM_AUTH_CONFLICT = 0x3B
TPM_DEFEND_LOCK_RUNNING = 0x803

# TPM 2.0 Part 2, "TPM_RC"; of format 1 what is left without handle, session or parameter.
RC_INITIALIZE = 0x100
RC_FAILURE = 0x101
RC_VALUE = 0x084
RC_KEY_SIZE = 0x087
RC_HANDLE = 0x08B
RC_AUTH_FAIL = 0x08E
RC_SIZE = 0x095
RC_BAD_AUTH = 0x0A2
RC_CURVE = 0x0A6
RC_OBJECT_MEMORY = 0x902
RC_LOCKOUT = 0x921

_UNLOCK = "wait until the TPM takes passwords again, then give the right one"
_ENABLE = 'enable and activate it, which needs physical presence (TPM Main Part 1, "Physical Presence")'

_MEANINGS = {
    "1.2": {
        TPM_AUTHFAIL: (Code.AUTH_FAILED, PASSWORD),
        TPM_DEFEND_LOCK_RUNNING: (Code.AUTH_FAILED, _UNLOCK),
        TPM_DEACTIVATED: (Code.TPM_REFUSED, _ENABLE),
        TPM_DISABLED: (Code.TPM_REFUSED, _ENABLE),
        TPM_FAIL: (Code.TPM_NOT_RUNNING, POWER),
        TPM_OWNER_SET: (
            Code.ALREADY_PROVISIONED,
            "give the password that its owner has set, if you are to use it; only that owner can clear it",
        ),
        TPM_NO_ENDORSEMENT: (Code.TPM_REFUSED, f"make its endorsement key first: vtpmctl createek {NAME}"),
        TPM_INVALID_POSTINIT: (Code.TPM_NOT_RUNNING, START),
    },
    "2.0": {
        RC_INITIALIZE: (Code.TPM_NOT_RUNNING, f"tpm2_startup -c -T {TCTI}, {START}"),
        RC_FAILURE: (Code.TPM_NOT_RUNNING, POWER),
        RC_AUTH_FAIL: (Code.AUTH_FAILED, PASSWORD),
        RC_BAD_AUTH: (Code.AUTH_FAILED, PASSWORD),
        RC_LOCKOUT: (Code.AUTH_FAILED, _UNLOCK),
        RC_OBJECT_MEMORY: (
            Code.TPM_REFUSED,
            f"flush what other programs have left in it, when none is at work: tpm2_flushcontext -t -T {TCTI}",
        ),
    },
}

_BOOKS = {"1.2": "TPM Main Part 3", "2.0": "TPM 2.0 Library Part 3"}


class RefusedByTpm(VtpmError):
    """The TPM answered `command` with a return code other than success.

    `reason` is the code; of a TPM 2.0's format 1 without the handle, session or parameter that it is about.
    """

    def __init__(self, version: str, command: int, return_code: int) -> None:
        self.version, self.command, self.return_code = version, command, return_code
        self.reason = return_code & 0x0BF if version == "2.0" and return_code & 0x080 else return_code
        name, words = command_codes.name(version, command), return_codes.describe(version, return_code)
        code, remedy = _MEANINGS[version].get(self.reason, (Code.TPM_REFUSED, f"see {name} in {_BOOKS[version]}"))
        super().__init__(code, f"{name} gave {return_code:#x} ({words})", remedy=remedy)


def already(what: str, remedy: str) -> VtpmError:
    return VtpmError(Code.ALREADY_PROVISIONED, what, remedy=remedy)


def broken(what: str) -> VtpmError:
    """The peer does not speak as a TPM does."""
    return VtpmError(Code.PROTOCOL, what, remedy="check that this is a TPM, and that nobody sits between")
