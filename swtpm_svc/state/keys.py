"""Where a key for state comes from: a file, a credential of systemd, a descriptor; and what is there.

A key that others can read, or that somebody else could have put there, is refused: what it protects is then not
protected. No error says anything of what a key's bytes are.
"""

import os
import stat

from swtpm_svc.errors import Code, VtpmError, quote
from swtpm_svc.state import encryption
from swtpm_svc.state.encryption import KDFS, MODES, BadKey, StateKey
from swtpm_svc.state.file_errors import is_person
from swtpm_svc.wire.hints import Optional
from swtpm_svc.wire.values import NamedTuple

#: What a source may hold: a key in one of two forms (swtpm's format=), or a passphrase for one of two derivations (its
#: kdf=).
FORMATS = ("hex", "binary", *KDFS)
#: swtpm's, for a passphrase of which nothing else is said.
DEFAULT_MODE = "aes-cbc"
DEFAULT_KDF = "pbkdf2"
_MAX_BYTES = 64 * 1024
_UNTOUCHED = "the state was not touched"
#: A file that holds a key or a passphrase, and nothing else, is not larger than this.
_KEY_MAX_BYTES = 512


class Source(NamedTuple):
    """One key: `kind` is file, credential or fd, `name` its path, name or number.

    `mode` is one of encryption.MODES; None: the one that a key's length says, for a passphrase DEFAULT_MODE.
    """

    kind: str
    name: str
    format: str
    mode: Optional[str] = None

    def __str__(self) -> str:
        return self.name if self.kind == "file" else f"{self.kind} {self.name}"


class Trusted(NamedTuple):
    """Whose a key's file may be, and which group may read it, besides root and the process's own."""

    uids: tuple[int, ...] = ()
    gids: tuple[int, ...] = ()


NOBODY_ELSE = Trusted()


def load(source: Source, trusted: Trusted = NOBODY_ELSE) -> StateKey:
    """
    Raises:
        VtpmError KEY_UNUSABLE: there is none, it may not be read, others may read it, or it is not a key.
    """
    return make(_read(source, trusted), source)


def make(content: bytes, source: Source) -> StateKey:
    """The key in `content`, which came from `source`. Raises: VtpmError KEY_UNUSABLE."""
    try:
        if source.format in KDFS:
            return encryption.from_passphrase(content, source.format, source.mode or DEFAULT_MODE)
        key = encryption.from_hex(content) if source.format == "hex" else StateKey(content)
    except BadKey as error:
        expected = {"hex": "a key as hex digits", "binary": "a key as it is"}.get(source.format, "a passphrase")
        raise unusable(
            f"{source} holds no key: expected {expected} (format {source.format}), but {error}",
            "correct it, or say in which format it is: hex, binary, pbkdf2 or sha512",
        ) from None
    if source.mode and key.mode != source.mode:
        raise unusable(
            f"{source} holds a key for {key.mode}, but {source.mode} is asked for",
            f"give a key of {MODES[source.mode]} bytes, or ask for {key.mode}",
        )
    return key


def unusable(cause: str, remedy: str) -> VtpmError:
    return VtpmError(Code.KEY_UNUSABLE, cause, remedy=f"{remedy}; {_UNTOUCHED}")


def _read(source: Source, trusted: Trusted) -> bytes:
    try:
        if source.kind == "fd":
            return _read_fd(int(source.name))
        path = _path(source)
        # O_NONBLOCK: a FIFO in the way is an error, not a daemon that waits for ever
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            _refuse_unsafe(source, path, os.fstat(fd), trusted)
            return _read_fd(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise unusable(f"the key cannot be read: {source}: {error.strerror}", _remedy(source, error)) from None


def _read_fd(fd: int) -> bytes:
    content = b""
    while len(content) <= _MAX_BYTES:
        piece = os.read(fd, _MAX_BYTES + 1 - len(content))
        if not piece:
            return content
        content += piece
    raise unusable(
        f"descriptor {fd} gives more than {_MAX_BYTES} bytes; no key is that large", "pass the one that gives the key"
    )


def _path(source: Source) -> str:
    if source.kind == "file":
        return source.name
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        raise unusable(
            f"there is no credential {source.name}: this process was given none",
            f"have systemd pass it: LoadCredentialEncrypted={source.name} in the unit, or systemd-run -p for a command",
        )
    return os.path.join(directory, source.name)


def _refuse_unsafe(source: Source, path: str, found: os.stat_result, trusted: Trusted) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise unusable(f"{path} is not a regular file", "name the file that holds the key")
    if found.st_size > _MAX_BYTES:
        raise unusable(f"{path} has {found.st_size} bytes; no key is that large", "name the file that holds the key")
    # systemd gives a credential to the service's user by an access control list, which shows as rights of the group
    may_group = source.kind == "credential" or found.st_gid in (0, os.getegid(), *trusted.gids)
    forbidden = 0o027 if may_group else 0o077
    if found.st_mode & forbidden:
        who = (
            "others than its owner"
            if not may_group
            else "everybody"
            if found.st_mode & 0o004
            else "more than its owner"
        )
        raise unusable(
            f"{path} is not secret: its mode is {stat.S_IMODE(found.st_mode):04o}, so {who} can read or change it",
            _hide(source, path, found, "0640" if may_group else "0600"),
        )
    if found.st_uid not in (0, os.geteuid(), *trusted.uids):
        remedy = f"have root keep it: chown -h root {quote(path)}; if that user may have read it, use another key"
        raise unusable(f"{path} belongs to user {found.st_uid}, who could change it", remedy)


def _hide(source: Source, path: str, found: os.stat_result, mode: str) -> str:
    """Only what can be a key is hidden from others: /etc/passwd, named by mistake, stays as it is."""
    if source.kind == "credential":
        return f"have systemd pass it, which keeps it secret: LoadCredentialEncrypted={source.name} in the unit"
    if found.st_size > _KEY_MAX_BYTES:
        return "name the file that holds the key, and nothing else"
    return f"if it is the key: chmod {mode} {quote(path)}; and use another one if it was read"


def _remedy(source: Source, error: OSError) -> str:
    if source.kind == "fd":
        return "pass an open descriptor that can be read"
    if source.kind == "credential":
        return (
            f"have systemd pass it: LoadCredentialEncrypted={source.name} in the unit, or systemd-run -p for a command"
        )
    if isinstance(error, PermissionError):
        path = quote(source.name)
        if os.geteuid() == 0:
            return f"see what keeps root from it: ls -lZ {path}; namei -l {path}"
        if is_person(os.geteuid()):  # who is not to have the service's key
            return "run this as root"
        return (
            f"let the service's user (number {os.geteuid()}) read it, and nobody else: chgrp {os.getegid()} {path};"
            f" chmod 0640 {path}; and come to it: namei -l {path}; or use a credential"
        )
    return "put it there, or name another"
