"""A TPM made as a manufacturer would, and its state put where the configuration says: `vtpmctl create`, and
[provision]."""

import os
from typing import Callable, Optional

from swtpm_svc.config.loading import Config
from swtpm_svc.errors import VtpmError
from swtpm_svc.provision import factory
from swtpm_svc.provision.factory import Ownership
from swtpm_svc.provision.issuer import Issuer
from swtpm_svc.provision.manufacture import Made, Order
from swtpm_svc.service.privileges import find_account
from swtpm_svc.state import keys, newborn
from swtpm_svc.state.filling import Owner
from swtpm_svc.state.keys import Trusted
from swtpm_svc.state.newborn import Place


def place_of(config: Config, user: str) -> Place:
    """Where the state goes.

    What root makes goes to the owner of the directory, if there is one already (systemd makes it), or else to `user`.
    """
    base, name = os.path.split(config.state.directory)
    try:
        found = os.lstat(config.state.directory)
    except OSError:
        found = None
    if found is not None and found.st_uid != 0:
        return Place(base, name, Owner(found.st_uid, found.st_gid))
    if os.geteuid() != 0 or user == "root":
        return Place(base, name, Owner(os.geteuid(), os.getegid()))
    account = find_account(user)
    return Place(base, name, Owner(account.uid, account.gid))


def provision(
    config: Config,
    user: str,
    *,
    warn: Callable[[VtpmError], None],
    ownership: Optional[Ownership] = None,
    finish: Optional[Callable[[], None]] = None,
) -> "list[Made]":
    """Make the TPM that [provision] describes, whether it is enabled or not. A state that is there is left as it is.

    `finish` writes what else belongs to a new TPM; until it has returned the TPM counts as unused. `warn` is told what
    went wrong without keeping the TPM from being made.

    Raises:
        VtpmError ALREADY_PROVISIONED: there is a state.
            USER_MISSING, INSTALLATION, CA_UNUSABLE, CA_SIGNER, KEY_UNUSABLE, TPM_REFUSED, STATE_*.
            There is then no state, or (from `finish`) one that the next one replaces.
    """
    found, wanted = place_of(config, user), config.provision
    newborn.refuse_existing(found)
    trusted = Trusted((found.owner.uid,), (found.owner.gid,))
    key = keys.load(config.state.key, trusted) if config.state.key else None
    issuer = None
    if wanted.certificates:
        platform = (
            wanted.platform_manufacturer,
            wanted.platform_model,
            wanted.platform_version,
            wanted.platform_serial,
        )
        issuer = Issuer(wanted.ca, platform)
    order = Order(wanted.endorsement_keys, wanted.pcr_banks, wanted.storage_key, wanted.idevid, wanted.iak)
    product = factory.make(config.tpm.version, order, issuer, ownership, profile=config.tpm.profile)
    complaint = issuer.complaint() if issuer is not None else None
    if complaint is not None:
        warn(complaint)
    newborn.install(found, config.tpm.version, product.state, key, finish)
    return product.made
