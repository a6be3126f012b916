"""The tests find a place for their files where TMPDIR is not usable, and say so; any umask will do."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
#: A test that says where its files are, and with which rights they are made.
PROGRAM = """
import os, stat
def test_it(tmp_path):
    print("place:", tmp_path)
    (tmp_path / "file").touch()
    assert stat.S_IMODE(os.stat(tmp_path / "file").st_mode) == 0o644
"""


def run(folder, temporary):
    test = folder / "test_it.py"
    test.write_text(PROGRAM)
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-s",
        "-p",
        "no:cacheprovider",
        "-c",
        ROOT / "pyproject.toml",
        f"--rootdir={ROOT}",
    ]
    environment = {
        name: value for name, value in os.environ.items() if name != "HOME" and not name.startswith("PYTEST_")
    }
    done = subprocess.run(
        ["sh", "-c", 'umask 077; exec "$@"', "-", *words, "--confcutdir=/", "-p", "conftest", test],
        env={**environment, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT / "tests")},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="v") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.fixture(scope="module")
def conftest():
    found = importlib.util.spec_from_file_location("tests_conftest", ROOT / "tests/conftest.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "mode", "why"),
    [
        ("ok", 0o755, None),
        ("a b", 0o755, "programs that the tests ask (udevadm, systemd-analyze, evmctl) do not take such a path"),
        ("x" * 20, 0o755, "its path is too long for a socket's"),
        ("c", 0o700, "only its owner can enter it, and some tests are other users too"),
        ("none", None, "No such file or directory"),
    ],
)
def test_what_keeps_tests_from_a_folder(folder, conftest, name, mode, why):
    if mode:
        (folder / name).mkdir()
        (folder / name).chmod(mode)
    assert conftest.misfit(str(folder / name)) == why


def test_swtpm_in_path_is_swtpms_and_not_ours(folder, conftest, monkeypatch):
    """A package's %check has what was built first in PATH, where tests would otherwise have ourselves for a peer."""
    programs = {
        "built/swtpm": "#!/usr/bin/python3\nfrom swtpm_svc.start import swtpm\n",
        "distribution/swtpm": "\x7fELF",
    }
    for name, content in {**programs, "built/vtpmctl": ""}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
        (folder / name).chmod(0o755)
    present = conftest.CAPABILITIES["swtpm"].present
    monkeypatch.setenv("PATH", f"{folder}/built:{folder}/distribution")
    assert not present()
    conftest.put_ours_last()
    assert present()
    assert shutil.which("swtpm") == f"{folder}/distribution/swtpm"
    assert shutil.which("vtpmctl") == f"{folder}/built/vtpmctl"
    (folder / "distribution/swtpm").unlink()
    conftest.put_ours_last()
    assert not present()


def test_elsewhere_where_tmpdir_is_of_no_use(folder):
    (folder / "c").mkdir()
    (folder / "c").chmod(0o700)
    out = run(folder, folder / "c")
    assert f"temporary files: in /tmp, not in {folder}/c: only its owner can enter it" in out
    assert "place: /tmp/pytest-of-" in out
