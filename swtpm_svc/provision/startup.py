"""A TPM that nobody has started yet: Startup(CLEAR) for those who want to set it up."""

from typing import Callable

from swtpm_svc.wire.dialect import STARTUP_WANTED

Execute = Callable[[bytes], bytes]


def when_needed(execute: Execute) -> Execute:
    """An `execute` that starts the TPM when it refuses a command for want of that, and then sends the command again.

    A TPM that was started is never started anew: it does not answer so.
    """

    def start_and_execute(command: bytes) -> bytes:
        response = execute(command)
        startup = STARTUP_WANTED.get(bytes(response))
        if startup is None:
            return response
        execute(startup)  # what it says does not matter: another program may have been faster
        return execute(command)

    return start_and_execute
