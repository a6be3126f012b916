"""What only root can do for an instance, before its sandboxed daemon starts and after it ended.

    vtpm-attach start|stop NAME      (ExecStartPre=+ and ExecStopPost=+ of vtpm@.service)

It makes the TPM itself where there is none yet and [provision] says so: a daemon should not be able to reach the CA's
key. And it makes the kernel's TPM ([vtpm-proxy]) and the mount ([fuse]), and leaves their descriptors with systemd,
which passes them to the daemon. A failure is told in the journal, but this program succeeds: the daemon finds nothing
passed, and ends with the exit status that says whether another start can help.
"""

import os
import sys

from swtpm_svc.config import loading as configuration
from swtpm_svc.config.loading import Config
from swtpm_svc.errors import VtpmError, internal
from swtpm_svc.frontends.fuse import mounts
from swtpm_svc.service.kernel_tpm import kernel_tpm
from swtpm_svc.service.systemd.journal import Journal
from swtpm_svc.service.systemd.notify import Notifier
from swtpm_svc.state import newborn

#: What making a TPM may take; an RSA 4096 key on a small machine is the longest part.
PROVISION_TIME_S = 120
USER = "vtpm"


def start(config: Config, notifier: Notifier, journal: Journal) -> None:
    """
    Raises:
        VtpmError KERNEL_TPM_UNAVAILABLE, FUSE_UNAVAILABLE, MOUNT_FAILED; and as provisioning.provision()
    """
    if config.provision.enabled and not config.migration.incoming:  # what comes is made already
        _provision(config, notifier, journal)
    if not config.kernel_tpm.enabled:
        kernel_tpm.forget(config.instance)
    elif not kernel_tpm.has_one(config.instance, config.tpm.version):
        notifier.unpark(kernel_tpm.PARKED_KERNEL_TPM)
        os.close(kernel_tpm.make(config.instance, config.tpm.version, notifier).fd)
    if config.fuse.enabled:
        mounts.make_directory(config.fuse.directory)
        fd = mounts.mount(config.fuse.directory)
        notifier.park(mounts.PASSED_NAME, fd)
        os.close(fd)


def _provision(config: Config, notifier: Notifier, journal: Journal) -> None:
    if not newborn.is_empty(config.state.directory):
        return
    from swtpm_svc.service import provisioning  # libtpms and the CA: nothing that every start should wait for

    notifier.extend_timeout(PROVISION_TIME_S)
    notifier.status(f"Making a new TPM {config.tpm.version}, with its keys and certificates")
    made = provisioning.provision(config, USER, warn=lambda error: journal.error(error, level="warning"))
    what = ", ".join(one.label for one in made)
    journal.log("notice", f"{config.state.directory} was empty: a new TPM {config.tpm.version} was made, with {what}")


def stop(config: Config, notifier: Notifier, _journal: Journal) -> None:
    """Unmount: a mount that nobody serves, but whose descriptor somebody has, keeps everybody waiting who looks at it.

    Raises:
        VtpmError MOUNT_FAILED
    """
    notifier.unpark(mounts.PASSED_NAME)
    mounts.unmount(config.fuse.directory)


def main(arguments: "list[str]") -> int:
    verbs = {"start": start, "stop": stop}
    if len(arguments) != 2 or arguments[0] not in verbs:
        sys.stderr.write("usage: vtpm-attach start|stop NAME\n")
        return 64
    verb, instance = arguments
    try:
        config = configuration.load(configuration.default_path(instance), instance)
    except VtpmError:
        return 0  # the daemon says what is wrong with it
    journal = Journal(instance, config.tpm.version, "info", to_stderr=False)
    try:
        verbs[verb](config, Notifier(), journal)
    except VtpmError as error:
        journal.error(error)
    except Exception as error:  # whatever is found in a directory that is another user's: an entry, not a traceback
        journal.error(internal(f"at vtpm-attach {verb}", error))
    journal.wait_until_taken()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
