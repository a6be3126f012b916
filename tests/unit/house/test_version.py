"""The version is said once; who repeats it says the same. `make release-check` asks more, before a tag: docs/releasing.md."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import swtpm_svc

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tools"))
release_check = importlib.import_module("release_check")

PLACES = ("swtpm_svc", "docs", "packaging", "tools", "etc", "README.md", "CONTRIBUTING.md", "Makefile", "pyproject.toml", "setup.py")  # fmt: skip
#: Compared by test_packaging_spec.py.
REPEATED = {"swtpm_svc/__init__.py", "packaging/swtpm.spec"}
CHANGELOG = "# Changelog\n\n## [Unreleased]\n\n## [1.2.3] - 2026-01-31\n\n### Added\n\n- All of it.\n"
SPEC = "Version:        1.2.3\n\n%changelog\n* Sat Jan 31 2026 The project - 1.2.3-1\n- It\n"


def test_no_other_file_says_it():
    files = [
        path for name in PLACES for path in ([ROOT / name] if (ROOT / name).is_file() else (ROOT / name).rglob("*"))
    ]
    number = re.compile(rf"(?<![\d.]){re.escape(swtpm_svc.__version__)}(?![\d.])".encode())
    assert {
        str(path.relative_to(ROOT))
        for path in files
        if path.is_file() and path.suffix not in (".pyc", ".so") and number.search(path.read_bytes())
    } == REPEATED


def test_a_manual_page_has_a_date_and_no_version():
    for path in (ROOT / "docs/man").rglob("*.[1-8]"):
        text = path.read_text()
        if not text.startswith(".so "):  # another name of a page
            assert re.match(r"\.Dd [A-Z][a-z]+ \d+, \d{4}\n\.Dt [\w.@-]+ \d\n\.Os\n", text, re.IGNORECASE), path.name


def test_the_changelog_s_versions_are_in_their_order_and_the_newest_is_this():
    text = (ROOT / "CHANGELOG.md").read_text()
    heads = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert heads[0] == "[Unreleased]"
    released = [re.fullmatch(r"\[(\d+)\.(\d+)\.(\d+)\] - (\d{4}-\d\d-\d\d)", head) for head in heads[1:]]
    assert all(released)
    assert ".".join(released[0].groups()[:3]) == swtpm_svc.__version__
    numbers = [tuple(map(int, head.groups()[:3])) for head in released]
    assert numbers == sorted(set(numbers), reverse=True)
    assert [head[4] for head in released] == sorted((head[4] for head in released), reverse=True)


# --- make release-check ------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "packaging").mkdir()
    (tmp_path / "swtpm_svc").mkdir()
    (tmp_path / "swtpm_svc/__init__.py").write_text('__version__ = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    (tmp_path / "packaging/swtpm.spec").write_text(SPEC)
    return tmp_path


def problems(checks):
    return {check.name: check.problem for check in checks if check.problem is not None}


def test_a_tree_that_can_be_released(tree):
    assert release_check.version_of(tree) == "1.2.3"
    assert problems(release_check.check_versions(tree, "1.2.3")) == {}


@pytest.mark.parametrize(
    ("name", "old", "new", "check"),
    [
        ("CHANGELOG.md", "[Unreleased]\n", "[Unreleased]\n\n- More.\n", "CHANGELOG.md: nothing is unreleased"),
        ("CHANGELOG.md", "1.2.3", "1.2.2", "CHANGELOG.md: its newest version"),
        ("CHANGELOG.md", "2026-01-31", "2999-01-31", "CHANGELOG.md: that version's date"),
        ("CHANGELOG.md", " - 2026-01-31", "", "CHANGELOG.md: that version's date"),
        ("packaging/swtpm.spec", "Version:        1.2.3", "Version:        1.2.4", "packaging/swtpm.spec: Version:"),
        ("packaging/swtpm.spec", "1.2.3-1", "1.2.2-1", "packaging/swtpm.spec: %changelog"),
    ],
)
def test_what_keeps_it_from_that(tree, name, old, new, check):
    text = (tree / name).read_text()
    assert old in text
    (tree / name).write_text(text.replace(old, new))
    assert list(problems(release_check.check_versions(tree, "1.2.3"))) == [check]


@pytest.mark.needs("git")
def test_the_tree_is_clean_and_the_tag_is_free_or_its_own(tree):
    def git(*words):
        who = (
            "-c",
            "user.name=one",
            "-c",
            "user.email=one@example.org",
            "-c",
            "commit.gpgsign=false",
            "-c",
            "tag.gpgsign=false",
        )
        subprocess.run(["git", *who, *words], cwd=tree, check=True, capture_output=True)

    def found():
        return problems(release_check.check_git(tree, "1.2.3"))

    git("init")
    assert found() == {"git: nothing is changed or untracked": "CHANGELOG.md, packaging/, swtpm_svc/"}
    git("add", ".")
    git("commit", "-m", "one")
    assert found() == {}
    git("tag", "v1.2.3")
    assert found() == {}
    git("commit", "--allow-empty", "-m", "two")
    assert found() == {"git: the tag v1.2.3": "v1.2.3 is another commit"}
    git("tag", "-d", "v1.2.3")
    git("tag", "v9")
    assert found() == {"git: the tag v1.2.3": "this commit is v9"}


@pytest.mark.needs("git")
def test_a_test_has_no_repository_of_whoever_runs_it(tmp_path):
    """As in `git rebase --exec make test`: `git init` there once made the developer's own repository a bare one."""
    mine, folder = tmp_path / "mine", tmp_path / "new"
    subprocess.run(["git", "init", "--quiet", mine], check=True)
    before = (mine / ".git/config").read_text()
    test = tmp_path / "test_init.py"
    test.write_text(
        f"import subprocess\n\n\ndef test():\n    subprocess.run(['git', 'init', {str(folder)!r}], check=True)\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-c",
        "/dev/null",
        "-p",
        "conftest",
        "-p",
        "no:cacheprovider",
        test,
    ]
    environment = {**os.environ, "GIT_DIR": str(mine / ".git"), "PYTHONPATH": str(ROOT / "tests")}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert (folder / ".git").is_dir()
    assert (mine / ".git/config").read_text() == before
