"""The configuration files of swtpm_setup and swtpm_localca: `key = value`, a line each."""

import errno
import os
import re
from typing import Optional

from swtpm_svc.state import named_files

_LINE = re.compile(r"([A-Za-z0-9_:.-]+)[ \t]*=[ \t]*(.*?)[ \t]*")
_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_MAX_BYTES = 1 << 20


def find(name: str) -> str:
    """The file of that name in $XDG_CONFIG_HOME, $HOME/.config or /etc: the first that can be read, or the last."""
    path = ""
    for folder in folders():
        path = os.path.join(folder, name)
        if os.access(path, os.R_OK):
            return path
    return path


def folders() -> "list[str]":
    """Where such files are looked for, in order."""
    return [*([own] if (own := own_folder()) else []), "/etc"]


def own_folder() -> Optional[str]:
    """The user's; None: the environment names none."""
    if os.environ.get("XDG_CONFIG_HOME"):
        return os.environ["XDG_CONFIG_HOME"]
    return os.path.join(os.environ["HOME"], ".config") if os.environ.get("HOME") else None


def read(path: str) -> "dict[str, str]":
    """The values by key; of two lines with one key the first one counts. ${NAME} is the environment's.

    Raises:
        OSError.
    """
    values: dict[str, str] = {}
    for line in read_text(path).split("\n"):
        found = _LINE.fullmatch(line.partition("#")[0].rstrip("\r\n"))
        if found is not None:
            values.setdefault(found[1], _VARIABLE.sub(_value, found[2]))
    return values


def read_text(path: str) -> str:
    """All of a configuration file; of a device that never ends the beginning.

    Raises:
        OSError: it cannot be read, or is not text.
    """
    text = named_files.read_input(path, _MAX_BYTES).decode("utf-8", "surrogateescape")
    if "\0" in text:  # no path and no option can have it
        raise OSError(errno.EINVAL, "it is not text", path)
    return text


def _value(found: "re.Match[str]") -> str:
    return os.environ.get(found[1], "")
