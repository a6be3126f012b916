"""Completion in bash, zsh and fish: what is in the tree is what the tables of commands make, and the shells offer it."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Union

import pytest
import shells
from shells import COMPLETION, SHELLS, Bash, Fish, Zsh

from swtpm_svc.cli.command import Command, Offer
from swtpm_svc.cli.vtpmctl.commands import INFO_NAMES, PROGRAM
from swtpm_svc.provision.ek_templates import ENDORSEMENT_KEYS
from swtpm_svc.service.vtpmd import HELP
from swtpm_svc.state.encryption import MODES
from swtpm_svc.state.keys import FORMATS

ROOT = Path(__file__).resolve().parents[3]
COMMANDS = [command for command in PROGRAM.commands if not command.actions]
GROUPS = [command for command in PROGRAM.commands if command.actions]
Shell = Union[Bash, Zsh, Fish]


def test_what_is_in_the_tree_is_what_the_tables_make(tmp_path):
    subprocess.run([sys.executable, "tools/make_completion.py", tmp_path], cwd=ROOT, check=True)
    made, there = (
        {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path, COMPLETION)
    )
    assert made == there, "run: make completion"
    assert len(made) == 2 * len(SHELLS)
    assert all(f"@{word}@" not in text for text in made.values() for word in ("NAME", "MADE"))


def test_each_is_installed_by_make_and_by_the_package():
    """The folder of each shell, in the Makefile below PREFIX and in the package."""
    for text in ((ROOT / "Makefile").read_text(), (ROOT / "packaging/swtpm.spec").read_text()):
        for shell, folder in {
            "bash": "bash-completion/completions",
            "zsh": "zsh/site-functions",
            "fish": "fish/vendor_completions.d",
        }.items():
            assert re.search(rf"install .*/{folder}\"? packaging/completion/{shell}/\*", text), (shell, folder)
    spec = (ROOT / "packaging/swtpm.spec").read_text()
    listed = set(re.findall(r"^%\{_datadir\}/(?:bash-c|zsh/|fish/).*/([^/\n]+)$", spec, re.MULTILINE))
    assert listed == {path.name for path in COMPLETION.rglob("*") if path.is_file()}


# --- what is offered -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configurations, and a file and a folder beside them."""
    folder = tmp_path_factory.mktemp("completion") / "vtpm.d"
    folder.mkdir()
    for name in ("vtpm0.toml", "vm-a.toml", "file"):
        (folder / name).touch()
    (folder / "folder").mkdir()
    return folder


@pytest.mark.parametrize(
    "name", ["bash", *(pytest.param(name, marks=pytest.mark.needs(name)) for name in ("zsh", "fish"))]
)
def test_a_tree_whose_path_has_a_blank_is_asked_too(name, directory, tmp_path, monkeypatch):
    """Who has cloned into such a folder gets the tree's completion to see, not files that the shell offers by itself."""
    monkeypatch.setattr(shells, "COMPLETION", shutil.copytree(COMPLETION, tmp_path / "a person's tree"))
    with SHELLS[name]("vtpmctl", directory) as started:
        assert "buffer-size" in started.complete("")


@pytest.fixture(
    scope="module",
    params=["bash", *(pytest.param(name, marks=pytest.mark.needs(name)) for name in ("zsh", "fish"))],
)
def shell(request, directory) -> Iterator[Shell]:
    with SHELLS[request.param]("vtpmctl", directory) as started:
        yield started


@pytest.fixture(
    scope="module",
    params=["bash", *(pytest.param(name, marks=pytest.mark.needs(name)) for name in ("zsh", "fish"))],
)
def daemon_shell(request, directory) -> Iterator[Shell]:
    with SHELLS[request.param]("vtpmd", directory) as started:
        yield started


def names(*rows: Command) -> "list[str]":
    return sorted(row.name for row in rows)


def options(command: Command) -> "list[str]":
    every = [*PROGRAM.everywhere, *command.options]
    return sorted(["--help", *(name for option in every for name in option.names if name.startswith("--"))])


def test_commands_are_offered(shell):
    assert sorted(shell.complete("")) == names(*PROGRAM.commands)
    assert sorted(shell.complete("--json", "st")) == ["start", "status", "stop", "store-volatile"]
    assert sorted(shell.complete("--")) == ["--help", "--json", "--version"]


OF_INSTANCES = [row for row in COMMANDS if row.places and row.places[0].names == ("name",)]


@pytest.mark.parametrize("command", OF_INSTANCES, ids=lambda row: row.name)
def test_instances_are_offered(shell, command):
    assert shell.complete(command.name, "vt") == ["vtpm0"]
    assert sorted(shell.complete("--json", command.name, "")) == ["vm-a", "vtpm0"]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda row: row.name)
def test_options_are_offered(shell, command):
    behind = ["vtpm0"] if command.places else []
    assert sorted(shell.complete(command.name, *behind, "--")) == options(command)


@pytest.mark.parametrize("group", GROUPS, ids=lambda row: row.name)
def test_the_actions_of_a_group_are_offered(shell, group):
    assert sorted(shell.complete(group.name, "")) == names(*group.actions)
    for action in group.actions:
        assert sorted(shell.complete(group.name, action.name, "--")) == options(action)


