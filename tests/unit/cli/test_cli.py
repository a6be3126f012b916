"""vtpmctl as a person or a script meets it: its command line, its errors and its exit statuses; never a traceback."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swtpm_svc import __version__
from swtpm_svc.cli import command_line
from swtpm_svc.cli.command import Command, Program
from swtpm_svc.cli.vtpmctl import entry
from swtpm_svc.cli.vtpmctl.commands import PROGRAM
from swtpm_svc.cli.vtpmctl.host import Places
from swtpm_svc.errors import Code, VtpmError

ROOT = Path(__file__).resolve().parents[3]
COMMANDS = [command.name for command in PROGRAM.commands]
SCRIPT = "import sys; from swtpm_svc.cli.vtpmctl.entry import main; sys.exit(main())"


class Result:
    """What a run has left."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    for name in ("config", "run", "sys"):
        (tmp_path / name).mkdir()
    return Places(str(tmp_path / "config"), str(tmp_path / "run"), str(tmp_path / "sys"))


@pytest.fixture
def run(places, capsys):
    def run(*arguments: str) -> Result:
        status = entry.main(list(arguments), places)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Result(status, captured.out, captured.err)

    return run


def parse(*words: str) -> "tuple[Command, dict[str, Any]]":
    return command_line.parse(PROGRAM, list(words))


def spawn(*arguments: str, **options: Any) -> "subprocess.Popen[str]":
    # buffered, as for everybody: what is left in the buffer at the end is where the trouble would be
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment, **options}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments], cwd=ROOT, **options)


def configure(places: Places, name: str, text: str = '[device]\ngroup = "root"\n') -> Path:
    file = Path(places.config) / f"{name}.toml"
    file.write_text(text)
    return file


# --- the command line ------------------------------------------------------------------------------------------------


def test_help_names_every_command(run):
    result = run("--help")
    assert result.status == 0
    for command in COMMANDS:
        assert f"\n    {command}" in result.out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_own_help(run, command):
    result = run(command, "--help")
    assert result.status == 0
    assert result.out.startswith(f"usage: vtpmctl {command}")


def test_version(run):
    assert run("--version").out == f"vtpmctl {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["frobnicate"], "argument COMMAND: invalid choice: 'frobnicate'"),
        (["status"], "the following arguments are required: NAME"),
        (["stat", "vtpm0"], "argument COMMAND: invalid choice: 'stat'"),
        (["list", "vtpm0"], "unrecognized arguments: vtpm0"),
        (["init", "vtpm0", "--delete"], "unrecognized arguments: --delete"),
        (["locality", "vtpm0"], "the following arguments are required: N"),
        (["locality", "vtpm0", "5"], "argument N: invalid choice: "),
        (["locality", "vtpm0", "one"], "argument N: invalid int value: 'one'"),
        (["established", "vtpm0", "--reset", "--locality", "2"], "argument --locality: invalid choice: "),
        (["save", "vtpm0", "everything", "f"], "argument type: invalid choice: 'everything'"),
        (["buffer-size", "vtpm0", "-1"], "argument N: found '-1', expected a number from 0 to 0xffffffff"),
        (
            ["buffer-size", "vtpm0", "0x100000000"],
            "argument N: found '0x100000000', expected a number from 0 to 0xffffffff",
        ),
        (
            ["info", "vtpm0", "--flags", "colour"],
            "argument --flags: found 'colour', expected a number or some of specification,",
        ),
        (
            ["info", "vtpm0", "--flags", "1x"],
            "argument --flags: found '1x', expected a number from 0 to 0xffffffffffffffff",
        ),
        (["createek"], "no TPM is named"),
        (["createek", "vtpm0", "--algorithm", "rsa1024"], "argument --algorithm: invalid choice: 'rsa1024'"),
        (["getpubek", "vtpm0", "--owner-password-fd", "x"], "argument --owner-password-fd: invalid int value: 'x'"),
        (["takeown", "vtpm0", "--owner-password"], "unrecognized arguments: --owner-password"),
        (["takeown", "tcp:lab:x"], "tcp:lab:x is not an address"),
        (["takeown", "a b"], 'instance name: found "a b", expected 1 to 87 letters,'),
        (["init", "a b"], 'instance name: found "a b", expected 1 to 87 letters,'),
        (["status", "../vtpm0"], 'instance name: found "../vtpm0", expected 1 to 87 letters,'),
    ],
)
def test_a_wrong_command_line_is_status_64_with_a_remedy(run, arguments, message):
    result = run(*arguments)
    assert (result.status, result.out) == (64, "")
    cause, remedy = result.err.splitlines()
    assert cause.startswith(f"vtpmctl: {message}")
    assert remedy.startswith("  remedy: ")


def test_json_is_understood_before_and_after_the_command():
    assert parse("--json", "status", "vtpm0")[1]["json"]
    assert parse("status", "vtpm0", "--json")[1]["json"]
    assert parse("--json", "ca", "show")[1]["json"]
    assert parse("ca", "show", "--json")[1]["json"]
    assert not parse("status", "vtpm0")[1]["json"]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_of_itself_what_the_whole_parser_says(name, capsys):
    with pytest.raises(SystemExit):
        parse(name, "--help")
    alone = capsys.readouterr().out
    with pytest.raises(SystemExit):
        command_line.make_parser(PROGRAM).parse_args([name, "--help"])
    assert capsys.readouterr().out == alone != ""


