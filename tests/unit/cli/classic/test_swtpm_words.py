"""What swtpm and swtpm_cuse say before they serve: help, version, words that are wrong (measured with its releases)."""

import os
import sys

import pytest

from swtpm_svc import start
from swtpm_svc.cli.classic import swtpm_help, swtpm_run
from swtpm_svc.cli.classic.swtpm_options import CHARDEV_OPTIONS, CUSE_OPTIONS, SOCKET_OPTIONS


def run(monkeypatch, function, *words):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/program", *words])
    return function()


@pytest.mark.parametrize("word", ["-v", "--version"])
def test_version(monkeypatch, capsys, word):
    assert run(monkeypatch, start.swtpm, word) == 0
    assert capsys.readouterr().out == ("TPM emulator version 0.10.2, Copyright (c) 2014-2022 IBM Corp. and others\n")


def test_version_of_cuse(monkeypatch, capsys):
    assert run(monkeypatch, start.swtpm_cuse, "-v") == 0
    assert capsys.readouterr().out == (
        "TPM emulator CUSE interface version 0.10.2, Copyright (c) 2014-2015 IBM Corp.\n"
    )


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_help_names_the_interfaces(monkeypatch, capsys, word):
    assert run(monkeypatch, start.swtpm, word) == 0
    assert "Usage: /usr/bin/program socket|chardev|cuse [options]\n" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "said"), [
    ((), "Missing TPM interface type.\n"),
    (("foo",), "Unsupported TPM interface type 'foo'.\nTPM emulator with choice of interface.\n"),
    (("socket", "--foo"), "socket: unrecognized option '--foo'\nUsage: /usr/bin/program socket [options]\n"),
    (("chardev", "--server", "x"), "chardev: unrecognized option '--server'\nUsage: /usr/bin/program chardev [options]\n"),
    (("socket", "--print"), "socket: option '--print' is ambiguous; possibilities: '--print-capabilities' '--print-states' '--print-profiles' '--print-info'\n"),
    (("socket", "-p"), "socket: option requires an argument -- 'p'\n"),
    (("socket", "left", "over"), "swtpm: Unknown parameter 'left'\n"),
    (("socket", "--print-info", "x"), "swtpm: Cannot parse info value 'x'.\n"),
    (("socket", "--runas", "nobody-here"), "swtpm: Error: User 'nobody-here' does not exist.\n"),
    (("socket", "--print-states"), "swtpm: Error: --tpmstate option is required for --print-states\n"),
    (("chardev",), "swtpm: Error: Missing character device or file descriptor\n"),
    (("chardev", "--vtpm-proxy", "-c", "/dev/null"), "swtpm: Cannot use vTPM proxy with a provided device.\n"),
    (("chardev", "-c", "/nowhere"), "swtpm: Cannot open /nowhere: No such file or directory\n"),
])  # fmt: skip
def test_what_is_wrong(monkeypatch, capfd, words, said):
    assert run(monkeypatch, start.swtpm, *words) == 1
    found = capfd.readouterr()
    assert (found.out, found.err[: len(said)]) == ("", said)


@pytest.mark.parametrize(("words", "status", "said"), [
    (("-n", "x", "left"), 1, "swtpm: Unknown parameter 'left'\n"),
    (("--foo",), 254, "program: unrecognized option '--foo'\nswtpm: Error: device name missing\n"),
    (("-n", "x", "-M", "70000"), 255, "swtpm: Major number outside valid range [0 - 65535]\n"),
    (("-n", "x", "-m", "y"), 255, "swtpm: Could not parse minor number\n"),
    (("-n", "x", "-r", "nobody-here"), 251, "swtpm: User 'nobody-here' does not exist\n"),
    (("-n", "x", "--flags", "y"), 253, "swtpm: Error parsing flags options: Unknown option 'y'\n"),
    (("-n", "x", "--key", "file=/nowhere"), 253, "swtpm: Unable to open file /nowhere: No such file or directory\n"),
    (("-n", "x"), 255, "swtpm: Error: No TPM state directory is defined; TPM_PATH is not set\n"),
    (("-n", "x", "--tpmstate", "dir=/nowhere/state"), 255, "swtpm: Error: Could not open tpmstate dir /nowhere/state\n"),
])  # fmt: skip
def test_what_is_wrong_with_cuse(monkeypatch, capfd, words, status, said):
    monkeypatch.delenv("TPM_PATH", raising=False)
    monkeypatch.setattr(os, "setuid", lambda _uid: None)
    assert run(monkeypatch, start.swtpm_cuse, *words) == status
    found = capfd.readouterr()
    assert (found.out, found.err) == ("", said)


def test_cuse_is_roots(monkeypatch, capfd):
    def refuse(_uid):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "setuid", refuse)
    assert run(monkeypatch, start.swtpm_cuse, "-n", "x") == 252
    assert capfd.readouterr().err.startswith("swtpm: Error: Unable to setuid root. uid = ")


@pytest.mark.parametrize(("interface", "options"), [("socket", SOCKET_OPTIONS), ("chardev", CHARDEV_OPTIONS), ("cuse", CUSE_OPTIONS)])  # fmt: skip
def test_the_help_has_every_option(interface, options):
    text = swtpm_help.of_interface(interface, "swtpm")
    assert [option.name for option in options if f"--{option.name}" not in text] == []
    assert [option.letter for option in options if option.letter and f"-{option.letter}|" not in text] == []


@pytest.mark.parametrize("interface", ["socket", "chardev", "cuse"])
def test_help_of_an_interface(monkeypatch, capsys, interface):
    """It acts while words are read: what follows may be wrong."""
    assert run(monkeypatch, start.swtpm, interface, "--help", "--foo") == 0
    assert capsys.readouterr().out.startswith(f"Usage: /usr/bin/program {interface} [options]\n")


@pytest.mark.parametrize("function", [start.swtpm, start.swtpm_cuse])
def test_a_fault_of_ours_is_one_line(monkeypatch, capsys, function):
    def fail(*_words, **_more):
        raise RuntimeError("something\nelse")

    monkeypatch.setattr(os, "setuid", lambda _uid: None)
    monkeypatch.setattr(swtpm_run, "open_log", fail)
    assert run(monkeypatch, function, *(["socket"] if function is start.swtpm else ["-n", "x"])) == 1
    assert capsys.readouterr().err == "swtpm: a fault of this program (RuntimeError: something)\n"


def test_nobody_reads_what_is_printed(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert run(monkeypatch, start.swtpm, "--help") == 141