ROWS = [(row.name, row) for row in COMMANDS]
ROWS += [(f"{group.name} {row.name}", row) for group in GROUPS for row in group.actions]


@pytest.mark.parametrize(("words", "row"), ROWS, ids=[words for words, _row in ROWS])
def test_the_values_of_each_argument_are_offered(shell, words, row):
    """Each option that has a value, and each argument by its place."""
    lines = [([option.names[0], ""], option) for option in row.options if option.takes_value]
    lines += [(["x"] * number + [""], place) for number, place in enumerate(row.places)]
    for line, argument in lines:
        found = [word.rpartition("/")[2] or word for word in shell.complete(*words.split(), *line)]
        offered = argument.offered
        if isinstance(offered, tuple):
            assert set(found) == set(offered), line
        elif offered is Offer.FILE:
            assert {word.rstrip("/") for word in found if word} >= {"file", "vtpm0.toml"}, line
        elif offered is Offer.DIRECTORY:
            assert [word for word in found if "file" in word] == [], line
            assert shell.complete(*words.split(), *line[:-1], "fo") in (["folder"], ["folder/"]), line
        elif offered in (Offer.INSTANCE, Offer.INSTANCE_OR_PATH):
            assert set(found) == {"vtpm0", "vm-a"}, line
        elif offered is Offer.GROUP:
            assert {"root", "daemon"} <= set(found), line
        else:
            assert offered is Offer.NOTHING
            # zsh then shows the options that there are
            assert [word for word in found if not word.startswith("-")] == [], line


def test_values_that_a_person_knows(shell):
    """As above, in words: not by the table."""
    offers = {
        ("save", "vtpm0", ""): ["permanent", "savestate", "volatile"],
        ("load", "vtpm0", "permanent", "fi"): ["file"],
        ("hash", "vtpm0", "fi"): ["file"],
        ("locality", "vtpm0", ""): ["0", "1", "2", "3", "4"],
        ("established", "vtpm0", "--reset", "--locality", ""): ["3", "4"],
        ("info", "vtpm0", "--flags", ""): sorted(INFO_NAMES),
        ("createek", "vtpm0", "--algorithm", ""): sorted(ENDORSEMENT_KEYS),
        ("takeown", "vtpm0", "--owner-password-file", "fi"): ["file"],
        ("takeown", "--owner-password-fd", "5", "vt"): ["vtpm0"],
        ("getpubek", "vtpm0", "-pwdo", ""): [],
        ("create", "--tpm-version", ""): ["1.2", "2.0"],
        ("create", "--srk", ""): ["ecc-p256", "rsa2048"],
        ("create", "--key-file", "fi"): ["file"],
        ("create", "--ek", "rsa2048", "vt"): ["vtpm0"],
        ("create", "--key-format", ""): sorted(["auto", *FORMATS]),
        ("create", "--key-mode", ""): sorted(["auto", *MODES]),
        ("ca", "import", "fi"): ["file"],
        ("rekey", "vtpm0", "--from", "f"): ["fd=", "file="],
    }
    for words, expected in offers.items():
        assert sorted(shell.complete(*words)) == expected, words


def test_a_path_is_offered_in_an_instance_s_place(shell):
    assert [word.rpartition("/")[2] for word in shell.complete("init", "/dev/nul")] == ["null"]
    assert [word.rpartition("/")[2] for word in shell.complete("status", "/dev/nul")] == ["null"]
    assert shell.complete("rekey", "/dev/nul") == []


def test_a_value_behind_an_equals_sign(shell):
    """bash has the = as a word of its own, the others repeat what is before it."""
    assert shell.complete("info", "vtpm0", "--flags=sp")[0] in ("specification", "--flags=specification")
    assert shell.complete("info", "--flags=specification", "vt") == ["vtpm0"]
    assert shell.complete("rekey", "vtpm0", "--from", "file=fi") in (["file"], ["file=file"])
    assert shell.complete("rekey", "--from", "file=x", "vt") == ["vtpm0"]


def test_nothing_is_offered_where_nothing_follows(shell):
    assert [word for word in shell.complete("list", "") if not word.startswith("-")] == []
    assert shell.complete("frobnicate", "") == []


def test_the_daemon_is_completed(daemon_shell):
    assert daemon_shell.complete("vt") == ["vtpm0"]
    assert sorted(daemon_shell.complete("--")) == sorted(re.findall(r"^  (--[a-z]+)", HELP, re.MULTILINE))
    assert daemon_shell.complete("--config", "fi") == ["file"]
    assert "root" in daemon_shell.complete("--user", "roo")


@pytest.mark.parametrize("name", ["vtpmctl", "vtpmd"])
def test_a_shell_has_no_complaint_about_its_script(name):
    subprocess.run(["bash", "-n", COMPLETION / "bash" / name], check=True)
    assert (COMPLETION / "zsh" / f"_{name}").read_text().startswith(f"#compdef {name}\n")
