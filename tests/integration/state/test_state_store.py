"""The store on real files: what it keeps, what it refuses, and that a refusal changes nothing."""

import os
import stat

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plain_blob import encode_plain

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.state import blob, files
from swtpm_svc.state.backend import NAMES, PERMALL, SAVESTATE, VOLATILESTATE
from swtpm_svc.state.state_directory import file_name
from swtpm_svc.state.store import Store

HEADS = {"1.2": bytes.fromhex("0001002200"), "2.0": bytes.fromhex("0003ab364723")}
VERSIONS = list(HEADS)


def payload(version: str, text: bytes = b"") -> bytes:
    """Bytes that begin like the permanent state of such a TPM; the store looks no further."""
    return HEADS[version] + text


def content(directory: object) -> dict[str, bytes]:
    """Every file but the lock, and what is in it."""
    found = {}
    for name in os.listdir(str(directory)):
        path = os.path.join(str(directory), name)
        if name != ".lock" and os.path.isfile(path):
            with open(path, "rb") as file:
                found[name] = file.read()
    return found


def refused(directory: object, version: str = "2.0") -> VtpmError:
    """Opening fails, changes nothing and leaves nothing open."""
    before, descriptors = content(directory), len(os.listdir("/proc/self/fd"))
    with pytest.raises(VtpmError) as caught:
        Store.open(str(directory), version)
    assert content(directory) == before
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert caught.value.remedy
    assert "\n" not in caught.value.message + caught.value.remedy
    return caught.value


@pytest.fixture(params=VERSIONS)
def version(request) -> str:
    return request.param


@pytest.fixture
def made(tmp_path, version):
    """A directory with two generations of a TPM in it, "new" and "old"."""
    with Store.open(str(tmp_path), version) as store:
        store.store(PERMALL, payload(version, b"old"))
        store.store(PERMALL, payload(version, b"new"))
    return tmp_path


def permall_of(directory: object, version: str) -> str:
    return os.path.join(str(directory), file_name(version, PERMALL))


def write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


def test_an_empty_directory_is_a_tpm_yet_to_be_made(tmp_path, version):
    with Store.open(str(tmp_path), version) as store:
        assert [store.load(name) for name in NAMES] == [None] * 3
        assert store.sizes() == {}
        assert store.generation == "-"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.binary(max_size=5000), min_size=1, max_size=4), name=st.sampled_from(NAMES))
def test_what_is_stored_is_loaded(tmp_path, version, texts, name):
    with Store.open(str(tmp_path), version) as store:
        store.store(PERMALL, payload(version))
        for text in texts:
            store.store(name, payload(version, text))
            assert store.load(name) == payload(version, text)
    with Store.open(str(tmp_path), version) as store:
        assert store.load(name) == payload(version, texts[-1])
        assert store.sizes()[name] == len(store.raw(name) or b"")
    assert not [file for file in os.listdir(tmp_path) if file.startswith("TMP")]


def test_files_have_swtpms_names_and_are_the_owners_alone(made, version):
    assert set(content(made)) == {file_name(version, PERMALL), file_name(version, PERMALL) + ".previous"}
    assert file_name("2.0", PERMALL) == "tpm2-00.permall"
    assert file_name("1.2", SAVESTATE) == "tpm-00.savestate"
    assert {stat.S_IMODE(os.stat(made / name).st_mode) for name in os.listdir(made)} == {0o600}


def test_the_generation_before_is_kept(made, version):
    previous = content(made)[file_name(version, PERMALL) + ".previous"]
    assert blob.payload(blob.decode(previous)) == payload(version, b"old")


def test_of_the_volatile_state_no_generation_is_kept(made, version):
    with Store.open(str(made), version) as store:
        store.store(VOLATILESTATE, b"one")
        store.store(VOLATILESTATE, b"two")
    assert file_name(version, VOLATILESTATE) + ".previous" not in content(made)


