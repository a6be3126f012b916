"""The configuration files of swtpm_setup and swtpm_localca: `key = value`, a line each."""

import os
import re
from typing import Optional

_LINE = re.compile(r"([A-Za-z0-9_:.-]+)[ \t]*=[ \t]*(.*?)[ \t]*")
_VARIABLE = re.compile(r"\$\{([^}]*)\}")


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
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            found = _LINE.fullmatch(line.partition("#")[0].rstrip("\r\n"))
            if found is not None:
                values.setdefault(found[1], _VARIABLE.sub(_value, found[2]))
    return values


def _value(found: "re.Match[str]") -> str:
    return os.environ.get(found[1], "")
