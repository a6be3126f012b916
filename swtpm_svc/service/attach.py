"""What only root can do for an instance, before its sandboxed daemon starts and after it ended.

    vtpm-attach start|stop NAME      (ExecStartPre=+ and ExecStopPost=+ of vtpm@.service)

It makes the kernel's TPM ([vtpm-proxy]) and leaves the descriptor with systemd, which passes it to the daemon. A failure
is told in the journal and is no failure here: the daemon finds nothing passed, and ends with the exit status that says
whether another start can help.
"""

import os
import sys

from swtpm_svc.errors import VtpmError
from swtpm_svc.service import config as configuration
from swtpm_svc.service import kernel_tpm
from swtpm_svc.service.config import Config
from swtpm_svc.service.journal import Journal
from swtpm_svc.service.notify import Notifier


def start(config: Config, notifier: Notifier) -> None:
    """
    Raises:
        VtpmError KERNEL_TPM_UNAVAILABLE
    """
    if config.vtpm_proxy.enabled and not kernel_tpm.has_one(config.instance, config.tpm.version):
        notifier.unpark(kernel_tpm.PARKED_KERNEL_TPM)
        os.close(kernel_tpm.make(config.instance, config.tpm.version, notifier).fd)


def main(arguments: "list[str]") -> int:
    if len(arguments) != 2 or arguments[0] not in ("start", "stop"):
        sys.stderr.write("usage: vtpm-attach start|stop NAME\n")
        return 64
    verb, instance = arguments
    journal = Journal(instance, "", "info", to_stderr=False)
    try:
        config = configuration.load(configuration.default_path(instance), instance)
        if verb == "start":
            start(config, Notifier())
    except VtpmError as error:
        if verb == "start":
            journal.error(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