def test_the_generation_is_kept_without_hard_links_too(made, version, monkeypatch):
    def no_links(*arguments: object, **options: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(files.os, "link", no_links)
    with Store.open(str(made), version) as store:
        store.store(PERMALL, payload(version, b"newer"))
    kept = content(made)[file_name(version, PERMALL) + ".previous"]
    assert blob.payload(blob.decode(kept)) == payload(version, b"new")


def test_the_generation_says_which_state_is_on_disk(made, version):
    with Store.open(str(made), version) as store:
        first = store.generation
        assert store.generation == first
        store.store(VOLATILESTATE, b"not permanent")
        assert store.generation == first
        store.store(PERMALL, payload(version, b"newer"))
        assert float(store.generation) > float(first)
        last = store.generation
    with Store.open(str(made), version) as store:
        assert store.generation == last


def test_delete(made, version):
    with Store.open(str(made), version) as store:
        store.store(VOLATILESTATE, b"x")
        store.delete(VOLATILESTATE, must_exist=True)
        assert store.load(VOLATILESTATE) is None
        store.delete(VOLATILESTATE, must_exist=False)
        with pytest.raises(VtpmError) as caught:
            store.delete(VOLATILESTATE, must_exist=True)
        assert caught.value.code is Code.STATE_MISSING


def test_state_blobs_go_in_and_what_is_none_does_not(made, version):
    other = "1.2" if version == "2.0" else "2.0"
    with Store.open(str(made), version) as store:
        for data in (blob.encode_migration(payload(version, b"a")), encode_plain(payload(version, b"a"))):
            store.store(PERMALL, store.unwrap(PERMALL, data))
            assert store.load(PERMALL) == payload(version, b"a")
        before = content(made)
        for data, code in (
            (b"garbage", Code.STATE_CORRUPT),
            (b"", Code.STATE_CORRUPT),
            (blob.encode_migration(payload(other)), Code.STATE_FOREIGN),
        ):
            with pytest.raises(VtpmError, match="the permall blob") as caught:
                store.store(PERMALL, store.unwrap(PERMALL, data))
            assert caught.value.code is code
        assert content(made) == before


# what is refused


def test_no_directory(tmp_path):
    with pytest.raises(VtpmError) as caught:
        Store.open(str(tmp_path / "none"), "2.0")
    error = caught.value
    assert error.code is Code.STATE_MISSING
    assert error.message == f"the directory {tmp_path}/none does not exist"
    assert "mount what belongs there; only where there never was a TPM, make it: install -d -m 0700" in (
        error.remedy or ""
    )
    assert not (tmp_path / "none").exists()


def test_a_file_in_place_of_the_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(VtpmError, match="is not a directory"):
        Store.open(str(tmp_path / "file"), "2.0")


def test_every_truncation(made, version):
    path = permall_of(made, version)
    whole = content(made)[file_name(version, PERMALL)]
    for length in range(len(whole)):
        write(path, whole[:length])
        error = refused(made, version)
        assert error.code is Code.STATE_CORRUPT
        # of how many it is said once the header is there
        size = f"{length} bytes" if length < 10 else f"{length} of {len(whole)} bytes"
        assert error.message == f"{path} is damaged: it is {f'cut off after {size}' if length else 'empty'}"
        assert error.remedy == (
            "nothing was changed; restore the previous generation:"
            f" mv {path} {path}.bad && cp -p {path}.previous {path}"
        )


def test_every_flipped_bit(made, version):
    """Of our own files; swtpm's have no checksum, and libtpms does not notice half of the bits of a TPM 2.0."""
    path = permall_of(made, version)
    whole = content(made)[file_name(version, PERMALL)]
    codes = set()
    for bit in range(len(whole) * 8):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        write(path, flipped)
        try:
            with Store.open(str(made), version) as store:
                assert store.load(PERMALL) == payload(version, b"new")
        except VtpmError as error:
            codes.add(error.code)
    assert codes == {Code.STATE_CORRUPT, Code.STATE_FOREIGN}


def test_a_newer_format(made, version):
    newer = bytearray(content(made)[file_name(version, PERMALL)])
    newer[0:2] = b"\x04\x03"
    write(permall_of(made, version), newer)
    error = refused(made, version)
    assert error.code is Code.STATE_FOREIGN
    path = permall_of(made, version)
    assert error.message == f"{path}: it is of format version 4, for readers of version 3; this one is of version 2"
    assert error.remedy == "serve it with the program that wrote it; nothing was changed"


def test_the_other_versions_state_under_our_name(made, version):
    other = "1.2" if version == "2.0" else "2.0"
    write(permall_of(made, version), encode_plain(payload(other)))
    error = refused(made, version)
    assert error.code is Code.STATE_FOREIGN
    assert error.message == f"{permall_of(made, version)} is the state of a TPM {other}, not of a TPM {version}"
    assert error.remedy == f'set version = "{other}" in [tpm]; nothing was changed'


def test_both_versions_in_one_directory_do_not_mind_each_other(tmp_path):
    for version in VERSIONS:
        write(permall_of(tmp_path, version), encode_plain(payload(version)))
    for version in VERSIONS:
        with Store.open(str(tmp_path), version) as store:
            assert store.load(PERMALL) == payload(version)


def test_a_damaged_volatile_state(made, version):
    path = os.path.join(str(made), file_name(version, VOLATILESTATE))
    write(path, b"\x02\x01")
    error = refused(made, version)
    assert error.code is Code.STATE_CORRUPT
    assert error.message == f"{path} is damaged: it is cut off after 2 bytes"
    assert error.remedy == (
        f"nothing was changed; without it the TPM starts as after a loss of power: mv {path} {path}.bad"
    )


def test_a_directory_a_fifo_and_a_link_in_place_of_the_file(tmp_path):
    path = permall_of(tmp_path, "2.0")
    os.mkdir(path)
    assert refused(tmp_path).code is Code.STATE_UNREADABLE
    os.rmdir(path)
    os.mkfifo(path)
    assert refused(tmp_path).code is Code.STATE_UNREADABLE
    os.unlink(path)
    os.symlink("/etc/hostname", path)
    error = refused(tmp_path)
    assert error.code is Code.STATE_UNREADABLE
    assert error.message == f"{path} cannot be read: it is a symbolic link"
    assert error.remedy == (
        f"see where the link leads: ls -l {path};"
        " put the file itself there if it is the TPM's own, else remove the link; nothing was changed"
    )


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with open(permall_of(tmp_path, "2.0"), "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(VtpmError, match="1099511627776 bytes; no TPM's state is that large") as caught:
        Store.open(str(tmp_path), "2.0")
    assert caught.value.code is Code.STATE_CORRUPT


@pytest.mark.parametrize(
    "left", ["tpm2-00.volatilestate", "tpm2-00.savestate", "tpm2-00.permall.previous", "TMP2-00.permall"]
)
def test_a_tpm_is_not_made_anew_where_there_are_traces_of_one(tmp_path, left):
    write(str(tmp_path / left), encode_plain(payload("2.0")))
    error = refused(tmp_path)
    assert error.code is Code.STATE_CORRUPT
    assert error.message == f"{tmp_path}/tpm2-00.permall is missing, but {left} is there"
    path = permall_of(tmp_path, "2.0")
    remedies = {
        "tpm2-00.permall.previous": f"restore the previous generation: cp -p {path}.previous {path}",
        "TMP2-00.permall": "restore it from a backup, or if this TPM was never used: "
        f"mv {tmp_path}/TMP2-00.permall {tmp_path}/unfinished.bad",
    }
    assert remedies.get(left, "restore it from a backup") in (error.remedy or "")


def test_what_a_crash_left_is_removed_when_there_is_a_good_state(made, version):
    left = "TMP2-00." if version == "2.0" else "TMP-00."
    for name in NAMES:
        write(str(made / (left + name)), b"half of it")
    Store.open(str(made), version).close()
    assert set(content(made)) == {file_name(version, PERMALL), file_name(version, PERMALL) + ".previous"}


def test_what_a_crash_left_stays_when_there_is_none(made, version):
    left = "TMP2-00.permall" if version == "2.0" else "TMP-00.permall"
    write(str(made / left), b"half of it")
    write(permall_of(made, version), b"damaged")
    refused(made, version)
    assert (made / left).exists()


def test_a_payload_that_libtpms_refuses(made, version):
    path = permall_of(made, version)
    with Store.open(str(made), version) as store:
        error = store.damaged(PERMALL, "libtpms: 0x9")
    assert error.code is Code.STATE_CORRUPT
    assert error.message == f"{path} is damaged: libtpms: 0x9"
    assert f"cp -p {path}.previous {path}" in (error.remedy or "")


# restoring


@pytest.mark.parametrize("damage", [b"damaged", None])
def test_the_remedy_works_as_it_is_printed(made, version, damage):
    """What belongs to the generation that goes is set aside."""
    path = permall_of(made, version)
    with Store.open(str(made), version) as store:
        store.store(VOLATILESTATE, b"of the generation that goes")
    volatile = content(made)[file_name(version, VOLATILESTATE)]
    os.unlink(path)
    if damage is not None:
        write(path, damage)
    remedy = refused(made, version).remedy or ""
    assert os.system(remedy.split(": ", 1)[1]) == 0
    aside = {name: data for name, data in content(made).items() if name.endswith(".bad")}
    assert aside == {
        file_name(version, VOLATILESTATE) + ".bad": volatile,
        **({} if damage is None else {file_name(version, PERMALL) + ".bad": damage}),
    }
    with Store.open(str(made), version) as store:
        assert store.load(PERMALL) == payload(version, b"old")
        assert store.load(VOLATILESTATE) is None


@pytest.mark.parametrize("previous", [None, b"damaged"])
def test_a_previous_generation_that_is_not_good_is_not_offered(made, version, previous):
    path = permall_of(made, version)
    os.unlink(path + ".previous")
    if previous:
        write(path + ".previous", previous)
    write(path, b"damaged")
    expected = f"nothing was changed; restore it from a backup (there is no good {path}.previous)"
    assert refused(made, version).remedy == expected


# --- swtpm's other back end -------------------------------------------------------------------------------------------


LINEAR = bytes.fromhex("6e696c6d707477730100c000c0000000") + bytes(200)  # of swtpm 0.7.1


@pytest.mark.parametrize("beginning", [LINEAR, LINEAR[7::-1] + LINEAR[8:]])
@pytest.mark.parametrize("name", ["tpm2-00.permall", "vm1.tpm", "tpm-00.permall"])
def test_a_file_with_all_of_a_tpm_is_named_whatever_it_is_called(tmp_path, name, beginning):
    """Of either byte order. Under any name it is a TPM, beside which no other one is made in silence."""
    (tmp_path / name).write_bytes(beginning)
    error = refused(tmp_path, "1.2" if name.startswith("tpm-") else "2.0")
    assert error.code is Code.STATE_FOREIGN
    assert f"{tmp_path}/{name}" in error.message
    assert "swtpm's file back end" in error.message
    assert "[state] file" in error.remedy


def test_a_file_with_all_of_a_tpm_in_the_directory_s_place(tmp_path):
    path = tmp_path / "vm1.tpm"
    path.write_bytes(LINEAR)
    with pytest.raises(VtpmError, match="where a directory with its files should be") as caught:
        Store.open(str(path), "2.0")
    assert caught.value.code is Code.STATE_FOREIGN
    path.write_bytes(b"another")
    with pytest.raises(VtpmError, match="is not a directory") as caught:
        Store.open(str(path), "2.0")
    assert caught.value.code is Code.STATE_MISSING


def test_what_else_is_in_an_empty_directory_does_not_matter(tmp_path, version):
    (tmp_path / "lost+found").mkdir(0o700)
    (tmp_path / "identity.json").write_text("{}")
    (tmp_path / "README").write_text("mine")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/dev/zero")
    with Store.open(str(tmp_path), version) as store:
        assert store.sizes() == {}
