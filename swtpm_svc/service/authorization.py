"""Who may do what (design D9): rights from the kernel's word on who calls."""

import grp
import os
import pwd

from swtpm_svc.service.config_schema import account_number
from swtpm_svc.tpm.controller import Rights
from swtpm_svc.wire.cuse import Caller

_NONE = Rights(control=False, secrets=False)
_CONTROL = Rights(control=True, secrets=False)
_ALL = Rights(control=True, secrets=True)


class Authorization:
    """Looks callers up. `group` is the name or number of the control group and may be changed at any time."""

    def __init__(self, group: str) -> None:
        self.group = group

    def rights(self, caller: Caller) -> Rights:
        """What `caller` may do. Groups are looked up at each request: a user who was added need not wait."""
        if caller.uid in (0, os.geteuid()):
            return _ALL
        return _CONTROL if self._in_group(caller) else _NONE

    def _in_group(self, caller: Caller) -> bool:
        try:
            number = account_number(self.group)
            wanted = grp.getgrnam(self.group).gr_gid if number is None else number
        except KeyError:
            return False  # no such group: nobody is in it
        if caller.gid == wanted:
            return True
        try:
            user = pwd.getpwuid(caller.uid)
        except KeyError:
            return False
        return wanted in os.getgrouplist(user.pw_name, user.pw_gid)
