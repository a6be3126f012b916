"""From root to the service's user: started as root only for /dev/cuse, the daemon serves as an ordinary user."""

import os
import pwd
from typing import NamedTuple, Optional

from swtpm_svc.errors import Code, VtpmError


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


class Privileges:
    """Root's rights, as long as they are needed. Everything but `with privileges.raised():` runs as `account`."""

    def __init__(self, account: Optional[Account]) -> None:
        self._account = account
        if account is not None:
            os.initgroups(account.name, account.gid)  # the control group, to which the control socket is given
            os.setresgid(account.gid, account.gid, account.gid)
            os.setresuid(account.uid, account.uid, 0)

    def drop(self) -> None:
        """For good."""
        if self._account is not None:
            os.setresuid(self._account.uid, self._account.uid, self._account.uid)
            self._account = None

    def raised(self) -> "_Raised":
        """Root once more, before `drop`."""
        return _Raised(needed=self._account is not None)


class _Raised:
    def __init__(self, *, needed: bool) -> None:
        self._needed = needed
        self._user = os.geteuid()

    def __enter__(self) -> None:
        if self._needed:
            os.seteuid(0)

    def __exit__(self, *_exc: object) -> None:
        if self._needed:
            os.seteuid(self._user)
