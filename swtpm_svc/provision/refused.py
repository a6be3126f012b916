"""A TPM that refuses a command, as an error for a person: what it answered in words, and what to do."""

from swtpm_svc.errors import NAME, TCTI, Code, VtpmError
from swtpm_svc.wire import command_codes, return_codes
from swtpm_svc.wire.results import TpmRc, TpmResult, without_subject

START = f'vtpmctl createek {NAME} starts it, as takeown does; so does each power-on, unless [tpm] startup is "none"'
POWER = f"power it on: vtpmctl init {NAME}"
PASSWORD = "give the password that the owner has set"

_UNLOCK = "wait until the TPM takes passwords again, then give the right one"
_ENABLE = 'enable and activate it, which needs physical presence (TPM Main Part 1, "Physical Presence")'

_MEANINGS: "dict[str, dict[int, tuple[Code, str]]]" = {
    "1.2": {
        TpmResult.AUTHFAIL: (Code.AUTH_FAILED, PASSWORD),
        TpmResult.DEFEND_LOCK_RUNNING: (Code.AUTH_FAILED, _UNLOCK),
        TpmResult.DEACTIVATED: (Code.TPM_REFUSED, _ENABLE),
        TpmResult.DISABLED: (Code.TPM_REFUSED, _ENABLE),
        TpmResult.FAIL: (Code.TPM_NOT_RUNNING, POWER),
        TpmResult.OWNER_SET: (
            Code.ALREADY_PROVISIONED,
            "give the password that its owner has set, if you are to use it; only that owner can clear it",
        ),
        TpmResult.NO_ENDORSEMENT: (Code.TPM_REFUSED, f"make its endorsement key first: vtpmctl createek {NAME}"),
        TpmResult.INVALID_POSTINIT: (Code.TPM_NOT_RUNNING, START),
    },
    "2.0": {
        TpmRc.INITIALIZE: (Code.TPM_NOT_RUNNING, f"tpm2_startup -c -T {TCTI}, {START}"),
        TpmRc.FAILURE: (Code.TPM_NOT_RUNNING, POWER),
        TpmRc.AUTH_FAIL: (Code.AUTH_FAILED, PASSWORD),
        TpmRc.BAD_AUTH: (Code.AUTH_FAILED, PASSWORD),
        TpmRc.LOCKOUT: (Code.AUTH_FAILED, _UNLOCK),
        TpmRc.OBJECT_MEMORY: (
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
        self.reason = without_subject(return_code) if version == "2.0" else return_code
        name, words = command_codes.name(version, command), return_codes.describe(version, return_code)
        code, remedy = _MEANINGS[version].get(self.reason, (Code.TPM_REFUSED, f"see {name} in {_BOOKS[version]}"))
        super().__init__(code, f"{name} gave {return_code:#x} ({words})", remedy=remedy)


def already(what: str, remedy: str) -> VtpmError:
    return VtpmError(Code.ALREADY_PROVISIONED, what, remedy=remedy)


def broken(what: str) -> VtpmError:
    """The peer does not speak as a TPM does."""
    return VtpmError(Code.PROTOCOL, what, remedy="check that this is a TPM, and that nobody sits between")
