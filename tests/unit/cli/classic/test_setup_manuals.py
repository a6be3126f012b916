"""The manual pages and helps of swtpm_setup, swtpm_localca and swtpm_cert have every option of the tables, and no other."""

import re
from pathlib import Path

import pytest

from swtpm_svc.cli.classic import setup_options, swtpm_cert, swtpm_localca

PAGES = Path(__file__).resolve().parents[4] / "docs/man/classic"
COMMANDS = {"swtpm_setup": setup_options, "swtpm_localca": swtpm_localca, "swtpm_cert": swtpm_cert}
#: Not in the help: what is accepted for old callers, and what is refused.
HIDDEN = {
    "swtpm_setup": {"swtpm_ioctl", "tcsd-system-ps-file", "no-iak"},
    "swtpm_localca": set(),
    "swtpm_cert": {"parentkey-password", "parentkey-pwd", "public", "keyalgo"},
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_page_has_every_option(name):
    page = (PAGES / f"{name}.8").read_text()
    options = page[: page.index(".Sh EXIT STATUS")]
    found = set(re.findall(r"^\.It.*|^\.Fl.*", options, re.MULTILINE))
    named = {word for line in found for word in re.findall(r"Fl -([a-z0-9_-]+)", line)}
    assert named == {option.name for option in COMMANDS[name].OPTIONS}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_help_has_every_option(name):
    found = set(re.findall(r"(?<![\w-])--([a-z0-9_-]+)", COMMANDS[name].HELP))
    assert found == {option.name for option in COMMANDS[name].OPTIONS} - HIDDEN[name]
