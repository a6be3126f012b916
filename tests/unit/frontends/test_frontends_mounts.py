"""Mounting by fusermount3(1): what it says is told, and something is told where it says nothing. Root does without."""

import errno
import os
import stat
import sys
from types import SimpleNamespace

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


@pytest.fixture
def root(monkeypatch, tmp_path):
    """Root, with a file for /dev/fuse and no fusermount3. `calls` are those of mount(2) and umount2(2), whose errno is
    `number`."""
    calls = SimpleNamespace(number=0, made=[])
    (tmp_path / "fuse").touch()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(mounts, "_FUSE_DEVICE", str(tmp_path / "fuse"))
    monkeypatch.setattr(mounts, "_run_helper", lambda *_arguments, **_more: pytest.fail("root asks fusermount3"))
    monkeypatch.setattr(mounts, "_mount", lambda point, options: calls.made.append((point, options)) or calls.number)
    monkeypatch.setattr(mounts, "_umount2", lambda point: calls.made.append(point) or calls.number)
    calls.device = tmp_path / "fuse"
    return calls


def descriptors_of(path):
    own = "/proc/self/fd"
    return [name for name in os.listdir(own) if os.path.realpath(f"{own}/{name}") == str(path)]


def test_root_mounts_by_itself(root, point):
    fd = mounts.mount(str(point))
    ((where, options),) = root.made
    assert where == str(point)
    assert options.split(",")[0] == f"fd={fd}"
    assert "allow_other" in options
    assert descriptors_of(root.device) == [str(fd)]
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_a_mount_that_root_is_denied_is_told_and_leaves_no_descriptor(root, point):
    root.number = errno.EPERM
    with pytest.raises(VtpmError) as caught:
        mounts.mount(str(point))
    assert caught.value.code is Code.MOUNT_FAILED
    assert caught.value.message == f"cannot mount at {point}: Operation not permitted"
    assert caught.value.remedy == "mounting takes CAP_SYS_ADMIN, which a container may lack"
    assert descriptors_of(root.device) == []


@pytest.mark.parametrize(("number", "goes"), [(0, True), (errno.EINVAL, True), (errno.EBUSY, False)])
def test_root_unmounts_by_itself(root, point, monkeypatch, number, goes):
    root.number = number
    answers = iter([True, not goes])
    monkeypatch.setattr(mounts, "is_ours", lambda _directory: next(answers))
    if goes:
        mounts.unmount(str(point))
    else:
        with pytest.raises(VtpmError, match="cannot be unmounted: Device or resource busy"):
            mounts.unmount(str(point))
    assert root.made == [str(point)]


def test_root_does_not_follow_a_link_to_where_it_mounts(point, tmp_path):
    """The directory above may be another user's. ENOTDIR is what open(2) says of a link with O_DIRECTORY."""
    (tmp_path / "link").symlink_to(point)
    assert mounts._mount(str(tmp_path / "link"), "") == errno.ENOTDIR
    assert mounts._mount(str(tmp_path / "none"), "") == errno.ENOENT


@pytest.mark.parametrize(
    ("kind", "number", "taken"),
    [
        (stat.S_IFCHR, (10, 229), True),
        (stat.S_IFCHR, (10, 230), False),
        (stat.S_IFCHR, (1, 3), False),
        (stat.S_IFBLK, (10, 229), False),
    ],
)
def test_what_is_taken_for_a_mount_that_was_passed(monkeypatch, kind, number, taken):
    """10, 229 is /dev/fuse (Linux, Documentation/admin-guide/devices.txt); 1, 3 is /dev/null."""
    found = SimpleNamespace(st_mode=kind | 0o600, st_rdev=os.makedev(*number))
    system = SimpleNamespace(fstat=lambda _fd: found, major=os.major, minor=os.minor)
    monkeypatch.setattr(mounts, "os", system)  # pytest itself needs the real fstat
    if taken:
        mounts.check_descriptor(3)
    else:
        with pytest.raises(VtpmError) as refused:
            mounts.check_descriptor(3)
        assert refused.value.code is Code.MOUNT_FAILED
