"""The table of vtpmctl's commands: each row is whole, and says what is so. What is made from it: test_completion.py,
test_cli_manual.py, test_cli.py."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from swtpm_svc.cli import command_line
from swtpm_svc.cli.command import Argument, Command, Cryptography, Given, Offer, Program, load
from swtpm_svc.cli.vtpmctl import commands, create
from swtpm_svc.cli.vtpmctl.commands import PROGRAM
from swtpm_svc.config.schema import SCHEMA
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.provision import ca_directory
from swtpm_svc.provision.ek_templates import ENDORSEMENT_KEYS
from swtpm_svc.wire.algorithms import ENDORSEMENT_KEY_NAMES
from swtpm_svc.wire.ptm import BlobType, InfoFlag

ROOT = Path(__file__).resolve().parents[3]
#: All that do something, by the words that choose them.
ROWS = {
    f"{command.name} {row.name}" if row is not command else row.name: row
    for command in PROGRAM.commands
    for row in (command.actions or (command,))
}
GIVEN = {
    Given.NOTHING: [],
    Given.HOST: ["places"],
    Given.INSTANCE: ["places"],
    Given.DEVICE: ["device"],
    Given.TPM: ["tpm"],
    Given.STARTED_TPM: ["tpm"],
    Given.WATCHED_TPM: ["tpm", "record"],
}
#: What becomes one `Password`.
PASSWORDS = {
    "owner": {"owner_password_file", "owner_password_fd", "owner_password_credential", "pwdo"},
    "srk": {"srk_password_file", "srk_password_fd", "srk_password_credential"},
}


def named(argument: Argument) -> str:
    return argument.dest or argument.names[0].lstrip("-").replace("-", "_")


def wanted(row: Command) -> "set[str]":
    """The names of what the function gets from the command line."""
    names = {named(argument) for argument in row.arguments} | ({"as_json"} if row.streams else set())
    if row.given not in (Given.NOTHING, Given.HOST, Given.INSTANCE):
        names -= {"name"}
        for role, options in PASSWORDS.items():
            if options <= names:
                names = names - options | {role}
    return names


def test_no_two_have_the_same_name():
    for rows in (PROGRAM.commands, *(command.actions for command in PROGRAM.commands)):
        assert len({row.name for row in rows}) == len(rows)


@pytest.mark.parametrize("words", ROWS)
def test_a_row_s_function_takes_what_the_row_gives(words):
    row = ROWS[words]
    parameters = inspect.signature(load(row.function)).parameters.values()
    by_place = [one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
    by_name = {one.name for one in parameters if one.kind is one.KEYWORD_ONLY}
    assert [name.lstrip("_") for name in by_place] == GIVEN[row.given]
    if any(one.kind is one.VAR_KEYWORD for one in parameters):
        assert by_name <= wanted(row)
    else:
        assert by_name == wanted(row)


@pytest.mark.parametrize("words", ROWS)
def test_a_row_says_all_that_is_to_be_said(words):
    row = ROWS[words]
    assert row.help
    assert row.help[0].islower()
    assert not row.help.endswith(".")
    if row.given not in (Given.NOTHING, Given.HOST, Given.INSTANCE):
        assert row.places[0].names == ("name",), "what the command is about comes first"
    for argument in row.arguments:
        assert argument.help, argument.names
        if isinstance(argument.type, str):
            assert callable(load(argument.type)), argument.names
        if not argument.takes_value:
            assert argument.offered is Offer.NOTHING, argument.names
            assert argument.default is None, argument.names
        assert not (argument.choices and argument.offer is not Offer.NOTHING), argument.names


def test_what_stands_for_a_value_and_what_is_offered_agree():
    """FILE and the like are told to a person, and a shell knows them too. PROFILE is a name or a file."""
    kinds = {"FILE": Offer.FILE, "FILE|-": Offer.FILE, "DIR": Offer.DIRECTORY, "GROUP": Offer.GROUP}
    for words, row in ROWS.items():
        for argument in row.arguments:
            if argument.metavar in kinds:
                assert argument.offered is kinds[argument.metavar], (words, argument.names)
            if argument.names == ("name",):
                assert argument.offered in (Offer.INSTANCE, Offer.INSTANCE_OR_PATH), words


def test_the_names_are_those_of_what_they_stand_for():
    """The table repeats what it would take long to import."""
    assert sorted(commands.STATE_TYPES) == sorted(kind.name.lower() for kind in BlobType)
    assert list(commands.INFO_NAMES) == [flag.name.lower().replace("_", "-") for flag in InfoFlag]
    assert tuple(ENDORSEMENT_KEYS) == ENDORSEMENT_KEY_NAMES
    assert commands.CA_DIRECTORY == ca_directory.DIRECTORY


def test_the_options_of_create_are_keys_of_the_configuration():
    row = ROWS["create"]
    keys = {(table.name, key.name) for table in SCHEMA for key in table.keys}
    assert {(table, key) for _option, table, key in create._KEYS} <= keys
    passwords = {f"--{name.replace('_', '-')}" for names in PASSWORDS.values() for name in names} | {"-pwdo"}
    valued = {option.names[0] for option in row.options if option.takes_value} - passwords
    assert {option for option, _table, _key in create._KEYS} == valued


def test_a_program_is_asked_for_what_it_has():
    assert PROGRAM.find("ca", "show") is ROWS["ca show"]
    for words in (("frobnicate",), ("ca", "frobnicate"), ("status", "show")):
        with pytest.raises(KeyError):
            PROGRAM.find(*words)


def test_only_the_chosen_command_s_parser_is_made(monkeypatch):
    """All of them take as long as the rest of a short command."""
    made = []
    whole = command_line._add_commands
    monkeypatch.setattr(
        command_line, "_add_commands", lambda *words, **named: (made.append(words[2]), whole(*words, **named))
    )
    command_line.parse(PROGRAM, ["--json", "list"])
    assert made == [(ROWS["list"],)]


def test_who_errs_is_told_what_there_is():
    with pytest.raises(VtpmError, match="invalid choice") as raised:
        command_line.parse(PROGRAM, ["frobnicate"])
    # argparse before 3.12 quotes each choice
    told = re.split(r"[^\w-]+", raised.value.message)
    assert {command.name for command in PROGRAM.commands} <= set(told)


def test_a_program_without_commands_has_a_command_line_too():
    """As the classic tools are."""
    program = Program("tool", "Do it.", arguments=(Argument(("--level",), "how much", "N", type=int, default=1),))
    assert vars(command_line.make_parser(program).parse_args(["--level", "3"])) == {"level": 3}


def test_a_variable_of_the_environment_is_a_default(monkeypatch):
    monkeypatch.setenv("TPM_DEVICE", "/dev/x")
    assert command_line.parse(PROGRAM, ["createek"])[1]["name"] == "/dev/x"
    assert command_line.parse(PROGRAM, ["createek", "vtpm0"])[1]["name"] == "vtpm0"
    monkeypatch.delenv("TPM_DEVICE")
    assert command_line.parse(PROGRAM, ["createek"])[1]["name"] is None


@pytest.mark.parametrize("words", ROWS)
def test_a_user_was_told_of_it(words):
    text = (ROOT / "CHANGELOG.md").read_text()
    group, _, action = words.partition(" ")
    assert re.search(rf"`(?:vtpmctl )?{group}(?: [^`]*)?`", text)
    assert not action or re.search(rf"`(?:vtpmctl {group} )?{action}`", text)


# --- what is imported ------------------------------------------------------------------------------------------------

#: For each command, in a process of its own: what is there once its arguments are understood and its function is found.
IMPORTED = """
import os, sys
before = {*sys.modules}
from swtpm_svc.cli.vtpmctl import entry
from swtpm_svc.cli import command_line
from swtpm_svc.cli.command import load
from swtpm_svc.cli.vtpmctl.commands import PROGRAM
try:
    command_line.parse(PROGRAM, ["--help"])
