"""What the TPM says of how it is: started or not, and how near to a lockout by failed authorizations.

A TPM 2.0 is asked, past `Tpm.execute`, as pcr.py does. A TPM 1.2 is not, since a command after TPM_SaveState undoes
that: what is known of it is what was sent to it. The codec is imported when somebody looks (service/later names it).
"""

from swtpm_svc.tpm.tpm import Tpm
from swtpm_svc.wire.command_codes import CommandCode
from swtpm_svc.wire.hints import Any, Optional
from swtpm_svc.wire.protocol_error import ProtocolError
from swtpm_svc.wire.tpm_header import RESULT, ST_NO_SESSIONS, SUCCESS, decode_response, encode_command


def self_report(tpm: Tpm) -> "dict[str, Any]":
    """For the status: `started` and `lockout`, each None where it is not known. The TPM must be free."""
    started, lockout = tpm.was_started, None
    if tpm.version == "2.0" and tpm.can_be_asked:
        from swtpm_svc.wire.tpm_properties import PtVar, encode_get_properties

        asked = encode_get_properties(PtVar.PERMANENT, PtVar.LOCKOUT_RECOVERY)
        response = tpm.ask(encode_command(ST_NO_SESSIONS, CommandCode.GET_CAPABILITY, asked))
        if response == tpm.dialect.unstarted:
            started = False
        elif response[RESULT] == SUCCESS:
            started, lockout = True, _lockout(response)
    return {"started": started, "lockout": lockout}


def _lockout(response: bytes) -> "Optional[dict[str, Any]]":
    from swtpm_svc.wire.tpm_properties import IN_LOCKOUT, PtVar, decode_properties

    try:
        found = decode_properties(decode_response(response)[2])
        return {
            "failures": found[PtVar.LOCKOUT_COUNTER],
            "limit": found[PtVar.MAX_AUTH_FAIL],
            "locked": bool(found[PtVar.PERMANENT] & IN_LOCKOUT),
            "interval_s": found[PtVar.LOCKOUT_INTERVAL],
        }
    except (KeyError, ProtocolError):
        return None
