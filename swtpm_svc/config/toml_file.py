"""A configuration's file: its text, and what a person is told where it cannot be read or is not TOML.

What it says: loading.py.
"""

import os
import stat
import sys

from swtpm_svc.config import plain_toml
from swtpm_svc.errors import Code, VtpmError, quote
from swtpm_svc.wire.hints import Any

CONFIG_DIRECTORY = "/etc/vtpm.d"
FILE_MAX_BYTES = 64 * 1024
#: No key has more than two parts, but each dot of a line costs the parser as much as all before it: 30 000 took it 20
#: s.
LINE_MAX_DOTS = 200


def read(path: str, instance: str) -> str:
    """The text of the file; `instance` is only for the errors.

    Raises:
        VtpmError CONFIG_MISSING, CONFIG_UNREADABLE: there is no such file, or it cannot be read.
        VtpmError CONFIG_INVALID: it is too large, or not text in UTF-8.
    """
    content = _read_bytes(path, instance)
    try:
        return content.decode(
            "utf-8-sig"
        )  # some editors begin a file with a byte order mark, which says nothing in UTF-8
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise VtpmError(
            Code.CONFIG_INVALID,
            f"{path}: line {line}: found the byte 0x{content[error.start]:02x}, expected text in UTF-8",
            remedy=f"save the file as UTF-8, then: vtpmctl check {quote(path)}",
        ) from error


def _read_bytes(path: str, instance: str) -> bytes:
    try:
        # O_NONBLOCK: a FIFO in the way is an error, not a daemon that waits for ever
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            _refuse_special(path, os.fstat(descriptor).st_mode)
            content = b""
            while len(content) <= FILE_MAX_BYTES and (more := os.read(descriptor, FILE_MAX_BYTES + 1 - len(content))):
                content += more  # a file server may give a part, and that may be a configuration, too
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError):
        raise VtpmError(
            Code.CONFIG_MISSING,
            f"{path} does not exist",
            remedy=_missing(path, instance),
        ) from None
    except OSError as error:
        raise VtpmError(Code.CONFIG_UNREADABLE, f"{path}: {error.strerror}", remedy=unreadable(path, error)) from error
    if len(content) > FILE_MAX_BYTES:
        raise VtpmError(
            Code.CONFIG_INVALID,
            f"{path}: found more than {FILE_MAX_BYTES} bytes, expected a configuration of at most that",
            remedy="name a TOML file, see vtpm.d(5)",
        )
    return content


def _missing(path: str, instance: str) -> str:
    folder = os.path.dirname(path)
    make = "" if os.path.isdir(folder or ".") else f"install -d -m 0755 {quote(folder)} && "
    return f"create it; an empty file is a TPM 2.0 at /dev/{instance}: {make}touch {quote(path)}"


def unreadable(path: str, error: OSError) -> str:
    """What there is to do when a configuration, or the directory of all, cannot be read."""
    if not isinstance(error, PermissionError):
        return f"see what is there: ls -ld {quote(path)}"
    if os.geteuid() == 0:
        return f"see what keeps root from it: ls -ldZ {quote(path)}; namei -l {quote(path)}"
    # what lies elsewhere may be anybody's secret, named by mistake
    is_ours = os.path.dirname(path) == CONFIG_DIRECTORY and path.endswith(".toml")
    return f"run this as root, or let it be read: chmod a+r {quote(path)}" if is_ours else "run this as root"


def _refuse_special(path: str, mode: int) -> None:
    if not stat.S_ISREG(mode):
        found = "a directory" if stat.S_ISDIR(mode) else "a special file"
        raise VtpmError(
            Code.CONFIG_UNREADABLE,
            f"{path}: found {found}, expected a file",
            remedy=f"see what it is: ls -ld {quote(path)}; a TOML file is expected there, see vtpm.d(5)",
        )


def parse_toml(text: str, path: str) -> dict[str, Any]:
    """The document. Raises: VtpmError CONFIG_INVALID."""
    plain = plain_toml.read(text)
    if plain is not None:
        return dict(plain)
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        dotted = next((number for number, line in enumerate(text.split("\n"), 1) if _has_many_dots(line)), 0)
        if dotted:
            raise ValueError(
                f"found more than {LINE_MAX_DOTS} dots, expected keys of one or two parts (at line {dotted})"
            )
        document: dict[str, Any] = tomllib.loads(text)
        return document
    except RecursionError:
        cause = "nested too deeply"
    except ValueError as error:  # TOMLDecodeError is one; a number of more than 4300 digits is another
        what, _, where = str(error).partition(" (at ")
        # the parser has a line for everything but "end of document"
        line = where.rstrip(")") if where.startswith("line ") else f"line {text.rstrip().count(chr(10)) + 1}"
        cause = f"{line}: {one_line(what)}{_unseen(text, where)}"
    raise VtpmError(
        Code.CONFIG_INVALID,
        f"{path}: {cause}",
        remedy=f"correct the TOML syntax (strings in quotes), then: vtpmctl check {quote(path)}",
    )


def _has_many_dots(line: str) -> bool:
    return line.count(".") > LINE_MAX_DOTS and not line.lstrip().startswith("#")


def _unseen(text: str, where: str) -> str:
    """What stands at the place of a syntax error, if it does not look like what it is: "line 1, column 1)"."""
    import re  # only on the way out with an error, as unicodedata

    found = re.match(r"line ([0-9]+), column ([0-9]+)", where)
    if not found:
        return ""
    line = [*text.split("\n"), ""][int(found[1]) - 1]
    character = line[int(found[2]) - 1 : int(found[2])]
    if not character or character.isascii():
        return ""
    import unicodedata

    return f", at the character U+{ord(character):04X} ({unicodedata.name(character, 'no name').lower()})"


def one_line(text: str) -> str:
    """Printable, one line, at most 60 characters: an error message is one line whatever stands in the file."""
    printable = repr(text)[1:-1]
    return printable if len(printable) <= 60 else printable[:57] + "..."
