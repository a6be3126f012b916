"""The launchers that other tests put first in PATH."""

import os

from classic_commands import COMMANDS, commands_directory


def test_each_name_has_a_launcher(tmp_path):
    directory = commands_directory(tmp_path)
    assert {name for name in COMMANDS if os.access(directory / name, os.X_OK)} == set(COMMANDS)
