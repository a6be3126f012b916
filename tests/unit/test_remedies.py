"""Every remedy, read as by somebody who will type it as root: what may be in one, and what may not.

All texts of the program are looked at, not only those that are called `remedy`: a note or a report is followed, too.
That the commands lead out of the trouble is in tests/integration/cli/test_remedies_followed.py.
"""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from swtpm_svc.cli.vtpmctl.commands import PROGRAM
from swtpm_svc.errors import NAME, TCTI, Code, VtpmError, quote

ROOT = Path(__file__).resolve().parents[2]
CATALOG = ROOT / "packaging/catalog/vtpm.catalog"
PAGES = [*(ROOT / "docs/man").rglob("*.[1-8]"), ROOT / "README.md", *(ROOT / "docs").glob("*.md")]

#: What takes away what cannot be had again, gives away what is another's, or opens what must be closed.
DANGEROUS = {
    "all below a directory": r"\b(?:chown|chgrp|chmod|setfacl)\s[^;|]*(?:-\w*R|--recursive)",
    "links are followed": r"\bchown\s+(?!-h\b|-R\b)",
    "removes more than one file": r"\brm\s+(?:-\w*[rRf]|--recursive|--force)|\b(?:rm|mv)\s[^;]*\*",
    "everybody": r"(?<!never `)\bchmod\s+(?:-\w+\s+)*(?:[ao]?\+\w*w|\d*[2367]\b(?<!\d00))|\bchmod\s+a\+(?!r\b)",
    "groups are lost": r"\busermod\s+(?:-G|--groups)\b",
    "switched off": r"\bsetenforce\s+0|\bSELINUX=|--privileged\b|\bsemanage permissive",
    "killed": r"\b(?:pkill|killall|kill\s+-(?:9|KILL|SIGKILL))\b",
    "a disk": r"\b(?:mkfs\w*|fsck|dd)\s|-o\s*remount",
    "the host's own TPM": r"(?<!Xr )\btpm2_(?:clear|startup|flushcontext|changeauth|evictcontrol|nv\w+)\b(?![^;|]* -T)",
    "a password that all can see": r"\btpm2_\w+[^;|]* -p (?!file:)\w",
}  # fmt: skip
#: A recursive change that is right: of one instance's own state, by its whole path.
OWN_STATE = re.compile(r"chown -R vtpm:vtpm /var/lib/vtpm/(?:@VTPM_INSTANCE@|NAME|vm8)(?=\s|`)")


class Texts(ast.NodeVisitor):
    """The strings of a module, with {} for what is put in; not its docstrings."""

    def __init__(self) -> None:
        self.found: list[tuple[int, str]] = []

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):
            self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self.found.append((node.lineno, node.value))

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        words = (str(part.value) if isinstance(part, ast.Constant) else self.put_in(part) for part in node.values)
        self.found.append((node.lineno, "".join(words)))
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                self.visit(part.value)

    @staticmethod
    def put_in(part: ast.expr) -> str:
        value = part.value if isinstance(part, ast.FormattedValue) else part
        return {"NAME": NAME, "TCTI": TCTI}.get(getattr(value, "id", ""), "{}")


def texts() -> "Iterator[tuple[str, str]]":
    for path in sorted((ROOT / "swtpm_svc").rglob("*.py")):
        visitor = Texts()
        visitor.visit(ast.parse(path.read_text(encoding="utf-8")))
        for line, text in visitor.found:
            yield f"{path.relative_to(ROOT)}:{line}", text


