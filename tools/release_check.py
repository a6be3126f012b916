"""release_check.py : is this checkout what a release is tagged from? `make release-check` calls it; docs/releasing.md.

Each check is one line; all are made, whatever fails. Exit status 0: a tag may be set.
"""

import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple, Optional

#: What the source of a release has for those who build it without git.
PROMISED = (
    "pyproject.toml",
    "setup.py",
    "LICENSE",
    "README.md",
    "CHANGELOG.md",
    "Makefile",
    "packaging/swtpm.spec",
    "tests/conftest.py",
)
#: What an installed package has beside its modules.
IN_THE_WHEEL = (r"swtpm_svc/tpm/_libtpms\.\S+\.so", r"swtpm_svc/tpm/binding\.c", r"swtpm_svc/py\.typed")
VERSION = re.compile(r'^__version__ = "(.*)"$', re.MULTILINE)


class Check(NamedTuple):
    """`problem` is None where all is well."""

    name: str
    problem: Optional[str] = None


def run(root: Path, *words: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*map(str, words)], cwd=root, capture_output=True, text=True, check=False)


def version_of(root: Path) -> str:
    """
    Raises:
        SystemExit: the package has no version, or several.
    """
    found = VERSION.findall((root / "swtpm_svc/__init__.py").read_text())
    if len(found) != 1:
        sys.exit('release_check.py: swtpm_svc/__init__.py has no line __version__ = "...", or more than one')
    return str(found[0])


def check_versions(root: Path, version: str) -> Iterator[Check]:
    """What must say the version says it: changelog, spec file."""
    text, today = (root / "CHANGELOG.md").read_text(), str(datetime.now(tz=timezone.utc).date())
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    unreleased = [section for section in sections if section.startswith("[Unreleased]")]
    waiting = [line for section in unreleased for line in section.splitlines()[1:] if line.startswith("- ")]
    name = "CHANGELOG.md: nothing is unreleased"
    yield Check(name, f"entries that are: {len(waiting)}; see docs/releasing.md, 1" if waiting else None)
    heads = re.findall(r"^## \[(\d\S*)\](?: - (\S+))?$", text, re.MULTILINE)
    top, day = heads[0] if heads else ("no version", "")
    yield Check("CHANGELOG.md: its newest version", None if top == version else f"{top}, but the package is {version}")
    name = "CHANGELOG.md: that version's date"
    yield Check(name, None if re.fullmatch(r"\d{4}-\d\d-\d\d", day) and day <= today else f'"{day}"')
    spec = (root / "packaging/swtpm.spec").read_text()
    for what, pattern in (("Version:", r"^Version: +(\S+)$"), ("%changelog", r"^%changelog\n\* .* - (\S+)-\d+$")):
        found = re.search(pattern, spec, re.MULTILINE)
        says = found[1] if found else "nothing"
        yield Check(
            f"packaging/swtpm.spec: {what}", None if says == version else f"{says}, but the package is {version}"
        )


def check_git(root: Path, version: str) -> Iterator[Check]:
    """The tree is clean, and the tag is free or this commit's; this commit has no other version's tag."""
    changed = run(root, "git", "status", "--porcelain").stdout.splitlines()
    yield Check("git: nothing is changed or untracked", ", ".join(line[3:] for line in changed[:5]) or None)
    tag = f"v{version}"
    here = run(root, "git", "tag", "--points-at", "HEAD", "v*").stdout.split()
    elsewhere = tag not in here and run(root, "git", "tag", "--list", tag).stdout.strip()
    others = [other for other in here if other != tag]
    problem = f"{tag} is another commit" if elsewhere else f"this commit is {others[0]}" if others else None
    yield Check(f"git: the tag {tag}", problem)


def check_source(root: Path, version: str) -> Iterator[Check]:
    """The source archive is the same bytes each time, has what git has, and builds."""
    with tempfile.TemporaryDirectory(prefix="vtpm-release-") as name:
        folder = Path(name)
        archives = []
        for number in ("1", "2"):
            done = run(root, "packaging/make-source.sh", folder / number)
            if done.returncode:
                yield Check("packaging/make-source.sh", (done.stderr.splitlines() or ["failed"])[-1])
                return
            archives.append(Path(done.stdout.strip()))
        first, second = archives
        top = f"swtpm-svc-{version}"
        yield Check("the source's name", None if first.name == f"{top}.tar.gz" else first.name)
        same = first.read_bytes() == second.read_bytes()
        yield Check("the source: the same bytes twice", None if same else "they differ")
        with tarfile.open(first) as archive:
            members = {member.name.partition("/")[2] for member in archive.getmembers() if not member.isdir()}
            archive.extractall(folder)  # made here a moment ago
        tracked = {name for name in run(root, "git", "ls-files", "-z").stdout.split("\0") if name}
        lacking = sorted({*tracked, *PROMISED} - members) + [
            f"{name} (unexpected)" for name in sorted(members - tracked)
        ]
        yield Check("the source: what git has, and no more", ", ".join(lacking[:5]) or None)
        words = ("-m", "pip", "wheel", "--quiet", "--no-deps", "--disable-pip-version-check", "-w", folder / "wheel")
        done = run(folder, sys.executable, *words, folder / top)
        built = list((folder / "wheel").glob("*.whl"))
        if done.returncode or not built:
            yield Check("the source builds", (done.stderr.splitlines() or ["no wheel"])[-1])
            return
        yield Check("the source builds", None if f"-{version}-" in built[0].name else built[0].name)
        with zipfile.ZipFile(built[0]) as wheel:
            names = wheel.namelist()
        absent = [pattern for pattern in IN_THE_WHEEL if not any(re.fullmatch(pattern, name) for name in names)]
        modules = {name for name in members if name.startswith("swtpm_svc/") and name.endswith(".py")}
        absent += sorted(modules - set(names))
        yield Check("the package has all of its files", ", ".join(absent[:5]) or None)


def check_lint(root: Path) -> Iterator[Check]:
    done = run(root, "make", "-s", "lint")
    yield Check(
        "make lint", ((done.stdout + done.stderr).strip().splitlines() or ["failed"])[-1] if done.returncode else None
    )


def main() -> int:
    root = Path(__file__).resolve().parents[1]
    version, failed = version_of(root), 0
    for checks in (
        check_versions(root, version),
        check_git(root, version),
        check_lint(root),
        check_source(root, version),
    ):
        for check in checks:
            failed += check.problem is not None
            print(f"FAIL {check.name}: {check.problem}" if check.problem else f"ok   {check.name}")
    if failed:
        print(f"release_check.py: {failed} of the above keep {version} from being tagged", file=sys.stderr)
        return 1
    print(f"""
What this does not run, and a release needs: make test, make lab-all, make bench. Then:
    git tag -s v{version} -m 'python3-swtpm {version}' && git push origin v{version}""")
    return 0


if __name__ == "__main__":
    sys.exit(main())
