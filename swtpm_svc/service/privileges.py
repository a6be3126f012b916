"""From root to the service's user: started as root only for /dev/cuse, the daemon serves as an ordinary user."""

import os
import pwd

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.wire.values import NamedTuple


class Account(NamedTuple):
    """The user that the daemon runs as."""

    name: str
    uid: int
    gid: int


def find_account(name: str) -> Account:
    """
    Raises:
        VtpmError USER_MISSING
    """
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise VtpmError(
            Code.USER_MISSING,
            f"there is no user {name!r} for the service to run as",
            remedy="make it: systemd-sysusers vtpm.conf; or name another with --user",
        ) from None
    return Account(name, entry.pw_uid, entry.pw_gid)


def become(account: Account) -> None:
    """From root to `account`, for good."""
    os.initgroups(account.name, account.gid)  # the control group, to which the control socket is given
    os.setresgid(account.gid, account.gid, account.gid)
    os.setresuid(account.uid, account.uid, account.uid)
