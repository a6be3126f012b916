"""The file of a UNIX socket: whose it is and who may connect, also where others have put something in its place."""

import os
import socket
import stat

import pytest

from swtpm_svc.frontends import socket_file


@pytest.fixture
def sock():
    with socket.socket(socket.AF_UNIX) as made:
        yield made


@pytest.fixture(params=[0o000, 0o077], ids=["umask 0", "umask 077"])
def _umask(request):
    before = os.umask(request.param)
    yield
    assert os.umask(before) == request.param


@pytest.mark.usefixtures("_umask")
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o770, 0o666])
def test_the_bits_are_those_that_were_asked_for(sock, tmp_path, mode):
    socket_file.bind(sock, str(tmp_path / "s"), mode)
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == mode


def test_the_bits_are_right_from_the_beginning(sock, tmp_path, monkeypatch):
    """Or fewer, where the owner is not right yet."""
    seen = []
    monkeypatch.setattr(socket_file, "_settle", lambda path, *_: seen.append(stat.S_IMODE(os.stat(path).st_mode)))
    socket_file.bind(sock, str(tmp_path / "a"), 0o660)
    with socket.socket(socket.AF_UNIX) as other:
        socket_file.bind(other, str(tmp_path / "b"), 0o660, gid=os.getegid())
    assert seen == [0o660, 0o600]


def test_owner_and_group_are_given(sock, tmp_path, monkeypatch):
    """The test may run as anybody: who is told to own it is what counts, and that the file is no longer found by its
    path."""
    told = []
    monkeypatch.setattr(os, "chown", lambda path, uid, gid: told.append((os.readlink(path), uid, gid)))
    path = str(tmp_path / "s")
    socket_file.bind(sock, path, 0o660, uid=7, gid=9)
    socket_file.give(path, 11)
    assert told == [(path, 7, 9), (path, -1, 11)]
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o660


@pytest.mark.parametrize("kind", ["link", "file", "hard link"])
def test_what_somebody_has_put_in_its_place_stays_as_it_is(sock, tmp_path, monkeypatch, kind):
    """In a folder where all may rename: between bind() and what follows."""
    other = tmp_path / "other"
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(other))
        if kind == "file":
            other.unlink()
            other.write_text("somebody's")
        other.chmod(0o600)
        settle = socket_file._settle

        def replaced(path, *rest):
            os.unlink(path)
            if kind == "link":
                os.symlink(other, path)
            else:
                os.link(other, path)
            settle(path, *rest)

        monkeypatch.setattr(socket_file, "_settle", replaced)
        with pytest.raises(OSError, match="somebody else has put a file there"):
            socket_file.bind(sock, str(tmp_path / "s"), 0o777)
    assert stat.S_IMODE(other.stat().st_mode) == 0o600
    (tmp_path / "f").write_text("")
    with pytest.raises(OSError, match="somebody else has put a file there"):
        socket_file.give(str(tmp_path / "f"), os.getegid())


def test_after_a_failure_there_is_no_file(sock, tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(PermissionError):
        socket_file.bind(sock, str(tmp_path / "s"), 0o770, uid=7)
    assert os.listdir(tmp_path) == []
    (tmp_path / "file").write_text("")
    socket_file.remove(str(tmp_path / "file"))
    assert os.listdir(tmp_path) == ["file"]
