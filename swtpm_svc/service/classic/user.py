"""From root to the user that a classic command is to run as."""

import os

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.wire.hints import Optional

#: (uid_t) -1: of calls that set a user or group.
_UNCHANGED = (1 << 32) - 1


def become(user: str) -> None:
    """For good. A name brings its groups along; of a number the group has the same one (swtpm(8), --runas).

    Raises:
        VtpmError USER_MISSING; OSError: it may not.
    """
    if not user:
        return
    uid, gid = find(user)
    if user.isascii() and user.isdigit():
        os.setgroups([])
    else:
        os.initgroups(user, gid)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def find(user: str) -> "tuple[int, int]":
    """Number and group. Raises: VtpmError USER_MISSING."""
    if user.isascii() and user.isdigit():
        found = number(user)
        if found is None:
            raise _missing(user)
        return found, found
    import pwd

    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise _missing(user) from None
    return entry.pw_uid, entry.pw_gid


def number(digits: str) -> Optional[int]:
    """The user or group of that number; None: there can be none, as the largest one means "unchanged" to the kernel."""
    significant = digits.lstrip("0") or "0"
    return int(significant) if len(significant) <= len(str(_UNCHANGED)) and int(significant) < _UNCHANGED else None


def _missing(user: str) -> VtpmError:
    cause = f"User '{user}' does not exist."
    return VtpmError(Code.USER_MISSING, cause, remedy="name one that is there: getent passwd")
