"""From root to the user that a classic command is to run as."""

import os

from swtpm_svc.errors import Code, VtpmError


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
        return int(user), int(user)
    import pwd

    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        cause = f"User '{user}' does not exist."
        raise VtpmError(Code.USER_MISSING, cause, remedy="name one that is there: getent passwd") from None
    return entry.pw_uid, entry.pw_gid
