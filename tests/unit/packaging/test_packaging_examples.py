"""etc/vtpm.d: the examples are valid, show every key, and show it with the default that it really has."""

import re
from pathlib import Path

import pytest

from swtpm_svc.config import loading
from swtpm_svc.config.schema import SCHEMA

EXAMPLES = Path(__file__).resolve().parents[3] / "etc/vtpm.d"
INSTANCES = ("vtpm0", "vtpm1")
# prose begins with "# ", a key that is left at its default with "#key = "
COMMENTED_KEY = re.compile(r"^#(?=[a-z-]+ = )", flags=re.MULTILINE)


def text(instance: str) -> str:
    return (EXAMPLES / f"{instance}.toml").read_text()


def parse(content: str, instance: str) -> loading.Config:
    return loading.parse(content, f"/etc/vtpm.d/{instance}.toml", instance)


@pytest.mark.parametrize(("instance", "version"), [("vtpm0", "1.2"), ("vtpm1", "2.0")])
def test_it_is_a_configuration_that_works_on_a_host(instance, version):
    found = parse(text(instance), instance)
    assert found.tpm.version == version
    # no firmware sends TPM_Startup to a TPM that only a host uses
    assert found.tpm.startup == "clear"
    assert found.device.name == instance


@pytest.mark.parametrize("instance", INSTANCES)
def test_every_key_is_shown_in_its_table(instance):
    shown, table = [], ""
    for line in COMMENTED_KEY.sub("", text(instance)).splitlines():
        if line.startswith("["):
            table = line.strip("[]")
        elif line and not line.startswith("#"):
            shown.append((table, line.split(" = ")[0]))
    assert shown == [(table.name, key.name) for table in SCHEMA for key in table.keys]


@pytest.mark.parametrize("instance", INSTANCES)
def test_what_is_commented_out_is_the_default(instance):
    assert parse(COMMENTED_KEY.sub("", text(instance)), instance) == parse(text(instance), instance)


@pytest.mark.parametrize("instance", INSTANCES)
def test_the_lines_that_set_something_are_no_defaults(instance):
    set_lines = [line for line in text(instance).splitlines() if line and line[0] not in "#["]
    for line in set_lines:
        without = text(instance).replace(f"\n{line}\n", "\n")
        assert parse(without, instance) != parse(text(instance), instance), line
