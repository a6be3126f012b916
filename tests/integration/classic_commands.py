"""The old command names in a folder for PATH: launchers as `make install COMPAT=1` writes them, over the tree's own
code."""

import runpy
from pathlib import Path

INSTALLER = runpy.run_path(str(Path(__file__).resolve().parents[2] / "tools/install_package.py"))
#: What each name calls, as `module:function`.
COMMANDS = INSTALLER["commands_of"](INSTALLER["CLASSIC_COMMANDS"])


def commands_directory(tmp_path):
    """A folder with a launcher for each name."""
    directory = Path(tmp_path) / "classic-commands"
    INSTALLER["install_commands"](COMMANDS, directory)
    return directory
