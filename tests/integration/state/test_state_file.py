"""A TPM in one file or on a block device: to and fro with the distribution's swtpm, kills at every step, no room."""

import errno
import os
import stat
import subprocess
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
from swtpm_process import SECRET, VERSIONS, swtpm

from swtpm_svc.cli.vtpmctl import entry
from swtpm_svc.cli.vtpmctl.host import Places
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.state import blob, linear
from swtpm_svc.state.backend import PERMALL, SAVESTATE, VOLATILESTATE
from swtpm_svc.state.encryption import StateKey
from swtpm_svc.state.state_file import StateFile, look
from swtpm_svc.state.store import Store

HEADS = {"1.2": bytes.fromhex("0001002200"), "2.0": bytes.fromhex("0003ab364723")}


@pytest.fixture(params=VERSIONS)
def version(request) -> str:
    return request.param


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "vm1.tpm"


def opened(path, version="2.0", key=None, **options) -> Store:
    return Store.of(StateFile.open(str(path), **options), version, key)


def payload(version: str, text: bytes) -> bytes:
    return HEADS[version] + text


def layout_of(path: Path) -> linear.Layout:
    data = path.read_bytes()
    return linear.decode(data, len(data))


def refused(path, version="2.0", key=None, **options) -> VtpmError:
    with pytest.raises(VtpmError) as caught:
        opened(path, version, key, **options)
    return caught.value


def test_what_is_stored_is_there(version, path):
    with opened(path, version) as store:
        assert (store.generation, store.sizes()) == ("-", {})
        assert path.read_bytes() == b""  # nothing is written before there is something to store
        for size in (100, 5000, 70, 9000, 9000):
            store.store(PERMALL, payload(version, bytes(size)))
            store.store(VOLATILESTATE, payload(version, bytes(size * 2)))
            assert store.load(PERMALL) == payload(version, bytes(size))
        assert store.generation != "-"
        store.delete(VOLATILESTATE, must_exist=True)
        with pytest.raises(VtpmError) as caught:
            store.delete(VOLATILESTATE, must_exist=True)
        assert caught.value.code is Code.STATE_MISSING
    with opened(path, version) as store:
        assert store.load(PERMALL) == payload(version, bytes(9000))
        assert store.load(VOLATILESTATE) is None
    assert path.stat().st_size <= 192 + 16384 + 2 * 32768  # what the longest took, twice
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_mode_is_the_one_that_is_asked_for(path):
    before = os.umask(0o077)
    try:
        opened(path, mode=0o644).close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    opened(path, mode=0o640).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


# --- with swtpm ------------------------------------------------------------------------------------------------------


@pytest.mark.needs("swtpm", "swtpm_ioctl")
@pytest.mark.parametrize("mode", [None, "aes-cbc", "aes-256-cbc"])
def test_a_tpm_goes_to_and_fro(version, mode, path):
    """Each time in another place of the file, with gaps that swtpm does not make itself, and with a volatile state."""
    key, options = None, []
    if mode is not None:
        secret = bytes(range(16 if mode == "aes-cbc" else 32))
        (path.parent / "key").write_bytes(secret)
        key, options = StateKey(secret), ["--key", f"file={path.parent}/key,format=binary,mode={mode}"]
    with swtpm(version, f"file://{path}", *options) as tpm:
        tpm.remember(SECRET)
    for round in range(4):
        with opened(path, version, key) as store:
            found = store.load(PERMALL)
            assert found is not None
            assert blob.payload_version(found) == version
            store.store(PERMALL, found)
            if round % 2:
                store.store(PERMALL, found)
                store.delete(VOLATILESTATE, must_exist=False)
        with swtpm(version, f"file://{path}", *options) as tpm:
            assert tpm.recall(len(SECRET)) == SECRET
            if round != 2:
                assert tpm.ioctl("-v").returncode == 0
            assert tpm.ioctl("-i").returncode == 0
    with opened(path, version, key) as store:
        assert store.load(PERMALL)


