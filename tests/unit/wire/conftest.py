"""A C compiler as the judge of struct layouts and numbers."""

import shutil
import subprocess

import pytest


@pytest.fixture(scope="session")
def run_c(tmp_path_factory):
    """run_c(source, *options): compile and run a C program; its output, a list of words for each line."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler (gcc)")

    def run(source, *options):
        folder = tmp_path_factory.mktemp("c")
        (folder / "program.c").write_text(source)
        command = [compiler, *options, "-Wall", "-o", str(folder / "program"), str(folder / "program.c")]
        built = subprocess.run(command, capture_output=True, text=True, check=False)
        assert built.returncode == 0, built.stderr
        output = subprocess.run([str(folder / "program")], capture_output=True, text=True, check=True).stdout
        return [line.split() for line in output.splitlines()]

    return run
