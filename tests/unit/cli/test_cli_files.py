"""vtpmctl's files: whole or not at all, readable by their owner only, and never a device replaced."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from swtpm_svc.cli import operator_files
from swtpm_svc.cli.passwords import Password
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.service import capture

ROOT = Path(__file__).resolve().parents[3]


def refusal(function, *arguments) -> VtpmError:
    with pytest.raises(VtpmError) as caught:
        function(*arguments)
    assert caught.value.remedy
    return caught.value


def test_a_file_is_written_for_its_owner_only(tmp_path):
    file = tmp_path / "blob"
    previous = os.umask(0)
    try:
        operator_files.write_whole(str(file), b"content")
    finally:
        os.umask(previous)
    assert file.read_bytes() == b"content"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_others_could_read_is_replaced_not_filled(tmp_path):
    file = tmp_path / "blob"
    file.write_bytes(b"before")
    file.chmod(0o644)
    with file.open("rb") as reader:
        operator_files.write_whole(str(file), b"after")
        assert reader.read() == b"before"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_bytes() == b"after"


def test_a_symbolic_link_stays_one(tmp_path):
    (tmp_path / "there").mkdir()
    link = tmp_path / "link"
    link.symlink_to("there/blob")
    operator_files.write_whole(str(link), b"content")
    assert link.is_symlink()
    assert (tmp_path / "there/blob").read_bytes() == b"content"


def test_what_is_no_file_is_not_replaced(tmp_path):
    """Renaming onto /dev/null would take it from everybody; a FIFO stands for it here."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("fifo")
    (tmp_path / "directory").mkdir()
    for name in ("fifo", "link", "directory"):
        error = refusal(operator_files.write_whole, str(tmp_path / name), b"content")
        assert (error.code, error.message) == (Code.USAGE, f"{tmp_path / name} is not a regular file")
    assert stat.S_ISFIFO((tmp_path / "link").stat().st_mode)


def test_a_directory_that_is_not_there(tmp_path):
    error = refusal(operator_files.write_whole, str(tmp_path / "none/blob"), b"content")
    assert error.code is Code.STATE_UNWRITABLE
    assert error.message == (
        f"{tmp_path}/none/blob cannot be written (No such file or directory); what was there before is unchanged"
    )


def test_a_write_that_fails_in_the_middle_leaves_what_was_there(tmp_path):
    """A limit on the size of files, as a full disk: the write stops half-way."""
    file = tmp_path / "blob"
    file.write_bytes(b"before")
    code = (
        "import resource, signal, sys; from swtpm_svc.cli import operator_files\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "operator_files.write_whole(sys.argv[1], bytes(5000))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "cannot be written (File too large); what was there before is unchanged" in done.stderr
    assert file.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [file]


def test_an_interrupt_leaves_what_was_there(tmp_path, monkeypatch):
    file = tmp_path / "blob"
    file.write_bytes(b"before")

    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        operator_files.write_whole(str(file), b"after")
    assert file.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [file]


def test_content_is_on_disk_before_it_has_the_name(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "rename"):
        original = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, original=original: (calls.append(name), original(*a))[1])
    operator_files.write_whole(str(tmp_path / "blob"), b"content")
    assert calls == ["fsync", "rename", "fsync"]


def test_what_cannot_be_loaded(tmp_path):
    assert refusal(operator_files.read_whole, str(tmp_path / "none")).code is Code.STATE_MISSING
    assert refusal(operator_files.read_whole, str(tmp_path)).code is Code.STATE_UNREADABLE
    (tmp_path / "empty").touch()
    assert refusal(operator_files.read_whole, str(tmp_path / "empty")).code is Code.STATE_CORRUPT
    assert refusal(operator_files.read_whole, "/dev/zero").code is Code.TOO_LARGE
    (tmp_path / "blob").write_bytes(b"x")
    assert operator_files.read_whole(str(tmp_path / "blob")) == b"x"


def test_input_is_a_file_or_standard_input(tmp_path):
    (tmp_path / "data").write_bytes(b"\x00data\xff")
    assert operator_files.read_input(str(tmp_path / "data")) == b"\x00data\xff"
    assert refusal(operator_files.read_input, str(tmp_path / "none")).code is Code.STATE_MISSING
    assert refusal(operator_files.read_input, "/dev/zero", 100).code is Code.TOO_LARGE
    assert len(operator_files.read_input(str(tmp_path / "data"), 6)) == 6
    code = (
        "import sys; from swtpm_svc.cli import operator_files; sys.stdout.buffer.write(operator_files.read_input('-'))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, input=b"\x00in\xff", capture_output=True, check=True)
    assert done.stdout == b"\x00in\xff"


@pytest.mark.parametrize(
    "read",
    [
        operator_files.read_whole,
        operator_files.read_input,
        lambda path: Password("owner", file=path).given(),
        capture.open_file,
    ],
)
def test_a_named_pipe_is_no_file_and_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises((VtpmError, OSError), match="it is a named pipe"):
        read(str(tmp_path / "fifo"))
