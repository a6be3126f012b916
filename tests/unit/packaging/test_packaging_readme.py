"""README.md says what is so: its table of the configuration, its commands, its make targets, its links."""

import json
import re
from pathlib import Path

from swtpm_svc.cli.vtpmctl.authority import GROUPS
from swtpm_svc.cli.vtpmctl.operations import OPERATIONS
from swtpm_svc.cli.vtpmctl.parser import REPORTS
from swtpm_svc.cli.vtpmctl.tpm_commands import TPM_COMMANDS
from swtpm_svc.config.schema import SCHEMA

ROOT = Path(__file__).resolve().parents[3]
README = (ROOT / "README.md").read_text()


def test_the_configuration_table_is_the_schema():
    section = README.split("## Configuration", 1)[1].split("\n## ", 1)[0]
    shown, table = [], ""
    for row in re.findall(r"^\|(?: (`\[[\w-]+\]`))? \| `([a-z-]+)` \| (\S+) \|", section, flags=re.MULTILINE):
        table = row[0].strip("`[]") or table
        shown.append((table, row[1], row[2].strip('`"')))
    expected = [
        (table.name, key.name, json.dumps(key.default_for("NAME")).strip('"')) for table in SCHEMA for key in table.keys
    ]
    assert shown == expected


def test_the_control_table_has_every_command_and_no_other():
    section = README.split("## Control", 1)[1].split("\n## ", 1)[0]
    cells = [line.split("|")[2] for line in section.splitlines() if line.startswith("| ")]
    named = {words.split()[0] for cell in cells[1:] for words in re.findall(r"`([^`]+)`", cell)}
    assert named == {*OPERATIONS, *REPORTS, *GROUPS, *TPM_COMMANDS}


def test_every_make_target_that_is_named_exists():
    code = "\n".join(re.findall(r"`[^`]*`|^    .*", README, flags=re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+(?:-[a-z]+)?)\b(?=[ `,;:\n])", code))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert {"run", "test", "lab", "install"} <= named
    assert named <= targets


def test_every_link_inside_leads_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_kernel_consumers_are_excluded_in_the_first_paragraph():
    first_paragraph = README.split("\n\n")[1]
    for consumer in ("IMA", "trusted keys", "/dev/tpmrm0"):
        assert consumer in first_paragraph
