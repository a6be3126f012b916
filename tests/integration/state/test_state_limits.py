"""What a state directory may have in it at most, and that whoever does not get it leaves it free for others."""

import os
from contextlib import suppress

import pytest

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.provision import ca_directory
from swtpm_svc.provision.ca_directory import CaDirectory
from swtpm_svc.state import files, replacement
from swtpm_svc.state.files import MAX_SIZE, Directory
from swtpm_svc.state.store import Store

PAYLOAD = b"\x03\xab\x36\x47\x23 a state"


@pytest.fixture
def state(tmp_path):
    path = tmp_path / "state"
    path.mkdir()
    with Store.open(str(path), "2.0") as store:
        store.store("permall", PAYLOAD)
    return path


def open_descriptors():
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # by which they were listed
            found.append((int(fd), os.readlink(f"/proc/self/fd/{fd}")))
    return sorted(found)


@pytest.fixture
def directory(tmp_path):
    directory = Directory(str(tmp_path))
    yield directory
    directory.close()


def test_a_file_is_read_up_to_the_largest_size_and_no_further(tmp_path, directory):
    """A larger one takes neither memory nor time: this one has no blocks at all."""
    for size in (MAX_SIZE - 1, MAX_SIZE):
        with open(tmp_path / "file", "wb") as file:
            file.truncate(size)
        found = directory.read("file")
        assert found is not None
        assert len(found) == size
    with open(tmp_path / "file", "wb") as file:
        file.truncate(MAX_SIZE + 1)
    with pytest.raises(VtpmError, match=f"has {MAX_SIZE + 1} bytes; no TPM's state is that large") as caught:
        directory.read("file")
    assert caught.value.code is Code.STATE_CORRUPT


@pytest.mark.parametrize("name", ["permall", "volatilestate"])
def test_a_state_that_is_too_large_is_refused_and_left_alone(state, name):
    path = state / f"tpm2-00.{name}"
    with open(path, "ab") as file:
        file.truncate(1 << 40)
    before = open_descriptors()
    with pytest.raises(VtpmError, match="no TPM's state is that large") as caught:
        Store.open(str(state), "2.0")
    assert caught.value.code is Code.STATE_CORRUPT
    assert path.stat().st_size == 1 << 40
    assert open_descriptors() == before


def test_so_many_files_are_looked_at_and_no_more(tmp_path, directory, monkeypatch):
    assert files.NAMES_MAX == 10_000
    monkeypatch.setattr(files, "NAMES_MAX", 20)
    for number in range(20):
        (tmp_path / f"{number}").touch()
    assert len(directory.names()) == 20
    (tmp_path / "one more").touch()
    with pytest.raises(VtpmError, match="more than 20 files"):
        directory.names()


@pytest.mark.parametrize("what", ["settling", "checking", "looking"])
def test_whoever_cannot_open_it_does_not_hold_it(state, monkeypatch, what):
    """Neither the lock nor a descriptor: the next one, perhaps in the same process, may have more luck."""
    with monkeypatch.context() as broken:
        if what == "settling":
            (state / replacement.COMMITTED).mkdir()
            (state / replacement.COMMITTED / "a").mkdir()
            (state / "a").write_bytes(b"a directory cannot take its place")
        elif what == "checking":
            os.rename(state / "tpm2-00.permall", state / "good")
            (state / "tpm2-00.permall").write_bytes(b"damaged")
        else:
            broken.setattr(Store, "sizes", lambda _self: 1 / 0)
        before = open_descriptors()
        with pytest.raises(ZeroDivisionError if what == "looking" else VtpmError):
            Store.open(str(state), "2.0")
        assert open_descriptors() == before
    if what == "settling":
        (state / "a").unlink()
    elif what == "checking":
        os.rename(state / "good", state / "tpm2-00.permall")
    with Store.open(str(state), "2.0") as store:
        assert store.load("permall") == PAYLOAD
        with pytest.raises(VtpmError) as caught:
            Store.open(str(state), "2.0")
        assert caught.value.code is Code.STATE_LOCKED


def test_a_ca_has_so_many_files_of_such_a_size(tmp_path):
    folder = tmp_path / "ca" / "current"
    folder.mkdir(parents=True)
    for path in (tmp_path / "ca", folder):
        path.chmod(0o700)
    for number in range(16):
        (folder / f"{number:02}").write_bytes(bytes(ca_directory.FILE_MAX_BYTES + 1))
        (folder / f"{number:02}").chmod(0o600)
    found = CaDirectory(str(tmp_path / "ca")).read()
    assert found is not None
    assert {len(content) for content in found.files.values()} == {ca_directory.FILE_MAX_BYTES}
    (folder / "17").touch(0o600)
    with pytest.raises(VtpmError, match="has 17 files, which no CA has"):
        CaDirectory(str(tmp_path / "ca")).read()


def test_whoever_cannot_have_the_ca_does_not_hold_it(tmp_path):
    directory = CaDirectory(str(tmp_path / "ca"))
    with directory.locked() as locked:
        locked.replace({"a": b""})
    (tmp_path / "ca" / "next").write_bytes(b"no directory")
    (tmp_path / "ca" / ".new-00000000").write_bytes(b"no directory")
    before = open_descriptors()
    for _ in range(2):
        with pytest.raises(VtpmError), directory.locked():
            pass
        assert open_descriptors() == before
    (tmp_path / "ca" / ".new-00000000").unlink()
    (tmp_path / "ca" / "next").unlink()
    with directory.locked():
        pass
    assert open_descriptors() == before
