"""vtpmctl start, stop, restart, enable, disable, logs and edit, with programs of the test's own in their places.

The real ones are in tests/lab/vm.
"""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
WORDS = [
    (["start"], "started", ["start"]),
    (["stop"], "stopped", ["stop"]),
    (["restart"], "restarted; its clients go on where they were", ["restart"]),
    (["enable"], "is started at each boot", ["enable"]),
    (["enable", "--now"], "started now and at each boot", ["enable", "--now"]),
    (["disable"], "is not started at boot any more", ["disable"]),
    (["disable", "--now"], "stopped, and not started at boot any more", ["disable", "--now"]),
]


@pytest.fixture
def asked(system, tmp_path):
    """What systemctl was asked, and the program that answers: `fail(...)` has it fail."""
    file = tmp_path / "asked"

    class Asked:
        def answer(self, script: str) -> None:
            system.systemctl(f'printf "%s\\n" "$*" >> {file}\n{script}')

        @property
        def lines(self) -> "list[str]":
            return file.read_text().splitlines() if file.exists() else []

    made = Asked()
    made.answer("")
    system.configure("vm7")
    return made


@pytest.mark.parametrize(
    ("words", "said", "command"), WORDS, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_what_systemctl_is_asked(asked, run, words, said, command):
    assert run(words[0], "vtpm@vm7", *words[1:]) == (0, f"vm7: {said}\n", "")
    assert asked.lines == [" ".join([*command, "--", "vtpm@vm7.service"])]
    values = json.loads(run(words[0], "vm7", *words[1:], "--json")[1])
    assert values == {"instance": "vm7", "done": said, "told": []}


def test_what_systemctl_tells_is_told(asked, run):
    asked.answer("echo 'Created symlink a, pointing to b.' >&2")
    assert run("enable", "vm7")[1] == "vm7: is started at each boot\nCreated symlink a, pointing to b.\n"


@pytest.mark.parametrize("word", ["start", "restart", "enable"])
def test_what_cannot_be_started_is_not_tried(asked, run, system, word):
    assert run(word, "vm8")[0] == 78
    system.configure("vm9", "[tpm]\nversion = 3\n")
    status, _out, err = run(word, "vm9")
    assert (status, "[tpm] version: found the integer 3" in err) == (78, True)
    assert asked.lines == []


def test_what_has_lost_its_configuration_can_be_stopped(asked, run):
    assert run("stop", "vm8")[0] == 0
    assert run("disable", "vm8")[0] == 0


@pytest.mark.parametrize(
    ("script", "status", "cause", "remedy"),
    [
        (
            'echo "Failed to start vtpm@vm7.service: Access denied" >&2; exit 4', 77,
            "systemctl start vtpm@vm7.service: Failed to start vtpm@vm7.service: Access denied", "do this as root",
        ),
        (
            'echo "System has not been booted with systemd as init system (PID 1)." >&2; exit 1', 69,
            "systemd does not run here: System has not been booted with systemd as init system (PID 1).",
            "without it: vtpmd vm7 --foreground",
        ),
        (
            'if [ $1 = show ]; then echo Id=vtpm@vm7.service; echo ActiveState=failed; echo StatusText=no room; exit; fi; '
            'echo "Job failed. See ..." >&2; exit 1', 69,
            "systemctl start vtpm@vm7.service failed: no room", "see all that it said: vtpmctl logs vm7",
        ),
        (
            "[ $1 = show ] && exit 1; exit 5", 69,
            "systemctl start vtpm@vm7.service failed: status 5", "see all that it said: vtpmctl logs vm7",
        ),
        (
            '[ $1 = show ] && exit 1; echo "Unit vtpm@vm7.service is masked." >&2; exit 1', 69,
            "systemctl start vtpm@vm7.service failed: Unit vtpm@vm7.service is masked.",
            "see all that it said: vtpmctl logs vm7",
        ),
    ],
)  # fmt: skip
def test_what_systemctl_cannot_do(asked, run, script, status, cause, remedy):
    asked.answer(script)
    assert run("start", "vm7") == (status, "", f"vtpmctl: {cause}\n  remedy: {remedy}\n")


def test_without_systemctl(system, run, monkeypatch):
    system.configure("vm7")
    monkeypatch.setenv("PATH", "/nonexistent")
    status, _out, err = run("start", "vm7")
    assert (status, err) == (
        69,
        "vtpmctl: systemctl cannot be run (No such file or directory)\n"
        "  remedy: without systemd: vtpmd vm7 --foreground\n",
    )


# --- logs ------------------------------------------------------------------------------------------------------------


def in_a_process(system, *words: str) -> "subprocess.CompletedProcess[str]":
    """vtpmctl, which becomes another program."""
    script = "import sys; from swtpm_svc.cli.vtpmctl import entry; from swtpm_svc.cli.vtpmctl.host import Places; "
    script += f"sys.exit(entry.main(sys.argv[1:], Places{tuple(system.places)!r}))"
    return subprocess.run([sys.executable, "-c", script, *words], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ([], ""),
        (["--follow"], " -f"),
        (["-f", "-n", "5"], " -n 5 -f"),
        (["--lines", "0", "--json"], " -n 0 -o json"),
    ],
)
def test_logs_are_journalctl_s(system, words, options):
    file = system.bin / "journalctl"
    file.write_text('#!/bin/sh\necho "$*"; exit 3\n')
    file.chmod(0o755)
    done = in_a_process(system, "logs", "vm7", *words)
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout == f"-u vtpm@vm7.service -u vtpm@vm7.socket{options}\n"


