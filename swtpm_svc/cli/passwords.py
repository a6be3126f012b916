"""Where a password comes from: a file, a descriptor, a credential of systemd, or the person at the terminal.

A password is one line of bytes as they are, without its end, which is a newline or, from an editor of Windows, CR and
newline. It is never asked for on the command line, where every user of the machine can see it (ps); `-pwdo` of the
classic tools is taken, with a warning.
"""

import os
import sys
from typing import Any, NamedTuple, Optional

from swtpm_svc.cli import output
from swtpm_svc.cli.command import Argument, Offer
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.state import named_files

#: No password is longer; what a wrong file name must not pull into memory.
MAX_BYTES = 4096
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

#: The classic tools' option that has the owner's password itself.
CLASSIC_OPTION = "-pwdo"


def arguments(role: str) -> "tuple[Argument, ...]":
    """The options that say where the password of `role` is: owner or srk."""
    option = f"--{role}-password"
    whose = "the owner's password" if role == "owner" else "the storage root key's password"
    result: tuple[Argument, ...] = (
        Argument((f"{option}-file",), f"a file with {whose}", "FILE", Offer.FILE),
        Argument((f"{option}-fd",), f"an open descriptor with {whose}", "N", type=int),
        Argument((f"{option}-credential",), f"a systemd credential with {whose}", "ID"),
    )
    if role == "owner":
        result += (Argument((CLASSIC_OPTION,), f"{whose} itself, which all users can then see", "PASSWORD"),)
    return result


class Password(NamedTuple):
    """What the command line says about one password."""

    role: str
    file: Optional[str] = None
    fd: Optional[int] = None
    credential: Optional[str] = None
    word: Optional[str] = None

    @classmethod
    def of(cls, role: str, values: "dict[str, Any]") -> "Password":
        """Take the options that `arguments` has made out of `values`."""
        word = values.pop(CLASSIC_OPTION[1:], None) if role == "owner" else None
        file, fd, credential = (values.pop(f"{role}_password_{way}", None) for way in ("file", "fd", "credential"))
        return cls(role, file, fd, credential, word)

    def given(self) -> Optional[bytes]:
        """The password; None if the command line says nothing about one.

        Raises:
            VtpmError USAGE, STATE_MISSING, STATE_UNREADABLE, TOO_LARGE: it says more than one thing, or it cannot be
                had.
        """
        ways = [way for way in self[1:] if way is not None]
        if not ways:
            return None
        if len(ways) > 1:
            raise self._wrong("is given in more than one way")
        if self.word is not None:
            warning = (
                f"vtpmctl: warning: other users can see the password in {CLASSIC_OPTION}; use --owner-password-file\n"
            )
            output.write(sys.stderr, warning)
            return self._checked(os.fsencode(self.word))
        if self.fd is not None:
            return self._checked(self._read(self.fd, f"descriptor {self.fd}"))
        path = self.file if self.file is not None else self._credential_path(str(self.credential))
        try:
            descriptor = named_files.open_input(path)
        except OSError as error:
            raise self._unreadable(path, error) from error
        try:
            return self._checked(self._read(descriptor, path))
        finally:
            os.close(descriptor)

    def required(self, *, confirm: bool = False) -> bytes:
        """The password; if the command line says nothing, the person at the terminal is asked, twice to `confirm`.

        Raises:
            VtpmError: as given(); USAGE: nobody can be asked.
        """
        found = self.given()
        if found is not None:
            return found
        if sys.stdin is None or not sys.stdin.isatty():
            raise self._wrong("is needed")
        first = self._ask(f"{self._title} password: ")
        if confirm and self._ask(f"{self._title} password, again: ") != first:
            raise self._wrong("was not typed the same twice")
        return self._checked(first)

    @property
    def _title(self) -> str:
        return "Owner" if self.role == "owner" else "SRK"

    def _ask(self, prompt: str) -> bytes:
        import getpass

        try:
            return os.fsencode(getpass.getpass(prompt))
        except EOFError as error:
            raise self._wrong("is needed") from error

    def _credential_path(self, name: str) -> str:
        directory = os.environ.get("CREDENTIALS_DIRECTORY")
        if not directory:
            raise VtpmError(
                Code.USAGE,
                "there are no credentials here: $CREDENTIALS_DIRECTORY is not set",
                remedy="see systemd.exec(5)",
            )
        if "/" in name or name in ("", ".", ".."):
            raise VtpmError(
                Code.USAGE, f"{name!r} is not a name for a credential", remedy="give the ID of LoadCredential="
            )
        return os.path.join(directory, name)

    def _read(self, descriptor: int, place: str) -> bytes:
        content = b""
        try:
            while len(content) <= MAX_BYTES and (piece := os.read(descriptor, MAX_BYTES + 1 - len(content))):
                content += piece
        except (OSError, OverflowError) as error:
            raise self._unreadable(place, error) from error
        if len(content) > MAX_BYTES:
            raise VtpmError(
                Code.TOO_LARGE,
                f"{place} has more than {MAX_BYTES} bytes, which is not a password",
                remedy="name another file",
            )
        line = content[:-1] if content.endswith(b"\n") else content
        line = line[:-1] if line != content and line.endswith(b"\r") else line
        if b"\n" in line:
            raise VtpmError(
                Code.USAGE, f"{place} has more than one line, which is not a password", remedy="leave one line in it"
            )
        if line.startswith(_BYTE_ORDER_MARK):
            raise VtpmError(
                Code.USAGE,
                f"{place} begins with a byte order mark, which nobody types",
                remedy="save it as UTF-8 without one",
            )
        return line

    def _checked(self, password: bytes) -> bytes:
        if not password:
            raise self._wrong("is empty")
        return password

    def _unreadable(self, place: str, error: Exception) -> VtpmError:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        code = Code.STATE_MISSING if isinstance(error, FileNotFoundError) else Code.STATE_UNREADABLE
        return VtpmError(
            code, f"the password cannot be read from {place} ({reason})", remedy="name a file that you may read"
        )

    def _wrong(self, what: str) -> VtpmError:
        ways = f"--{self.role}-password-file, -fd or -credential, or type it at a terminal"
        return VtpmError(Code.USAGE, f"the {self._title} password {what}", remedy=f"give it in one way: {ways}")