except SystemExit:
    print(["--help", sorted({*sys.modules} - before)], flush=True)
for words in sys.argv[1:]:
    child = os.fork()
    if not child:
        places = {"chain": "x", "type": "permanent", "locality": "0"}
        row = PROGRAM.find(*words.split())
        values = [places.get(one.names[0], "x") for one in row.places if not one.optional]
        chosen, _values = command_line.parse(PROGRAM, [*words.split(), *values])
        load(chosen.function)
        print([words, sorted({*sys.modules} - before)], flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.fixture(scope="module")
def imported() -> "dict[str, set[str]]":
    done = subprocess.run([sys.executable, "-c", IMPORTED, *ROWS], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    lines = [line for line in done.stdout.splitlines() if line.startswith("[")]
    found = {words: set(modules) for words, modules in map(ast.literal_eval, lines)}
    assert set(found) == {"--help", *ROWS}
    return found


def test_the_help_imports_none_of_the_commands(imported):
    ours = {name for name in imported["--help"] if name.startswith("swtpm_svc.cli.vtpmctl.")}
    assert ours == {"swtpm_svc.cli.vtpmctl.commands", "swtpm_svc.cli.vtpmctl.entry"}
    assert not {"json", "socket", "subprocess", "hashlib"} & imported["--help"]


@pytest.mark.parametrize("words", ROWS)
def test_no_command_has_cryptography_before_it_needs_it(imported, words):
    """Those that never need it are run without it in tests/integration/cli/test_without_cryptography.py."""
    assert "cryptography" not in imported[words]


@pytest.mark.parametrize("words", ROWS)
def test_a_command_imports_nothing_of_the_others(imported, words):
    """A new TPM does not wait for sockets and the PTM protocol, nor does a status for the doctor."""
    own = ROWS[words].function.partition(":")[0]
    others = {row.function.partition(":")[0] for row in ROWS.values()} - {own}
    if own.endswith(".ek"):  # the key is that of createek and getpubek
        others -= {"swtpm_svc.cli.vtpmctl.owner_commands"}
    others |= {"swtpm_svc.cli.vtpmctl.doctor", "swtpm_svc.cli.vtpmctl.inventory"}
    assert not others & imported[words]
    if words == "create":
        assert not {"socket", "swtpm_svc.wire.ptm", "swtpm_svc.cli.vtpmctl.status"} & imported[words]


@pytest.mark.parametrize("words", [words for words, row in ROWS.items() if row.cryptography is Cryptography.ALWAYS])
def test_a_command_that_needs_cryptography_looks_for_it_first(words, monkeypatch, tmp_path):
    from swtpm_svc.cli.vtpmctl.host import Places
    from swtpm_svc.cli.vtpmctl.performing import perform

    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(VtpmError) as raised:
        perform(ROWS[words], {}, Places(str(tmp_path)))
    assert raised.value.code is Code.INSTALLATION
    assert raised.value.remedy == "install python3-cryptography"


def test_each_command_is_below_one_heading():
    names = [name for _heading, names in PROGRAM.headings for name in names]
    assert sorted(names) == sorted(command.name for command in PROGRAM.commands)
