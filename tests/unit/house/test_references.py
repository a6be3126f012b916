"""What code, comments, documentation and packaging refer to is there: files of ours, decision records, manual pages."""

import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = ROOT / "swtpm_svc"
#: The folders and files that are the project's own; what builds and tests leave is not.
PLACES = (
    "swtpm_svc", "tests", "docs", "packaging", "tools", "benchmarks", "etc", "plans",
    "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "pyproject.toml", "setup.py", ".ci/run",
)  # fmt: skip
#: Made by a build.
BUILT = {"_libtpms.c", "_libtpms.py"}
FLOORS = sorted(path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__")
#: Not the end of a longer path, an address or a variable.
START = r"(?<![\w/.@$}<-])"

RECORD = re.compile(r"\bdecisions/(\d{4})")
#: In a record, others are called by their numbers alone.
RECORD_IN_A_RECORD = re.compile(r"(?<=[(, ])(00\d\d)(?=[),;])")
FILE = re.compile(
    START + r"((?!docs/decisions/\d{4}\b(?!-)|tools/testing/)"  # the latter is the kernel's
    r"(?:swtpm_svc|docs|tests|packaging|tools|benchmarks)/[\w@./*+-]*[\w*/])(?![\w*/\\]|\.\$)"
)
MODULE = re.compile(START + rf"((?:{'|'.join(FLOORS)})/[a-z0-9_/]+(?:\.(?:py|c))?)\b(?![-.\w])")
BARE_MODULE = re.compile(START + r"((?!setup\b)[a-z_]\w*\.py)\b(?!\w)")
LINK = re.compile(r"\]\((?!https?:)([^)]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
PAGE = re.compile(r"(?<![\w.-])(vtpm[\w@.-]*)\((\d)\)")


def walk(places: tuple[str, ...]) -> Iterator[tuple[Path, str]]:
    for place in places:
        found = ROOT / place
        for path in sorted(found.rglob("*")) if found.is_dir() else [found] if found.exists() else []:
            if path.is_file() and path.name not in BUILT and "__pycache__" not in path.parts and path != Path(__file__):
                try:
                    yield path, path.read_text()
                except UnicodeDecodeError:
                    continue


@cache
def texts(*places: str) -> list[tuple[Path, str]]:
    return list(walk(places or PLACES))


@cache
def prose(path: Path, text: str) -> str:
    """Comments and docstrings of a program, each in its line; tests make files and modules that are nobody's."""
    if path.suffix != ".py":
        return text
    lines = [""] * (text.count("\n") + 1)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and token.string.startswith('"""')):
            for number, line in enumerate(token.string.split("\n"), token.start[0] - 1):
                lines[number] += line
    return "\n".join(lines)


def led_nowhere(pattern, resolves, *places, part=lambda _path, text: text):
    return [
        f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]}"
        for path, whole in texts(*places)
        for text in [part(path, whole)]
        for match in pattern.finditer(text)
        if not resolves(match)
    ]


def is_record(number):
    return len(list((ROOT / "docs/decisions").glob(f"{number}-*.md"))) == 1


@cache
def is_file(name):
    """A program's ending may be left out: tests/fuzz/harness."""
    found = any(ROOT.glob(name.rstrip("/"))) or (ROOT / f"{name}.py").exists()
    return found or name.rpartition("/")[2] in BUILT


def is_module(name):
    """`service/identity`, `continuity/parking`, `tpm/binding.c`."""
    return any((PACKAGE / (name.rstrip("/") + ending)).exists() for ending in ("", ".py"))


NAMES = {path.name for path, _text in texts()} | {Path(__file__).name} | BUILT


def test_decision_records():
    assert led_nowhere(RECORD, lambda match: is_record(match[1])) == []
    assert led_nowhere(RECORD_IN_A_RECORD, lambda match: is_record(match[1]), "docs/decisions") == []


def test_each_record_has_a_number_of_its_own_and_is_numbered_as_its_title_says():
    records = sorted((ROOT / "docs/decisions").glob("*.md"))
    numbers = [path.name[:4] for path in records]
    assert numbers == [f"{number:04}" for number in range(len(records))]
    assert [path.name for path in records[1:] if not path.read_text().startswith(f"# {path.name[:4]}: ")] == []


def test_files():
    assert led_nowhere(FILE, lambda match: is_file(match[1])) == []


def test_modules():
    assert led_nowhere(MODULE, lambda match: is_module(match[1]), part=prose) == []


def test_modules_without_their_folder():
    assert led_nowhere(BARE_MODULE, lambda match: match[1] in NAMES, part=prose) == []


def test_manual_pages():
    assert led_nowhere(PAGE, lambda match: (ROOT / f"docs/man/{match[1]}.{match[2]}").exists()) == []


def test_links():
    """From one Markdown file to another file, or to a heading."""
    pages = [(path, text) for path, text in texts() if path.suffix == ".md"]
    slugs = {
        path: {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in HEADING.findall(text)}
        for path, text in pages
    }
    assert len(pages) > 20
    broken = [
        f"{path.relative_to(ROOT)}: {file}#{heading}" if heading else f"{path.relative_to(ROOT)}: {file}"
        for path, text in pages
        for file, _, heading in (target.partition("#") for target in LINK.findall(text))
        for target in [(path.parent / file).resolve() if file else path]
        if not target.exists() or (heading and heading not in slugs.get(target, set()))
    ]
    assert broken == []


def test_nothing_outside_of_the_tree_is_meant():
    assert (
        led_nowhere(re.compile(r"\bdesign (?:D\d|section|\d)|\bdesign\.md|\bstyle\.md|\(D\d+\)"), lambda _match: False)
        == []
    )
