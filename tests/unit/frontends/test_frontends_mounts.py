"""Mounting by fusermount3(1): what it says is told, and something is told where it says nothing."""

import os
import stat
import sys

import pytest

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.frontends.fuse import mounts

#: Hands the descriptor that it got as `_FUSE_COMMFD` over on that very socket, as fusermount3 does with /dev/fuse.
HANDS_OVER = """import os, socket
with socket.socket(fileno=int(os.environ["_FUSE_COMMFD"])) as channel, open("/dev/null") as file:
    socket.send_fds(channel, [b"0"], [file.fileno()])
"""


@pytest.fixture
def helper(tmp_path, monkeypatch):
    """Writes the program that is found as fusermount3; whoever mounts is not root."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def write(text, interpreter="/bin/sh"):
        program = tmp_path / "fusermount3"
        program.write_text(f"#!{interpreter}\n{text}\n")
        program.chmod(0o755)

    return write


@pytest.fixture
def point(tmp_path):
    (tmp_path / "point").mkdir()
    return tmp_path / "point"


def refusal(directory):
    with pytest.raises(VtpmError) as caught:
        mounts.mount(str(directory))
    assert caught.value.code is Code.MOUNT_FAILED
    assert caught.value.remedy.startswith("the directory must belong to the service's user")
    return caught.value.message


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("exit 3", "fusermount3: status 3"),
        ("echo; exit 3", "fusermount3: status 3"),
        ("echo not allowed >&2; exit 1", "fusermount3: not allowed"),
        ("echo 'fusermount3: mount failed:\n  Permission denied' >&2; exit 1", "fusermount3: mount failed: Permission denied"),
        ("echo a warning >&2", "fusermount3 gave no descriptor"),
    ],
    ids=["no reason", "no words on standard error", "without its name", "with its name", "no descriptor"],
)  # fmt: skip
def test_a_mount_that_fails_is_told_why(helper, point, program, words):
    helper(program)
    assert refusal(point) == f"cannot mount at {point}: {words}"


def test_a_helper_that_hangs_is_told(helper, point, monkeypatch):
    monkeypatch.setattr(mounts, "_HELPER_TIMEOUT_S", 0.1)
    helper("exec sleep 60")
    assert refusal(point) == f"cannot mount at {point}: fusermount3 does not end"


def test_no_helper(helper, point, monkeypatch):
    monkeypatch.setenv("PATH", str(point))
    with pytest.raises(VtpmError) as caught:
        mounts.mount(str(point))
    assert caught.value.code is Code.FUSE_UNAVAILABLE
    assert (caught.value.message, caught.value.remedy) == (
        "there is no fusermount3",
        "install fuse3, or start the service as root",
    )


def test_the_descriptor_is_taken_and_kept_from_programs_that_are_run(helper, point):
    helper(HANDS_OVER, sys.executable)
    fd = mounts.mount(str(point))
    try:
        assert stat.S_ISCHR(os.fstat(fd).st_mode)
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize(("ours", "goes"), [(True, False), (True, True), (False, False)])
def test_an_unmount_that_fails_is_told_where_the_mount_is_still_there(helper, point, monkeypatch, ours, goes):
    answers = iter([ours, not goes])
    monkeypatch.setattr(mounts, "is_ours", lambda _directory: next(answers))
    helper(f'test "$*" = "-u -z -- {point}" || exit 9; exit 4')
    if ours and not goes:
        with pytest.raises(VtpmError) as caught:
            mounts.unmount(str(point))
        assert caught.value.code is Code.MOUNT_FAILED
        assert caught.value.message == f"{point} cannot be unmounted: fusermount3: status 4"
        assert caught.value.remedy == f"as root: umount --lazy {point}"
    else:
        mounts.unmount(str(point))
