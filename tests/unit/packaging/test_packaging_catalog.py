"""The journal's catalog: every MESSAGE_ID of the program has its explanation, and no explanation is without its use."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from swtpm_svc.errors import TABLE
from swtpm_svc.service.systemd import journal

ROOT = Path(__file__).resolve().parents[3]
CATALOG = ROOT / "packaging/catalog/vtpm.catalog"
# journald fields that an entry of ours carries whenever the text asks for them
FIELDS = {"VTPM_INSTANCE", "CLIENT_PID", "CLIENT_UID"}


def catalog() -> dict[str, str]:
    """The entries by their id. Raises AssertionError: an id has two."""
    parts = re.split(r"^-- ([0-9a-f]{32})\n", CATALOG.read_text(), flags=re.MULTILINE)
    identifiers, texts = parts[1::2], parts[2::2]
    assert len(identifiers) == len(set(identifiers))
    return dict(zip(identifiers, texts))


def test_one_entry_for_each_message_id_of_the_program():
    """Errors are in the table; events have their ids where they are logged."""
    errors = [fault.message_id for fault in TABLE.values()]
    others = "".join(path.read_text() for path in (ROOT / "swtpm_svc").rglob("*.py") if path.name != "journal.py")
    events = [value for name, value in vars(journal).items() if name.endswith("_ID") and name in others]
    scripts = "".join(path.read_text() for path in (ROOT / "packaging/libexec").iterdir())
    events += re.findall(r"^MESSAGE_ID=([0-9a-f]{32})$", scripts, flags=re.MULTILINE)
    assert events
    assert sorted(catalog()) == sorted(errors + events)


def test_no_message_id_stands_anywhere_else():
    """One that is written where it is logged, or that nothing logs, would be without an entry, and nobody told."""
    written = {
        identifier
        for path in (ROOT / "swtpm_svc").rglob("*.py")
        for identifier in re.findall(r'"([0-9a-f]{32})"', path.read_text())
    }
    assert written - set(catalog()) == set()


def test_message_ids_are_random():
    """As `systemd-id128 new` makes them (RFC 4122, version 4): ids that are made up by hand meet others one day."""
    for identifier in catalog():
        assert (identifier[12], identifier[16] in "89ab") == ("4", True), identifier


@pytest.mark.parametrize("code", TABLE, ids=lambda code: code.value)
def test_an_entry_helps(code):
    """A subject, where to read more, and a text of more than the table's meaning."""
    header, _, body = catalog()[TABLE[code].message_id].partition("\n\n")
    fields = dict(line.split(": ", 1) for line in header.splitlines())
    assert set(fields) == {"Subject", "Defined-By", "Documentation"}
    assert fields["Defined-By"] == "python3-swtpm"
    assert len(fields["Subject"]) <= 72
    assert len(body.split()) >= 25
    assert max(map(len, body.splitlines())) <= 90


def test_every_field_in_the_text_is_one_that_the_entry_carries():
    """An unknown field is replaced by nothing, without a word."""
    assert set(re.findall(r"@([A-Z0-9_]+)@", CATALOG.read_text())) <= FIELDS


def test_a_manual_page_that_is_named_is_one_of_ours():
    named = {page for text in catalog().values() for page in re.findall(r"man:([^ \n]+)", text)}
    assert named == {"vtpm@.service(8)", "vtpm.d(5)", "vtpmctl(8)", "vtpmd(8)"}


def test_the_journal_takes_all_of_it(tmp_path):
    if not shutil.which("journalctl"):
        pytest.skip("journalctl is not installed")
    for directory in ("usr/lib/systemd/catalog", "var/lib/systemd/catalog"):
        (tmp_path / directory).mkdir(parents=True)
    shutil.copy(CATALOG, tmp_path / "usr/lib/systemd/catalog")
    update = subprocess.run(["journalctl", f"--root={tmp_path}", "--update-catalog"], capture_output=True, text=True)
    assert (update.returncode, update.stderr) == (0, "")
    listing = subprocess.run(
        ["journalctl", f"--root={tmp_path}", "--list-catalog"], capture_output=True, text=True, check=True
    ).stdout
    assert {line.split()[0] for line in listing.splitlines()} == set(catalog())
