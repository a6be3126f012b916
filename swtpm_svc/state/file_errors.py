"""What a failed system call on a state's file is to the person who must mend it: its cause in words, and the remedy."""

import errno
import os
import stat

from swtpm_svc.errors import Code, VtpmError, quote
from swtpm_svc.wire.hints import Optional

UNTOUCHED = "nothing was changed"
#: What there is to do when a system call has failed. {path}: what it was about; {folder}: where that is.
_REMEDIES = {
    errno.ENOSPC: "make room on its file system",
    errno.EDQUOT: "make room, or have the quota raised",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f, LimitFSIZE=)",
    errno.EROFS: (
        "mount its file system read-write; where the service alone may not write to it: BindPaths=, vtpm@.service(8)"
    ),
    errno.EBUSY: "see what is mounted there: findmnt -T {path}; name another directory, or one below it",
    errno.ENOENT: "mount what belongs there, or make the directory that is missing: mkdir -p {folder}",
    errno.ENOTDIR: "see what is in the place of a directory: ls -ld {folder} {path}",
    errno.EISDIR: "see what the directory in its place is: ls -la {path}; then move it away",
    errno.ELOOP: (
        "see where the link leads: ls -l {path}; put the file itself there if it is the TPM's own, else remove the link"
    ),
}
_DISK = "see the kernel's log (journalctl -k) for a failing disk"
#: The files that a TPM's directory has (store.py, lock.py), and how many a remedy names.
_OURS = ("tpm-00.", "tpm2-00.", "TMP-00.", "TMP2-00.", ".lock", "identity.json")
_NAMED_MAX = 8


def write_error(path: str, error: OSError, *, is_kept: bool = False, denied: Optional[str] = None) -> VtpmError:
    """What a failed write of `path` is to the person who must mend it.

    `is_kept`: what was there before is there still. `denied`: the remedy for missing rights, where they are not the
    service's.
    """
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    remedy = _remedy(path, error, denied) + ("; the state is as it was before" if is_kept else "")
    code = Code.STATE_FULL if full else Code.STATE_UNWRITABLE
    return VtpmError(code, f"{path} cannot be written: {_cause(path, error, denied)}", remedy=remedy)


def read_error(path: str, error: OSError, *, denied: Optional[str] = None) -> VtpmError:
    """The same of a failed read."""
    remedy = f"{_remedy(path, error, denied)}; {UNTOUCHED}"
    return VtpmError(Code.STATE_UNREADABLE, f"{path} cannot be read: {_cause(path, error, denied)}", remedy=remedy)


def _cause(path: str, error: OSError, denied: Optional[str]) -> str:
    if error.errno == errno.ELOOP:
        return "it is a symbolic link"
    words = os.strerror(error.errno or 0)
    return f"{words}{_whose(path)}" if error.errno == errno.EACCES and os.geteuid() != 0 and denied is None else words


def _whose(path: str) -> str:
    """What is wrong with a file that another user has put there, most often root from a backup."""
    try:
        found = os.stat(path, follow_symlinks=False)
    except OSError:
        return ""
    if found.st_uid == os.geteuid():
        return ""
    return (
        f": it belongs to {_user(found.st_uid)}, mode {stat.S_IMODE(found.st_mode):04o}, and this runs as "
        f"{_user(os.geteuid())}"
    )


def _user(uid: int) -> str:
    import pwd  # only ever on the way out with an error

    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"


def _remedy(path: str, error: OSError, denied: Optional[str]) -> str:
    folder = os.path.dirname(path)
    if error.errno in (errno.EACCES, errno.EPERM):
        there = path if os.path.lexists(path) else folder
        if os.geteuid() == 0:
            return (
                f"see what keeps root from it: ls -ldZ {quote(there)}; lsattr -d {quote(there)}; findmnt -T "
                f"{quote(there)}"
            )
        if os.getuid() == 0:  # newborn.py
            owner = f"root acts as user {os.geteuid()} there, whose directory it is"
            return f"{owner}: see what keeps that user from it: namei -l {quote(path)}; or name another directory"
        return denied or _make_ours(path)
    if error.errno == errno.ENOENT and os.path.isdir(folder):
        folder = path
    return _REMEDIES.get(error.errno or 0, _DISK).format(path=quote(path), folder=quote(folder))


def is_person(uid: int) -> bool:
    """Is it somebody's own account, not one that a service runs as (UID_MIN and UID_MAX, login.defs(5))?

    To a person no remedy gives what the service has, or root.
    """
    return 1000 <= uid <= 60000


def _make_ours(path: str) -> str:
    """What root can do, so that this process may use `path`.

    Never for everything below a directory, or for a directory above the one in question: there are other TPMs there.
    Nor is a third user's file given away. A file is named together with the others beside it that are root's: they came
    together.
    """
    try:
        found = os.lstat(path)
    except OSError:
        return f"see which directory is in the way: namei -l {quote(path)}"
    ours = os.geteuid()
    if found.st_uid == ours:
        rights = "rwx" if stat.S_ISDIR(found.st_mode) else "rw"
        lacks = ~found.st_mode & (0o700 if stat.S_ISDIR(found.st_mode) else 0o600)
        return (
            f"give them to its owner: chmod u+{rights} {quote(path)}"
            if lacks
            else f"see what is in the way: namei -l {quote(path)}"
        )
    if found.st_uid != 0 or is_person(ours) or os.path.islink(path):
        if os.getuid() == 0:
            return (
                f"root acts as user {ours} there, and it belongs to user {found.st_uid}; see why: ls -l {quote(path)}"
            )
        return f"it belongs to user {found.st_uid}: run this as that user, or as root, or name another directory"
    names = [path] if stat.S_ISDIR(found.st_mode) else _like(path)
    return f"give it to the user that this runs as: chown -h {ours}:{os.getegid()} {' '.join(map(quote, names))}"


def _like(path: str) -> "list[str]":
    folder = os.path.dirname(path)
    try:
        beside = [entry.path for entry in os.scandir(folder) if _is_roots(entry)]
    except OSError:
        beside = []
    return sorted({path, *beside})[:_NAMED_MAX]


def _is_roots(entry: "os.DirEntry[str]") -> bool:
    found = entry.stat(follow_symlinks=False)
    return stat.S_ISREG(found.st_mode) and found.st_uid == 0 and found.st_nlink == 1 and entry.name.startswith(_OURS)