@pytest.mark.needs("swtpm", "swtpm_ioctl")
@pytest.mark.parametrize("order", [(PERMALL, VOLATILESTATE), (VOLATILESTATE, PERMALL)])
def test_swtpm_grows_what_lies_behind_gaps(version, order, path):
    """Its permanent state outgrows its section, whatever lies before and behind, and nothing is lost."""
    with swtpm(version, f"file://{path}") as tpm:
        assert tpm.ioctl("-v").returncode == 0
    with opened(path, version) as store:
        for name in (*order, *order, order[0]):
            found = store.load(name)
            assert found
            store.store(name, found)
        volatile = store.load(VOLATILESTATE)
    assert min(section.offset for section in layout_of(path).values()) > 192 or len(layout_of(path)) == 2
    # no startup: it goes on with the volatile state
    with swtpm(version, f"file://{path}", "--flags", "not-need-init") as tpm:
        rooms = layout_of(path)[0].room
        for number in range(40):
            if layout_of(path)[0].room > rooms:
                break
            define(tpm, number)
        assert layout_of(path)[0].room > rooms
    with opened(path, version) as store:
        assert store.load(VOLATILESTATE) == volatile
        assert blob.payload_version(store.load(PERMALL) or b"") == version


def define(tpm, number: int) -> None:
    """An NV index more, of 200 bytes."""
    import struct

    from swtpm_process import NV_1_2, NV_2_0, OWNER, PASSWORD

    if tpm.version == "2.0":
        public = struct.pack(">IHIHH", NV_2_0 + number, 0x000B, 0x00020002, 0, 200)
        tpm.send(0x8002, 0x12A, struct.pack(">I", OWNER) + PASSWORD + struct.pack(">HH", 0, len(public)) + public)
        written = struct.pack(">H", 200) + bytes(200) + struct.pack(">H", 0)
        tpm.send(0x8002, 0x137, struct.pack(">II", OWNER, NV_2_0 + number) + PASSWORD + written)
        return
    pcrs = struct.pack(">H3sB20s", 3, bytes(3), 0x1F, bytes(20))
    public = struct.pack(">HI", 0x18, NV_1_2 + number) + pcrs + pcrs + struct.pack(">HI3sI", 0x17, 2, bytes(3), 200)
    tpm.send(0xC1, 0xCC, public + bytes(20))


@pytest.mark.needs("swtpm", "swtpm_ioctl")
def test_a_saved_state_of_tpm_1_2_is_read(path):
    with swtpm("1.2", f"file://{path}") as tpm:
        tpm.send(0xC1, 0x98, b"")
    with opened(path, "1.2") as store:
        assert blob.payload_version(store.load(SAVESTATE) or b"") == "1.2"


# --- kills, power cuts, no room --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [PERMALL, VOLATILESTATE])
def test_at_each_moment_there_is_the_old_or_the_new_one(version, name, path):
    """What is on the disk before and after each write is a TPM, and so is half of each write below one sector."""
    with opened(path, version) as store:
        store.store(PERMALL, payload(version, b"older"))
        store.store(PERMALL, payload(version, b"old" * 900))
        store.store(VOLATILESTATE, payload(version, b"old" * 900))
    moments, synced = [], []
    real = {call: getattr(os, call) for call in ("pwrite", "fdatasync", "ftruncate")}

    def pwrite(fd, data, offset):
        half = len(data) // 2
        if half > 256:  # more than the header, whose sector is written as one
            real["pwrite"](fd, data[:half], offset)
            moments.append(path.read_bytes())
        written = real["pwrite"](fd, data, offset)
        moments.append(path.read_bytes())
        synced.append(offset)
        return written

    def fdatasync(fd):
        real["fdatasync"](fd)
        synced.append("sync")

    with opened(path, version) as store, mock.patch.multiple(os, pwrite=pwrite, fdatasync=fdatasync):
        store.store(name, payload(version, b"new" * 1000))
    moments.append(path.read_bytes())
    assert synced[1::2] == ["sync", "sync"]
    assert synced[0] != 0
    assert synced[2] == 0
    found = set()
    for number, image in enumerate(moments):
        copy = path.parent / f"moment-{number}"
        copy.write_bytes(image)
        with opened(copy, version) as store:
            other = VOLATILESTATE if name == PERMALL else PERMALL
            assert store.load(other) == payload(version, b"old" * 900)
            found.add(store.load(name))
    assert found == {payload(version, b"old" * 900), payload(version, b"new" * 1000)}


