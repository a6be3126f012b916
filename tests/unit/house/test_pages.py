"""The pages of docs/ and their blocks: what no test types is on a list, and is at least checked against the parsers."""

import re
import shlex
import xml.etree.ElementTree as ElementTree

import pytest
from documented import NOT_TYPED, ROOT, WITHOUT_ROOT, blocks, pages

from swtpm_svc.cli.vtpmctl.commands import PROGRAM
from swtpm_svc.config import loading

ALL = [block for page in pages() for block in blocks(page)]
CONFIGURATIONS = [block for block in ALL if (block.file or "").endswith(".toml")]
PARTS_OF_DOMAINS = [block for block in ALL if block.name.startswith("<")]
#: Whole commands, also those that are in the text.
COMMANDS = [
    (page, found)
    for page in pages()
    for text in [(ROOT / page).read_text(encoding="utf-8")]
    for span in re.findall(r"(?<!`)`([^`\n]+)`(?!`)|^ {4}(?:\$ )?(.*)$", text, re.MULTILINE)
    for found in re.findall(r"\bvtpmctl ((?:[^;|&<>#)]|\$\()+)", span[0] or span[1])
]


def test_the_list_names_only_what_is_there_once_and_says_why():
    for page, rows in NOT_TYPED.items():
        names = [block.name for block in blocks(page)]
        assert {name: names.count(name) for name in rows} == dict.fromkeys(rows, 1), page
        assert all(rows.values())


def test_pages_without_root_are_pages():
    assert set(WITHOUT_ROOT) <= set(pages())


def test_the_two_commands_of_a_newcomer_are_in_the_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "`make run`" in text
    assert "`make test`" in text


@pytest.mark.parametrize(("page", "words"), COMMANDS)
def test_words_and_options_of_vtpmctl_exist(page, words):
    typed = shlex.split(words, posix=True)
    options = [word.split("=")[0] for word in typed if word.startswith("--")]
    names = [word for word in typed if not word.startswith("-")]
    command = PROGRAM.find(names[0]) if names else None
    assert command or not names or not re.fullmatch("[a-z-]+", names[0]), words
    if command:
        rows = [row for row in command.actions if len(names) > 1 and row.name == names[1]] or [
            command,
            *command.actions,
        ]
        assert not command.actions or len(names) < 2 or len(rows) == 1, words
        known = {name for row in rows for option in row.options for name in option.names} | {"--json", "--help"}
        assert set(options) <= known | {"--version"}, words


def test_units_exist():
    packaging = ROOT / "packaging"
    templates = {path.name.partition("@")[0] for path in packaging.glob("*@*")}
    for block in ALL:
        for unit in re.findall(r"\b(vtpm[\w-]*)@", "\n".join(block.lines)):
            assert unit in templates, (block.page, unit)
        for unit in re.findall(r"\b([\w-]+\.(?:target|slice))\b", "\n".join(block.lines)):
            assert (packaging / unit).exists() or unit in ("sockets.target",), (block.page, unit)


@pytest.mark.parametrize("block", CONFIGURATIONS, ids=lambda block: block.name)
def test_configurations_are_right(block):
    name = re.fullmatch(r"/etc/vtpm\.d/(.+)\.toml", block.file)
    assert name
    loading.parse("\n".join(block.lines) + "\n", block.file, name[1])


@pytest.mark.parametrize("block", PARTS_OF_DOMAINS, ids=lambda block: block.name)
def test_parts_of_a_domain_are_well_formed(block):
    ElementTree.fromstring("\n".join(block.lines))


def test_every_test_that_the_table_of_pains_names_exists():
    rows = [line for line in (ROOT / "docs/pains.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    assert len(rows) > 20
    there = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    for row in rows[1:]:
        shown = row.rstrip(" |").rpartition(" | ")[2]
        named = re.findall(r"`(test_\w+)`", shown)
        assert named or "open" in shown, row
        assert set(named) <= there, set(named) - there
