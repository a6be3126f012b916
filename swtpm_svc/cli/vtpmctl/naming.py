"""What a remedy calls a TPM that was named on the command line: so that the command in it can be typed as it stands.

Not all commands take what this one took. A data socket or a TCP port is of no use to `vtpmctl init`: it gets the
instance to which the configurations say that it belongs.
"""

import re

from swtpm_svc.cli.command import Given
from swtpm_svc.cli.tpm_connection import tcti
from swtpm_svc.cli.tpm_control import Target
from swtpm_svc.cli.vtpmctl.commands import PROGRAM
from swtpm_svc.errors import NAME, VtpmError, quote

#: For a TPM that has no configuration here and was reached by something that takes TPM commands only: nobody knows
#: these.
UNKNOWN_DEVICE, UNKNOWN_INSTANCE = "ITS-CONTROL-SOCKET", "ITS-INSTANCE"
_COMMAND = re.compile(rf"\bvtpmctl ((?:power )?[a-z-]+) {NAME}")
_TAKE_COMMANDS = (Given.TPM, Given.STARTED_TPM, Given.WATCHED_TPM)


def name(error: VtpmError, target: Target, *, takes_control: bool) -> None:
    """Put names into the remedy. `takes_control`: what the target leads to takes control requests, too."""
    if error.remedy is None:
        return
    error.remedy = _COMMAND.sub(
        lambda found: found[0].replace(NAME, _word(found[1], target, takes_control=takes_control)), error.remedy
    )
    error.of((target.serving_instance or UNKNOWN_INSTANCE) if NAME in error.remedy else "", tcti(target))


def _word(command: str, target: Target, *, takes_control: bool) -> str:
    given = PROGRAM.find(*command.split()).given
    if target.instance is not None or given in _TAKE_COMMANDS or (given is Given.DEVICE and takes_control):
        return quote(target.name)
    return quote(target.serving_instance or (UNKNOWN_DEVICE if given is Given.DEVICE else UNKNOWN_INSTANCE))