def test_no_room_leaves_the_old_one(version, path):
    with opened(path, version) as store:
        store.store(PERMALL, payload(version, b"old"))
        for call in ("pwrite", "fdatasync"):
            with mock.patch.object(os, call, side_effect=OSError(errno.ENOSPC, "")):
                with pytest.raises(VtpmError) as caught:
                    store.store(PERMALL, payload(version, bytes(20000)))
                with pytest.raises(VtpmError):
                    store.probe()
            assert caught.value.code is Code.STATE_FULL
            assert store.load(PERMALL) == payload(version, b"old")
        store.probe()
        assert store.load(PERMALL) == payload(version, b"old")


def test_a_header_that_was_not_durable_is_taken_back(version, path):
    with opened(path, version) as store:
        store.store(PERMALL, payload(version, b"old"))
        real, calls = os.fdatasync, []

        def fdatasync(fd):
            calls.append(fd)
            if len(calls) == 2:
                raise OSError(errno.EIO, "")
            real(fd)

        with mock.patch.object(os, "fdatasync", fdatasync), pytest.raises(VtpmError) as caught:
            store.store(PERMALL, payload(version, b"new"))
        assert caught.value.code is Code.STATE_UNWRITABLE
        assert store.load(PERMALL) == payload(version, b"old")


def test_without_fsync_nothing_waits_for_the_disk(path):
    with mock.patch.object(os, "fdatasync", side_effect=AssertionError), opened(path, syncs=False) as store:
        store.store(PERMALL, payload("2.0", b"quick"))


@contextmanager
def block_device(path: Path, size: int):
    with open(path, "wb") as file:
        file.truncate(size)
    device = subprocess.run(
        ["losetup", "--show", "-f", str(path)], check=True, capture_output=True, text=True
    ).stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


@pytest.mark.needs("loop", "swtpm", "swtpm_ioctl")
def test_a_block_device_keeps_its_size(version, tmp_path):
    with block_device(tmp_path / "disk", 64 << 10) as device:
        with swtpm(version, f"file://{device}") as tpm:
            tpm.remember(SECRET)
        with opened(device, version) as store:
            found = store.load(PERMALL)
            assert found
            assert store.generation != "-"
            for _ in range(3):
                store.store(PERMALL, found)
                store.store(VOLATILESTATE, payload(version, bytes(9000)))
            store.delete(VOLATILESTATE, must_exist=True)
            with pytest.raises(VtpmError) as caught:
                store.store(VOLATILESTATE, payload(version, bytes(64 << 10)))
            assert caught.value.code is Code.STATE_FULL
            assert "make the device larger" in (caught.value.remedy or "")
            assert store.load(PERMALL) == found
        with swtpm(version, f"file://{device}") as tpm:
            assert tpm.recall(len(SECRET)) == SECRET
    assert (tmp_path / "disk").stat().st_size == 64 << 10


# --- the lock --------------------------------------------------------------------------------------------------------


@pytest.mark.needs("loop")
def test_a_disk_has_the_names_that_root_gives_it(tmp_path):
    """/dev/mapper/NAME and /dev/disk/by-id/NAME are links."""
    link = tmp_path / "named"
    with block_device(tmp_path / "disk", 64 << 10) as device:
        link.symlink_to(device)
        with opened(link) as store:
            store.store(PERMALL, payload("2.0", b"stored"))
            error = refused(link)
            assert error.code is Code.STATE_LOCKED
            assert f"process {os.getpid()}" in error.message
        assert look(str(link))[1] == 64 << 10
        os.lchown(link, 65534, 65534)
        assert refused(link).code is Code.STATE_UNREADABLE
        with opened(device) as store:
            assert store.load(PERMALL) == payload("2.0", b"stored")


def test_one_at_a_time(path):
    with opened(path) as store:
        store.store(PERMALL, payload("2.0", b"mine"))
        error = refused(path)
        assert (error.code, str(path) in error.message) == (Code.STATE_LOCKED, True)
        assert f"process {os.getpid()}" in error.message
        opened(path, locks=False).close()  # it does not take the lock away with it
        assert refused(path).code is Code.STATE_LOCKED
        assert path.read_bytes().startswith(linear.MAGIC)  # and nobody has signed it
    opened(path).close()