TEXTS = [*texts()]
ALL = [*TEXTS, *((str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")) for path in (CATALOG, *PAGES))]


@pytest.mark.parametrize("what", DANGEROUS)
def test_no_text_proposes_what_harms(what):
    for place, text in ALL:
        # a command that is spread over the lines of a manual page is one command
        found = re.search(DANGEROUS[what], OWN_STATE.sub("", text))
        assert not found, f"{place}: {found and text[max(found.start() - 60, 0) : found.end() + 40]}"


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("all below a directory", "chown -R 9003:9003 /var/lib/vtpm"),
        ("all below a directory", "chown -h --recursive x /srv"),
        ("links are followed", "chown vtpm /var/lib/vtpm/vtpm0/x"),
        ("removes more than one file", "rm -rf /var/lib/vtpm/vtpm0"),
        ("removes more than one file", "mv /var/lib/vtpm/* /root"),
        ("everybody", "chmod 666 /dev/vtpm0"),
        ("everybody", "chmod 0777 /x"),
        ("everybody", "chmod a+rw /x"),
        ("groups are lost", "usermod -G vtpm alice"),
        ("switched off", "setenforce 0"),
        ("killed", "kill -9 1"),
        ("the host's own TPM", "tpm2_startup -c"),
        ("a password that all can see", "tpm2_changeauth -T x -c owner -p PASSWORD"),
    ],
)
def test_what_harms_is_recognised(what, text):
    assert re.search(DANGEROUS[what], f"do this: {text}; then start again")


def test_no_remedy_says_name_where_somebody_knows_it():
    """`vtpmctl init NAME` is for manuals and the help; of an error the instance is known, or becomes so where it is
    reported."""
    helps = (
        "swtpm_svc/service/options.py",
        "swtpm_svc/service/attach.py",
        "swtpm_svc/service/systemd/udev_properties.py",
        "swtpm_svc/cli/vtpmctl/commands.py",
    )
    for place, text in TEXTS:
        if not place.startswith(helps):
            assert not re.search(r"(?:vtpmctl [a-z-]+ |vtpm@|/dev/|/class/cuse/|/vtpm/)NAME\b", text), place
    catalog = CATALOG.read_text(encoding="utf-8")
    assert not re.search(r"\bNAME\b", catalog)


def test_each_is_about_the_instance_that_it_is_reported_of():
    error = VtpmError(Code.TPM_NOT_RUNNING, "off", remedy=f"vtpmctl init {NAME}; tpm2_startup -c -T {TCTI}")
    assert error.of("vtpm0", "device:/dev/vtpm0").remedy == "vtpmctl init vtpm0; tpm2_startup -c -T device:/dev/vtpm0"
    assert VtpmError(Code.USAGE, "x", remedy=f"see {NAME}").of("/run/my tpm").remedy == "see '/run/my tpm'"
    assert VtpmError(Code.USAGE, "x").of("vtpm0").remedy is None


def test_no_error_is_without_one():
    for path in sorted((ROOT / "swtpm_svc").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "VtpmError":
                assert [word for word in node.keywords if word.arg == "remedy"], f"{path}:{node.lineno}"


@pytest.mark.parametrize(
    "word",
    ["", "a b", "$(reboot)", "'", '"', "`x`", "a;b", "-", "*", "\n", "/a&b", "é", "/a-b_c.d+e,f:g=h%i@j", "~x", "#"],
)
def test_a_path_in_a_command_stays_one_word(word):
    assert shlex.split(f"ls {quote(word)}") == ["ls", word]
    assert quote(word) == shlex.quote(word)


def test_the_commands_of_ours_that_are_named_exist():
    commands = {command.name for command in PROGRAM.commands}
    for place, text in ALL:
        for command in re.findall(r"\bvtpmctl ([a-z][a-z-]*[a-z])\b(?! [a-z]+ (?:and|start))", text):
            assert command in commands or place.startswith(("docs/", "README")), f"{place}: vtpmctl {command}"


def options_of(name: str, rest: str) -> "set[str]":
    command = PROGRAM.find(name)
    rows = [action for action in command.actions if action.name == rest.split()[0]] or [command]
    return {"--help", "--json", *(word for row in rows for option in row.options for word in option.names)}


def test_so_do_their_options():
    seen = 0
    for place, text in TEXTS:
        for command, rest in re.findall(r"\bvtpmctl ([a-z-]+) ([^;,)]*)", text):
            for option in re.findall(r"(?<!\S)--[a-z-]+", rest):
                assert option in options_of(command, rest), f"{place}: vtpmctl {command} {option}"
                seen += 1
    assert seen >= 4
    for page in re.findall(r"vtpm[a-z.@]*\([58]\)", " ".join(text for _place, text in TEXTS)):
        assert (ROOT / "docs/man" / f"{page[:-3]}.{page[-2]}").exists(), page
