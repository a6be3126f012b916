"""The pages of docs/ whose commands need neither root nor systemd, typed as they are printed."""

import os
import subprocess
import sys

import pytest
from documented import WITHOUT_ROOT, blocks

BIN = os.path.dirname(sys.executable)


BLOCKS = [block for page in WITHOUT_ROOT for block in blocks(page)]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
def test_a_block_works_as_it_is_printed(block, tmp_path):
    assert block.is_typed
    assert "sudo" not in "\n".join(block.lines)
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    words = ["bash", "-e", "-o", "pipefail", "-c", "\n".join(block.commands)]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout
