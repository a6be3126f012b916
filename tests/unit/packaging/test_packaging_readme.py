"""README.md and docs/reference.md say what is so: the table of the configuration, commands, make targets, links."""

import json
import re
from pathlib import Path

from swtpm_svc.cli.vtpmctl.commands import PROGRAM
from swtpm_svc.config.schema import SCHEMA

ROOT = Path(__file__).resolve().parents[3]
README = (ROOT / "README.md").read_text()
REFERENCE = (ROOT / "docs/reference.md").read_text()


def test_the_configuration_table_has_a_dozen_keys_of_the_schema_with_their_defaults():
    """All of them are in vtpm.d(5): test_cli_manual.py."""
    section = REFERENCE.split("## Configuration", 1)[1].split("\n## ", 1)[0]
    shown, table = [], ""
    for row in re.findall(r"^\|(?: (`\[[\w-]+\]`))? \| `([a-z-]+)` \| (\S+) \|", section, flags=re.MULTILINE):
        table = row[0].strip("`[]") or table
        shown.append((table, row[1], row[2].strip('`"')))
    known = [
        (table.name, key.name, json.dumps(key.default_for("NAME")).strip('"')) for table in SCHEMA for key in table.keys
    ]
    assert shown == [row for row in known if row in shown]
    assert {table.name for table in SCHEMA} == {table for table, _key, _default in shown}
    assert 12 <= len(shown) <= 16
    assert "vtpm.d(5)" in section


def test_the_first_answered_command_is_on_the_first_screen():
    """What a reader follows: get it, make a TPM, start it, ask it; each with what it prints, or nothing."""
    screen = README.splitlines()[:40]
    steps = ("make run", "dnf install", "make install", "vtpmctl create", "systemctl start vtpm@", "tpm2_getrandom")
    found = [next((number for number, line in enumerate(screen) if step in line), None) for step in steps]
    assert None not in found
    assert found == sorted(found)
    assert re.fullmatch(r"    [0-9a-f]{32}", screen[found[-1] + 1])
    created = {
        re.search(pattern, line)[1]
        for pattern in (r"vtpmctl create (\w+)", r"start vtpm@(\w+)", r"device:/dev/(\w+)")
        for line in screen
        if re.search(pattern, line)
    }
    assert len(created) == 1


def test_the_readme_is_a_screen_or_two_and_leads_to_each_page_for_administrators():
    assert len(README.splitlines()) <= 70
    pages = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    assert pages - {"docs/releasing.md"} <= set(re.findall(r"\]\(([^)#]+)\)", README))


def test_the_control_table_has_every_command_and_no_other():
    section = REFERENCE.split("## Control", 1)[1].split("\n## ", 1)[0]
    cells = [line.split("|")[2] for line in section.splitlines() if line.startswith("| ")]
    named = {words.split()[0] for cell in cells[1:] for words in re.findall(r"`([^`]+)`", cell)}
    assert named == {command.name for command in PROGRAM.commands}


def test_every_make_target_that_is_named_exists():
    code = "\n".join(re.findall(r"`[^`]*`|^    .*", README, flags=re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+(?:-[a-z]+)?)\b(?=[ `,;:\n])", code))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert {"run", "test", "lab", "install"} <= named
    assert named <= targets


def test_the_kernel_consumers_are_excluded_in_the_first_paragraph():
    first_paragraph = README.split("\n\n")[1]
    for consumer in ("IMA", "trusted keys", "/dev/tpmrm0"):
        assert consumer in first_paragraph
