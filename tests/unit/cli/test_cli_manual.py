"""The manual pages say what the programs do: no key, command, option or status is missing."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from swtpm_svc.cli import passwords
from swtpm_svc.cli.command import Given
from swtpm_svc.cli.vtpmctl import entry
from swtpm_svc.cli.vtpmctl.commands import PROGRAM
from swtpm_svc.config import loading
from swtpm_svc.errors import TABLE

ROOT = Path(__file__).resolve().parents[3]
MANUAL = ROOT / "docs/man"
PAGES = ["vtpm.d.5", "vtpm@.service.8", "vtpmctl.8", "vtpmd.8"]
COMMANDS = {command.name: command for command in PROGRAM.commands}
ACTIONS = {f"{group.name} {action.name}": action for group in PROGRAM.commands for action in group.actions}
#: All that do something: a group does not.
ROWS = {**{name: command for name, command in COMMANDS.items() if not command.actions}, **ACTIONS}

needs_mandoc = pytest.mark.skipif(shutil.which("mandoc") is None, reason="no mandoc: apt-get install mandoc")


def page(name: str) -> str:
    return (MANUAL / name).read_text()


def rendered(name: str) -> str:
    """As a person reads it, without overstrikes and with single spaces."""
    shown = subprocess.run(
        ["mandoc", "-T", "ascii", str(MANUAL / name)], capture_output=True, text=True, check=True
    ).stdout
    return re.sub(r"\s+", " ", re.sub(".\b", "", shown))


def test_these_are_all_the_pages():
    assert sorted(path.name for path in MANUAL.iterdir() if path.is_file()) == PAGES


@needs_mandoc
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_well_formed(name):
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", name], cwd=MANUAL, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("table", loading.SCHEMA, ids=lambda table: table.name)
def test_every_key_is_described_with_its_default(table):
    text = page("vtpm.d.5")
    section = re.search(rf"^\.Ss \[{table.name}\]\n(.*?)(?=^\.S[hs] )", text, re.MULTILINE | re.DOTALL)
    assert section
    for key in table.keys:
        entry = re.search(rf"^\.It Ic {key.name}\n(.*?)(?=^\.It Ic |\Z)", section[1], re.MULTILINE | re.DOTALL)
        assert entry, key.name
        assert "Default:" in entry[1], key.name
        default = json.dumps(key.default_for("NAME")).strip('"')
        if key.name != "name":
            assert re.search(rf"Default:(\n\.Qq)? {re.escape(default)}( ?\.)?$", entry[1], re.MULTILINE), key.name


def test_every_value_that_can_be_chosen_is_described():
    text = page("vtpm.d.5")
    for table in loading.SCHEMA:
        for key in table.keys:
            for choice in re.findall(r'"([^"]+)"', key.kind.expected):
                if key.name != "mode":
                    assert re.search(rf"\.(It )?Qq {re.escape(choice)}( |$)", text, re.MULTILINE), (key.name, choice)


@pytest.mark.parametrize("name", ROWS)
def test_every_command_is_described(name):
    assert re.search(rf"^\.It Cm {name}( |$)", page("vtpmctl.8"), re.MULTILINE)


def test_every_command_is_in_the_synopsis():
    """The control operations together, as OPERATION."""
    text = page("vtpmctl.8")
    synopsis = text[text.index(".Sh SYNOPSIS") : text.index(".Sh DESCRIPTION")]
    words = set(re.findall(r"^\.Cm (.*)$", synopsis, re.MULTILINE))
    others = {name for name, command in COMMANDS.items() if command.given is not Given.DEVICE}
    assert {word for line in words for word in line.split(" | ")} == others


def test_no_other_command_is_described():
    groups = "|".join(name for name, command in COMMANDS.items() if command.actions)
    described = re.findall(rf"^\.It Cm ((?:(?:{groups}) )?[a-z-]+)", page("vtpmctl.8"), re.MULTILINE)
    assert sorted(described) == sorted(ROWS)


def entry_of(name: str) -> str:
    """What the page says of a command, with what it says of all in the same section."""
    text = page("vtpmctl.8")
    start = re.search(rf"^\.It Cm {name}( |$)", text, re.MULTILINE)
    assert start
    end = re.compile(rf"^\.It Cm (?:{'|'.join(ROWS)})(?: |$)|^\.El\n\.(?:Sh|Pp)", re.MULTILINE).search(
        text, start.end()
    )
    assert end
    section = text.rindex("\n.Sh ", 0, start.start())
    return text[section : text.index("\n.It Cm ", section)] + text[start.start() : end.start()]


PASSWORD_OPTIONS = {
    name: name.replace("-srk-", "-owner-")
    for role in ("owner", "srk")
    for argument in passwords.arguments(role)
    for name in argument.names
}


@pytest.mark.parametrize("name", ROWS)
def test_every_option_is_described(name):
    """Where a command says PASSWORD-OPTION, they are described behind all commands, in the words of the owner's."""
    there = entry_of(name)
    text = page("vtpmctl.8")
    about_passwords = text[text.index(".Ar PASSWORD-OPTION\nsays") : text.index(".Sh ENVIRONMENT")]
    for option in (option for argument in ROWS[name].options for option in argument.names):
        if option in PASSWORD_OPTIONS:
            assert "PASSWORD-OPTION" in there, option
            assert f".It Fl {PASSWORD_OPTIONS[option][1:]} " in about_passwords, option
        else:
            assert re.search(rf"\bFl {re.escape(option[1:])}(?![a-z-])", there), option
    for option in ("--json", "--help", "--version"):
        assert f"Fl {option[1:]}" in text, option


def test_what_can_be_chosen_is_described():
    for row in ROWS.values():
        for argument in row.arguments:
            for word in argument.offered if isinstance(argument.offered, tuple) else ():
                assert word.rstrip("=") in page("vtpmctl.8") or word in page("vtpm.d.5"), (row.name, word)


def test_every_exit_status_and_error_code_is_described():
    text = page("vtpmctl.8")
    statuses = text[text.index(".Sh EXIT STATUS") : text.index(".Sh EXAMPLES")]
    entries = dict(re.findall(r"^\.It (\d+)\n(.*?)(?=^\.It |^\.El)", statuses, re.MULTILINE | re.DOTALL))
    for code, fault in TABLE.items():
        assert re.search(rf"^\.Li {code.value} [,:]$", entries[str(fault.exit_status)], re.MULTILINE), code
    others = {0, entry.STATUS_INTERRUPTED, entry.STATUS_BROKEN_PIPE}
    assert set(entries) == {str(status) for status in {*others, *(fault.exit_status for fault in TABLE.values())}}


@needs_mandoc
def test_the_options_of_the_daemon_are_described():
    from swtpm_svc.service.vtpmd import HELP

    text = rendered("vtpmd.8")
    for option in re.findall(r"^  (--[a-z]+)", HELP, re.MULTILINE):
        assert option in text, option


def test_the_unit_file_and_its_page_agree():
    unit = (ROOT / "packaging/vtpm@.service").read_text()
    text = re.sub(r"\s+", " ", page("vtpm@.service.8"))
    prevented = re.search(r"^RestartPreventExitStatus=(.*)$", unit, re.MULTILINE)
    assert prevented
    assert prevented[1] == "64 65 66 67 69 73 77 78 200 203 216 217 218 226 228 229 233 238 243"
    assert "after the exit statuses 64 to 67, 69, 73, 77 and 78" in text
    assert "such as 203, 217, 226 or 243 of" in text
    assert "RestartSec=100ms" in unit
    assert "again after 100 ms" in text
