"""Files that somebody names: whatever is there under the name, nobody waits, and nothing of it is lost."""

import contextlib
import errno
import os
import resource
import signal
import socket
import stat

import pytest

from swtpm_svc.state import named_files

CUTS = os.O_CREAT | os.O_TRUNC


@pytest.fixture(autouse=True)
def deadline():
    """Each of these opens would wait for ever if it waited."""
    signal.alarm(20)
    yield
    signal.alarm(0)


@pytest.fixture
def places(tmp_path):
    """A path to each kind of what may be there."""
    (tmp_path / "file").write_bytes(b"what was there")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("fifo")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "socket"))
    yield tmp_path
    server.close()


def opened(path, use):
    return {
        "input": lambda: named_files.open_input(path),
        "output": lambda: named_files.open_output(path, CUTS, 0o600),
        "log": lambda: named_files.open_output(path, os.O_CREAT, 0o600, takes_readers=True),
        "regular": lambda: named_files.open_regular(path, os.O_WRONLY | CUTS),
    }[use]()


@pytest.mark.parametrize("use", ["input", "output", "log", "regular"])
@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("fifo", "it is a named pipe"),
        ("link", "it is a named pipe"),
        ("folder", "Is a directory"),
        ("socket", "it is a socket"),
        ("none/file", "No such file or directory"),
        ("a\0b", "embedded null byte"),
    ],
)
def test_what_is_no_file_is_refused_at_once(places, name, cause, use):
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match=cause) as caught:
        opened(f"{places}/{name}", use)
    assert caught.value.strerror.startswith(cause)
    assert os.listdir("/proc/self/fd") == before


def test_a_file_is_read_and_written(places):
    assert named_files.read_input(f"{places}/file", 8) == b"what was"
    with open(opened(f"{places}/file", "log"), "ab") as file:
        file.write(b"!")
    assert (places / "file").read_bytes() == b"what was there!"
    os.close(opened(f"{places}/file", "output"))
    assert (places / "file").read_bytes() == b""


def test_a_device_is_a_file_to_all_but_those_who_remove_it_or_rename_to_it():
    assert named_files.read_input("/dev/null", 8) == b""
    assert named_files.read_input("/dev/zero", 8) == bytes(8)
    os.close(opened("/dev/null", "output"))
    with pytest.raises(OSError, match="it is a character device"):
        opened("/dev/null", "regular")


def test_a_device_that_has_nothing_is_not_waited_for():
    master, slave = os.openpty()
    name = os.ttyname(slave)
    fd = named_files.open_input(name)
    assert os.get_blocking(fd)  # somebody sits there
    for open_fd in (fd, master, slave):
        os.close(open_fd)


def test_a_shell_s_pipe_is_a_file(tmp_path):
    """<(command) and >(command) are /dev/fd/N."""
    reader, writer = os.pipe()
    os.write(writer, b"key")
    os.close(writer)
    assert named_files.read_input(f"/dev/fd/{reader}", 8) == b"key"
    os.close(reader)
    reader, writer = os.pipe()
    fd = named_files.open_output(f"/dev/fd/{writer}", CUTS, 0o600)
    assert os.get_blocking(fd)
    os.write(fd, b"blob")
    assert os.read(reader, 8) == b"blob"
    for open_fd in (fd, reader, writer):
        os.close(open_fd)