# --- what it is not --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"x", b"#!/bin/sh\n" * 40, b"\x7fELF" + bytes(300)])
def test_somebody_elses_file_is_not_touched(path, content):
    path.write_bytes(content)
    assert refused(path).code is Code.STATE_FOREIGN
    assert path.read_bytes() == content
    with opened(path, formats=True) as store:
        assert path.read_bytes() == content
        store.store(PERMALL, payload("2.0", b"mine"))
    with opened(path) as store:
        assert store.load(PERMALL) == payload("2.0", b"mine")


def test_what_begins_with_zeros_is_free(path):
    """A new volume, and what swtpm_setup --overwrite leaves of a device."""
    path.write_bytes(bytes(8) + b"old" * 1000)
    with opened(path) as store:
        store.store(PERMALL, payload("2.0", b"mine"))
        assert store.sizes() == {PERMALL: len(blob.encode_checked(payload("2.0", b"mine")))}


def test_damage_is_refused_and_left(path):
    with opened(path) as store:
        store.store(PERMALL, payload("2.0", b"mine"))
    good = path.read_bytes()
    place = layout_of(path)[0].offset
    for offset, value, code in (
        (8, 2, Code.STATE_FOREIGN),
        (10, 191, Code.STATE_CORRUPT),
        (place + 30, good[place + 30] ^ 1, Code.STATE_CORRUPT),
    ):
        damaged = bytearray(good)
        damaged[offset] = value
        path.write_bytes(damaged)
        assert refused(path).code is code
        assert path.read_bytes() == damaged
    path.write_bytes(good)
    assert refused(path, "1.2").code is Code.STATE_FOREIGN
    assert refused(path, key=StateKey(bytes(16))).code is Code.STATE_KEY


def test_a_volatile_state_alone_is_no_tpm(path):
    with opened(path) as store:
        store.store(PERMALL, payload("2.0", b"mine"))
        store.store(VOLATILESTATE, payload("2.0", b"mine"))
        store.delete(PERMALL, must_exist=True)
    assert refused(path).code is Code.STATE_CORRUPT


def test_what_can_be_no_state(tmp_path):
    assert refused(tmp_path / "no" / "file").code is Code.STATE_MISSING
    assert refused(tmp_path).code is Code.STATE_UNREADABLE
    assert refused("/dev/null").code is Code.STATE_UNREADABLE
    os.mkfifo(tmp_path / "pipe")
    assert refused(tmp_path / "pipe").code is Code.STATE_UNREADABLE
    (tmp_path / "target").touch()
    os.symlink("target", tmp_path / "link")
    assert refused(tmp_path / "link").code is Code.STATE_UNREADABLE


# --- what vtpmctl says of it -----------------------------------------------------------------------------------------


def vtpmctl(capsys, folder, *words):
    status = entry.main(list(words), Places(config=str(folder)))
    told = capsys.readouterr()
    return status, told.out + told.err


def test_vtpmctl_looks_into_it(capsys, tmp_path, path):
    (tmp_path / "vm1.toml").write_text(f'[device]\nenabled = false\n[state]\nfile = "{path}"\n')
    assert f"{path}: no state yet" in vtpmctl(capsys, tmp_path, "status", "vm1")[1]
    with opened(path) as store:
        store.store(PERMALL, payload("2.0", bytes(1000)))
        size = store.sizes()[PERMALL]
        assert f"{path}: permall {size} bytes, generation of " in vtpmctl(capsys, tmp_path, "status", "vm1")[1]
    assert vtpmctl(capsys, tmp_path, "check", "vm1")[0] == 0
    path.write_bytes(b"nilmptws" + bytes(10))
    assert "sizes not known" in vtpmctl(capsys, tmp_path, "status", "vm1")[1]
    path.unlink()
    path.mkdir()
    status, told = vtpmctl(capsys, tmp_path, "check", "vm1")
    assert status == 66
    assert "which is neither a file nor a block device" in told
