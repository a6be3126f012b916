"""tools/mutate.py finds tests for each module: what its map names is there, also after a file or folder was moved."""

import importlib
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tools"))
mutate = importlib.import_module("mutate")

MODULES = [str(path.relative_to(ROOT / "swtpm_svc")) for path in (ROOT / "swtpm_svc").rglob("*.py")]


@pytest.mark.parametrize("pattern", mutate.TESTS)
def test_each_word_of_the_map_finds_tests_and_each_pattern_a_module(pattern):
    files = {
        word: [file for found in (ROOT / "tests").glob(word) for file in mutate._test_files(found)]
        for word in mutate.TESTS[pattern].split()
    }
    assert [word for word, found in files.items() if not found] == []
    assert any(fnmatch(module, pattern) for module in MODULES)


def test_a_room_where_faults_are_drawn_has_tests_of_its_own_in_the_map():
    modules = [module for module in MODULES if f"swtpm_svc/{module.partition('/')[0]}" in mutate.MODULES]
    assert [module for module in modules if not any(fnmatch(module, pattern) for pattern in mutate.TESTS)] == []
