"""The manual pages of the old command names: well formed, and with every option of the tables."""

import importlib
import importlib.util
import re
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

from swtpm_svc.cli.classic import owner_tools, swtpm_bios, swtpm_ioctl

ROOT = Path(__file__).resolve().parents[4]
MANUAL = ROOT / "docs/man/classic"
PAGES = sorted(path.name for path in MANUAL.iterdir())
INSTALLER = runpy.run_path(str(ROOT / "tools/install_package.py"))
COMMANDS = INSTALLER["commands_of"](INSTALLER["CLASSIC_COMMANDS"])

#: What a page must describe, as it is written on the command line, without an argument.
TOLD = {
    "swtpm_ioctl.8": [*swtpm_ioctl.PLACES, *swtpm_ioctl.COMMANDS, "--version", "--help"],
    "swtpm_bios.8": list(swtpm_bios.OPTIONS_HELP),
    "createek.8": ["-h", *(f"-{name}" for tool in owner_tools.TOOLS.values() for name in tool.options)],
}

#: Where the commands that have getopt's tables alone keep them, by page: module, tables.
TABLES = {
    "swtpm.8": ("swtpm_options", ("SOCKET_OPTIONS", "CHARDEV_OPTIONS", "CUSE_OPTIONS")),
}
PACKAGE = "swtpm_svc.cli.classic"
HERE = [page for page, (module, _tables) in TABLES.items() if importlib.util.find_spec(f"{PACKAGE}.{module}")]

needs_mandoc = pytest.mark.skipif(shutil.which("mandoc") is None, reason="no mandoc: apt-get install mandoc")


@needs_mandoc
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_well_formed(name):
    words = ["mandoc", "-T", "lint", "-W", "warning", f"{MANUAL}/{name}"]
    # what is no more than the name of another page is read where that is: below man8
    if (MANUAL / name).read_text().startswith(".so "):
        return
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_that_is_another_name_leads_to_a_page_that_has_it(name):
    text = (MANUAL / name).read_text()
    found = re.fullmatch(r"\.so man8/(.+)\n", text)
    if found is None:
        section = text.split(".Sh NAME\n", 1)[1].split(".Nd", 1)[0]
        assert re.search(rf"^\.Nm {name[:-2]}( ,)?$", section, re.MULTILINE)
        return
    names = (MANUAL / found[1]).read_text().split(".Sh NAME\n", 1)[1].split(".Nd", 1)[0]
    assert re.search(rf"^\.Nm {name[:-2]}( ,)?$", names, re.MULTILINE)


@pytest.mark.parametrize("name", TOLD)
def test_every_option_is_described_and_no_other(name):
    described = re.findall(r"^\.It Fl (\S+)", (MANUAL / name).read_text(), re.MULTILINE)
    assert [f"-{word}" for word in described] == list(dict.fromkeys(described_once(TOLD[name], described)))


def described_once(options, described):
    """`options` in the page's order, what the page lacks last."""
    order = {f"-{word}": place for place, word in enumerate(described)}
    return sorted(options, key=lambda option: order.get(option, len(order)))


def test_every_long_option_is_described_and_no_other():
    for name in HERE:
        module, tables = TABLES[name]
        loaded = importlib.import_module(f"{PACKAGE}.{module}")
        known = {option.name for table in tables for option in getattr(loaded, table)}
        items = re.findall(r"^\.It (Fl .*)$", (MANUAL / name).read_text(), re.MULTILINE)
        described = {word for item in items for word in re.findall(r"(?:Fl|,) -([a-z0-9_-]+)", item)}
        assert described == known, name


def test_every_command_has_a_page():
    assert [name for name in COMMANDS if f"{name}.8" not in PAGES] == []
