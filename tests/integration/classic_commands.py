"""The old command names in a folder for PATH: launchers as `make install COMPAT=1` writes them, over the tree's own
code, which need not be installed (a package's %check)."""

import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INSTALLER = runpy.run_path(str(ROOT / "tools/install_package.py"))
#: What each name calls, as `module:function`.
COMMANDS = INSTALLER["commands_of"](INSTALLER["CLASSIC_COMMANDS"])


def commands_directory(tmp_path):
    """A folder with a launcher for each name."""
    directory = Path(tmp_path) / "classic-commands"
    INSTALLER["install_commands"](COMMANDS, directory)
    for launcher in directory.iterdir():
        launcher.write_text(
            launcher.read_text().replace("import sys\n", f"import sys\n\nsys.path.insert(0, {str(ROOT)!r})\n")
        )
    return directory