def test_logs_without_journalctl(system, run, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    status, _out, err = run("logs", "vm7")
    assert (status, err.splitlines()[0]) == (69, "vtpmctl: journalctl cannot be run (No such file or directory)")
    assert run("logs", "vm7", "-n", "-1")[0] == 64


# --- edit ------------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def editor(system, monkeypatch):
    """Sets what the editor does with the file, "$1"."""
    system.configure("vm7", '[device]\ngroup = "root"\n')
    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setenv("TMPDIR", str(system.bin.parent))
    file = system.bin / "our editor"

    def set_script(script: str) -> None:
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        monkeypatch.setenv("EDITOR", f"'{file}'")

    monkeypatch.delenv("SYSTEMD_EDITOR", raising=False)
    return set_script


def configuration(system) -> Path:
    return Path(system.places.config) / "vm7.toml"


def test_what_is_right_takes_the_old_one_s_place(system, run, editor):
    file = configuration(system)
    file.chmod(0o640)
    editor("echo '# more' >> \"$1\"")
    status, out, err = run("edit", "vm7")
    assert (status, err) == (0, "")
    assert out.startswith(f"vm7: {file} is changed; systemctl reload vtpm@vm7 takes over ")
    assert file.read_text() == '[device]\ngroup = "root"\n# more\n'
    assert file.stat().st_mode & 0o777 == 0o640
    editor("true")
    assert run("edit", "vm7")[1] == "vm7: nothing was changed\n"
    assert os.listdir(system.places.config) == ["vm7.toml"]


def test_what_is_wrong_does_not_and_is_kept(system, run, editor):
    editor("echo 'colour = 1' >> \"$1\"")
    status, _out, err = run("edit", "vm7")
    assert status == 78
    cause, remedy = err.splitlines()
    assert "[device]: found the key colour" in cause
    kept = remedy.rpartition(" ")[2]
    assert Path(kept).read_text() == '[device]\ngroup = "root"\ncolour = 1\n'
    assert configuration(system).read_text() == '[device]\ngroup = "root"\n'


@pytest.mark.parametrize(
    ("script", "cause"),
    [('echo x > "$1"; exit 2', "the editor ended with status 2"), (None, "the editor '/nonexistent/vi' cannot be run")],
)
def test_an_editor_that_fails_changes_nothing(system, run, editor, monkeypatch, script, cause):
    if script:
        editor(script)
    else:
        monkeypatch.setenv("EDITOR", "/nonexistent/vi")
    status, _out, err = run("edit", "vm7")
    assert (status, cause in err) == (64, True)
    assert configuration(system).read_text() == '[device]\ngroup = "root"\n'


def test_without_a_terminal_or_an_instance(system, run, editor, monkeypatch):
    assert run("edit", "vm8")[0] == 78
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert run("edit", "vm7")[0] == 64
    monkeypatch.setattr("sys.stdin", None)
    assert run("edit", "vm7")[0] == 64


def test_a_drop_in_is_systemctl_s(system):
    system.systemctl('echo "$*"')
    assert in_a_process(system, "edit", "vm7", "--unit").stdout == "edit vtpm@vm7.service\n"