def test_flags_are_numbers_or_names():
    def flags(*arguments: str) -> int:
        return int(parse("info", "vtpm0", *arguments)[1]["flags"])

    assert flags() == 0x07
    assert flags("--flags", "0xff") == 0xFF
    assert flags("--flags", "3") == 3
    assert flags("--flags", "attributes,runtime-attributes") == 0x82


@given(
    st.lists(
        st.text(max_size=12) | st.sampled_from([*COMMANDS, "--json", "--reset", "-", "--", "vtpm0"]),
        max_size=6,
    )
)
def test_any_words_are_understood_or_refused(words):
    command, code = None, None
    try:
        command = parse(*words)[0]
    except VtpmError as error:
        code = error.code
    except SystemExit as leaving:  # --help, --version
        code = leaving.code
    assert code in (Code.USAGE, 0) if command is None else command.function


# --- errors ----------------------------------------------------------------------------------------------------------


def test_a_name_without_a_configuration(run, places):
    result = run("init", "vtpm0")
    assert result.status == 78
    assert result.err == (
        f"vtpmctl: {places.config}/vtpm0.toml does not exist\n"
        "  remedy: see vtpmctl list; for a device without a configuration give its path: /dev/vtpm0\n"
    )


def test_a_configuration_without_a_device(run, places):
    configure(places, "vtpm0", '[device]\nname = "vtpm-none"\n')
    result = run("init", "vtpm0")
    assert result.status == 69
    assert result.err == (
        "vtpmctl: /dev/vtpm-none does not exist\n  remedy: start it: systemctl start vtpm@vtpm0.service\n"
    )


def test_a_path_is_used_as_it_is(run, tmp_path):
    assert "/dev/vtpm-none does not exist" in run("power", "off", "/dev/vtpm-none").err
    (tmp_path / "file").touch()
    result = run("power", "off", str(tmp_path / "file"))
    assert (result.status, "is neither a character device nor a socket" in result.err) == (64, True)


def test_a_device_of_another_kind(run):
    """/dev/null has no ioctls: ENOTTY from a real driver."""
    result = run("init", "/dev/null")
    assert result.status == 76
    assert result.err == (
        "vtpmctl: /dev/null: PTM_INIT is unknown to /dev/null\n  remedy: check that the device is one of ours: vtpmctl "
        "list\n"
    )


def test_errors_as_json(run):
    result = run("--json", "init", "/dev/vtpm-none")
    assert result.status == 69
    assert result.json == {
        "error": {
            "code": "daemon-unreachable",
            "message": "/dev/vtpm-none does not exist",
            "remedy": "start what makes it; the instances: vtpmctl list",
            "exit_status": 69,
        }
    }
    assert "vtpmctl: /dev/vtpm-none does not exist" in result.err


def test_a_fault_of_our_own_is_one_line(run, monkeypatch):
    def fail(program: Program, arguments: "list[str]") -> None:
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr(command_line, "parse", fail)
    result = run("list")
    assert result.status == 70
    assert (
        result.err
        == "vtpmctl: a fault of this program (RuntimeError: first)\n  remedy: please report it, with this line\n"
    )


# --- the output ------------------------------------------------------------------------------------------------------


def end_of(process: "subprocess.Popen[str]") -> Result:
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    assert "Exception ignored" not in err
    return Result(process.returncode, out or "", err)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["info", "--help"], ["check", "/dev/null/x.toml", "--json"]]
)
def test_nobody_reads_the_output(arguments):
    reader, writer = os.pipe()
    os.close(reader)
    process = spawn(*arguments, stdout=writer)
    os.close(writer)
    result = end_of(process)
    if arguments[0] == "check":
        assert result.status == 78  # what went wrong first
    else:
        assert (result.status, result.err) == (141, "")


@pytest.mark.parametrize("arguments", [["--help"], ["check"], ["check", "--json"]])
def test_a_full_disk_takes_no_output(arguments, tmp_path):
    (tmp_path / "vtpm0.toml").write_text('[device]\ngroup = "root"\n')
    file = [] if arguments == ["--help"] else [str(tmp_path / "vtpm0.toml")]
    with open("/dev/full", "w") as full:
        result = end_of(spawn(*arguments, *file, stdout=full))
    assert result.status == 74
    assert result.err == (
        "vtpmctl: the output cannot be written (No space left on device)\n  remedy: write it to another place\n"
    )


def test_without_any_output():
    process = subprocess.Popen(
        ["sh", "-c", 'exec "$@" >&- 2>&-', "sh", sys.executable, "-c", SCRIPT, "init", "/dev/null"], cwd=ROOT
    )
    assert process.wait(timeout=60) == 76


def test_a_locale_that_cannot_say_it(tmp_path):
    file = tmp_path / "é.toml"
    process = spawn(
        "check", str(file), env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    )
    result = end_of(process)
    assert result.status == 78
    assert "\\udcc3\\udca9.toml does not exist" in result.err


def test_an_interrupt_from_the_keyboard():
    reader, writer = os.pipe()
    # the tests may run in a shell's background, which ignores the signal
    process = spawn(
        "hash",
        "/dev/null",
        f"/dev/fd/{reader}",
        pass_fds=(reader,),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    os.close(reader)
    # more than a pipe holds: when all is written, it is being read
    assert os.write(writer, bytes(1 << 17)) == 1 << 17
    time.sleep(0.1)  # Python misses a signal right before a system call
    process.send_signal(signal.SIGINT)
    result = end_of(process)
    os.close(writer)
    assert (result.status, result.out, result.err) == (130, "", "")
