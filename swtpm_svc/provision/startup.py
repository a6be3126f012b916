"""A TPM that nobody has started yet: Startup(CLEAR) for who wants to set it up."""

from typing import Callable

from swtpm_svc.wire.tpm_header import (
    ST_NO_SESSIONS,
    TAG_RQU_COMMAND,
    TAG_RSP_COMMAND,
    encode_command,
    encode_response,
)

Execute = Callable[[bytes], bytes]

#: What a TPM answers before its Startup (TPM_INVALID_POSTINIT, TPM_RC_INITIALIZE), and the Startup that it wants.
_WANTED = {
    encode_response(TAG_RSP_COMMAND, 0x26): encode_command(TAG_RQU_COMMAND, 0x99, b"\0\1"),
    encode_response(ST_NO_SESSIONS, 0x100): encode_command(ST_NO_SESSIONS, 0x144, b"\0\0"),
}


def when_needed(execute: Execute) -> Execute:
    """An `execute` that starts the TPM when it refuses a command for want of that, and then sends the command again.

    A TPM that was started is never started anew: it does not answer so.
    """

    def start_and_execute(command: bytes) -> bytes:
        response = execute(command)
        startup = _WANTED.get(bytes(response))
        if startup is None:
            return response
        execute(startup)  # what it says does not matter: another program may have been faster
        return execute(command)

    return start_and_execute
