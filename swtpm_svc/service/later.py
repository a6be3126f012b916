"""What the daemon imports when it first needs it, so that a start is short (decisions/0024), named once.

A daemon that leaves root for a user who cannot read its modules (an administrator's own copy in /root) imports all of
it before.
"""

import os
import sys

from swtpm_svc.config.loading import Config
from swtpm_svc.service.privileges import Account

#: For the status and the handover, the journal, the end of a start that failed, the identity of the TPM, and a
#: configuration that is read anew and wrong.
MODULES = (
    *(("tomllib",) if sys.version_info >= (3, 11) else ("tomli",)),
    "json",
    "difflib",
    "re",
    "socket",
    "termios",
    "threading",
    "unicodedata",
    "systemd._journal",
    "swtpm_svc.frontends.managed_tpm",
    "swtpm_svc.frontends.sockets.mssim_channel",
    "swtpm_svc.provision.ek_templates",
    "swtpm_svc.provision.subject_public_key",
    "swtpm_svc.provision.tpm2_owner",
    "swtpm_svc.state.state_file",
    "swtpm_svc.tpm.profiles",
    "swtpm_svc.wire.pcr_banks",
    "swtpm_svc.wire.public_key",
    "swtpm_svc.wire.tpm_properties",
)


def is_readable_by(account: Account) -> bool:
    """May `account` read our modules and the interpreter's? Root calls this, and has the groups of `account` from then
    on."""
    places = [place for place in (__file__, *sys.path) if os.path.exists(place)]
    os.initgroups(account.name, account.gid)
    os.setegid(account.gid)
    os.seteuid(account.uid)
    try:
        return all(os.access(place, os.R_OK, effective_ids=True) for place in places)
    finally:
        os.seteuid(0)
        os.setegid(0)


def import_all(config: Config) -> None:
    """
    Raises:
        VtpmError FUSE_UNAVAILABLE
    """
    from importlib import import_module

    for name in MODULES:
        import_module(name)
    if config.state.key or config.state.migration_key:
        from swtpm_svc.state.encryption import StateKey

        StateKey(bytes(16))  # what a key brings with it
    if config.log.pcap != "none":
        import_module("swtpm_svc.service.capture")
    if config.fuse.enabled:
        from swtpm_svc.frontends.fuse import fuse_frontend

        fuse_frontend.load()