def test_a_log_goes_to_a_named_pipe_that_somebody_reads_and_waits_for_nobody(places):
    reader = os.open(places / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    fd = opened(f"{places}/fifo", "log")
    os.write(fd, b"line")
    assert os.read(reader, 8) == b"line"
    assert not os.get_blocking(fd)
    with pytest.raises(OSError, match="it is a named pipe"):
        opened(f"{places}/fifo", "output")
    os.close(fd)
    os.close(reader)


def test_links_are_refused_where_that_is_asked_for(places):
    with pytest.raises(OSError, match="Too many levels"):
        named_files.open_output(f"{places}/link", CUTS | os.O_NOFOLLOW, 0o600)


def test_a_descriptor_to_be_written_is_open_for_that(places):
    for path, flags, only_regular in (
        ("file", os.O_WRONLY, True),
        ("file", os.O_RDWR, True),
        ("fifo", os.O_RDWR, False),
    ):
        fd = os.open(places / path, flags)
        named_files.refuse_unwritable(fd, only_regular=only_regular)
        os.close(fd)
    for path, flags, only_regular, cause in (
        ("file", os.O_RDONLY, False, "it is not open for writing"),
        ("folder", os.O_RDONLY, False, "Is a directory"),
        ("fifo", os.O_RDWR, True, "it is a named pipe"),
    ):
        fd = os.open(places / path, flags)
        with pytest.raises(OSError, match=cause):
            named_files.refuse_unwritable(fd, only_regular=only_regular)
        os.close(fd)
    for fd in (-1, 1 << 30, 1 << 70):
        with pytest.raises(OSError, match="Bad file descriptor"):
            named_files.refuse_unwritable(fd)


# --- files that are replaced -------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_files():
    """A limit on the size of files, as a full disk: a write stops half-way. For a moment: pytest may write to a file too."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, previous)


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("syncs", [False, True])
def test_a_replaced_file_has_its_new_content_and_mode(places, syncs):
    umask = os.umask(0o077)
    with open(places / "file", "rb") as reader:
        named_files.replace(f"{places}/file", b"new", 0o640, syncs=syncs)
        assert reader.read() == b"what was there"
    assert ((places / "file").read_bytes(), mode_of(places / "file")) == (b"new", 0o600)
    named_files.replace(f"{places}/file", b"newer", 0o640, is_exact=True, syncs=syncs)
    os.umask(umask)
    assert ((places / "file").read_bytes(), mode_of(places / "file")) == (b"newer", 0o640)


def test_a_name_without_a_folder_is_one_in_the_current(places, monkeypatch):
    monkeypatch.chdir(places)
    named_files.replace("file", b"new", 0o600, syncs=True)
    assert (places / "file").read_bytes() == b"new"


def test_a_full_disk_leaves_what_was_there(places):
    before = {*places.iterdir()}
    for name in ("file", "other"):
        with small_files(), pytest.raises(OSError, match="File too large"):
            named_files.replace(f"{places}/{name}", bytes(5000), 0o600, in_place=True)
    assert {*places.iterdir()} == before
    assert (places / "file").read_bytes() == b"what was there"


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("name", ["fifo", "link", "folder", "socket"])
def test_what_is_no_file_is_not_replaced(places, name, in_place):
    before = (places / name).lstat()
    with pytest.raises(OSError, match=r"it is a|Is a directory|Too many levels"):
        named_files.replace(f"{places}/{name}", b"new", 0o600, in_place=in_place)
    assert (places / name).lstat() == before


def test_a_device_is_written_into_where_that_is_wanted():
    with pytest.raises(OSError, match="it is a character device"):
        named_files.replace("/dev/null", b"new", 0o600)
    before = os.stat("/dev/null")
    named_files.replace("/dev/null", b"new", 0o600, is_exact=True, in_place=True)
    assert os.stat("/dev/null")[:7] == before[:7]


def test_a_file_in_a_folder_that_takes_no_other_is_written_into_where_that_is_wanted(places, monkeypatch):
    """As a container may be given one: it is mounted there."""

    def busy(*_):
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(os, "rename", busy)
    with pytest.raises(OSError, match="busy"):
        named_files.replace(f"{places}/file", b"new", 0o600)
    assert (places / "file").read_bytes() == b"what was there"
    named_files.replace(f"{places}/file", b"new", 0o600, is_exact=True, in_place=True)
    assert ((places / "file").read_bytes(), mode_of(places / "file")) == (b"new", 0o600)
    assert not [path for path in places.iterdir() if path.name.startswith(".")]
