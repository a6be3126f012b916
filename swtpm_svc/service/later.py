"""What the daemon imports when it first needs it, so that a start is short (design D12), named once.

A daemon that leaves root for a user to whom its modules are closed, such as that of an administrator's own copy in /root,
imports all of it before.
"""

import os
import sys
from importlib import import_module

from swtpm_svc.service.config import Config

#: For the status and the handover, the journal, the identity of the TPM, and a configuration that is read anew and wrong.
MODULES = (
    *(("tomllib",) if sys.version_info >= (3, 11) else ("tomli",)),
    "json",
    "difflib",
    "systemd._journal",
    "swtpm_svc.provision.ek_templates",
    "swtpm_svc.provision.public_key",
    "swtpm_svc.provision.tpm2",
    "swtpm_svc.wire.public_key",
)


def is_readable() -> bool:
    """May the user that this process is now read the modules?"""
    return os.access(__file__, os.R_OK)


def import_all(config: Config) -> None:
    """
    Raises:
        VtpmError FUSE_UNAVAILABLE
    """
    for name in MODULES:
        import_module(name)
    if config.state.key or config.state.migration_key:
        from swtpm_svc.state.encryption import StateKey

        StateKey(bytes(16))  # what a key brings with it
    if config.fuse.enabled:
        from swtpm_svc.frontends import fusefs

        fusefs.load()
