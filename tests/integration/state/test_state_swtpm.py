"""State directories go to and fro between the distribution's swtpm and our Store, and the TPM remembers."""

import os
import struct
import subprocess
import tempfile

import pytest
from daemon_process import DaemonProcess
from plain_blob import encode_plain
from swtpm_process import DEADLINE_S, PASSWORD, SECRET, VERSIONS, Swtpm, files, swtpm

from swtpm_svc.cli.vtpmctl import entry
from swtpm_svc.cli.vtpmctl.host import Places
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.state import blob
from swtpm_svc.state.backend import PERMALL, SAVESTATE, VOLATILESTATE
from swtpm_svc.state.state_directory import file_name
from swtpm_svc.state.store import Store

pytestmark = pytest.mark.needs("swtpm", "swtpm_ioctl")


@pytest.mark.parametrize("version", VERSIONS)
def test_swtpms_directory_is_read_and_given_back(version, tmp_path):
    with swtpm(version, tmp_path) as tpm:
        tpm.remember(SECRET)
        assert tpm.ioctl("-v").returncode == 0
    written = files(tmp_path)
    assert set(written) == {file_name(version, PERMALL), file_name(version, VOLATILESTATE)}

    with Store.open(str(tmp_path), version) as store:
        payloads = {name: store.load(name) for name in (PERMALL, VOLATILESTATE)}
        assert store.load(SAVESTATE) is None
        assert files(tmp_path) == written
        for name, payload in payloads.items():
            assert payload is not None
            assert encode_plain(payload) == written[file_name(version, name)]
            assert blob.payload_version(payload) == version
            store.store(name, payload)

    with swtpm(version, tmp_path) as tpm:
        assert tpm.recall(len(SECRET)) == SECRET


@pytest.mark.parametrize("version", VERSIONS)
def test_a_directory_that_only_the_store_wrote_is_served_by_swtpm(version, tmp_path):
    origin, ours = tmp_path / "origin", tmp_path / "ours"
    origin.mkdir()
    ours.mkdir()
    with swtpm(version, origin) as tpm:
        tpm.remember(SECRET)
    with Store.open(str(origin), version) as store:
        payload = store.load(PERMALL)
    assert payload
    with Store.open(str(ours), version) as store:
        store.store(PERMALL, payload)
    with swtpm(version, ours) as tpm:
        assert tpm.recall(len(SECRET)) == SECRET
    # swtpm wrote the file anew while it ran, and we take it back
    with Store.open(str(ours), version) as store:
        assert blob.payload_version(store.load(PERMALL) or b"") == version


@pytest.mark.parametrize("version", VERSIONS)
def test_swtpms_volatile_state_survives_a_store_of_ours(version, tmp_path):
    """A PCR that was extended is still extended when swtpm resumes from the file that we wrote."""
    read = {
        "1.2": (0xC1, 0x15, struct.pack(">I", 10)),
        "2.0": (0x8001, 0x17E, bytes.fromhex("00000001 000b 03 000400")),
    }[version]
    extend = {
        "1.2": (0xC1, 0x14, struct.pack(">I", 10) + b"e" * 20),
        "2.0": (0x8002, 0x182, struct.pack(">I", 10) + PASSWORD + bytes.fromhex("00000001000b") + b"e" * 32),
    }[version]
    with swtpm(version, tmp_path) as tpm:
        tpm.send(*extend)
        pcr = tpm.send(*read)
        assert any(pcr[-20:])
        assert tpm.ioctl("-v").returncode == 0
    with Store.open(str(tmp_path), version) as store:
        payload = store.load(VOLATILESTATE)
        assert payload
        store.store(VOLATILESTATE, payload)
    # no startup: it would be refused on a resumed TPM
    with swtpm(version, tmp_path, "--flags", "not-need-init") as tpm:
        assert tpm.send(*read)[-20:] == pcr[-20:]


@pytest.mark.needs("tpm2-tools")
def test_tpm2_tools_talk_to_state_that_went_through_the_store(tmp_path):
    with swtpm("2.0", tmp_path) as tpm:
        run_tool(tpm, "tpm2_nvdefine", "-C", "o", "-s", "8", "-a", "ownerread|ownerwrite", "0x1500020")
        (tmp_path / "secret").write_bytes(SECRET)
        run_tool(tpm, "tpm2_nvwrite", "-C", "o", "-i", str(tmp_path / "secret"), "0x1500020")
    with Store.open(str(tmp_path), "2.0") as store:
        payload = store.load(PERMALL)
        assert payload
        store.store(PERMALL, payload)
    with swtpm("2.0", tmp_path) as tpm:
        assert run_tool(tpm, "tpm2_nvread", "-C", "o", "0x1500020") == SECRET
        assert len(run_tool(tpm, "tpm2_getrandom", "16")) == 16


def run_tool(tpm: Swtpm, *command: str) -> bytes:
    environment = {**os.environ, "TPM2TOOLS_TCTI": f"swtpm:path={tpm.data}"}
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, timeout=DEADLINE_S, check=True).stdout


def test_a_saved_state_of_tpm_1_2_is_read(tmp_path):
    with swtpm("1.2", tmp_path) as tpm:
        tpm.send(0xC1, 0x98, b"")
    with Store.open(str(tmp_path), "1.2") as store:
        payload = store.load(SAVESTATE)
        assert payload
        assert blob.payload_version(payload) == "1.2"
        assert store.sizes()[SAVESTATE] == len(payload) + 16


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", ["permanent", "volatile"])
def test_swtpms_state_blobs_are_ours_byte_for_byte(version, kind, tmp_path):
    saved = tmp_path / "blob"
    state = tmp_path / "state"
    state.mkdir()
    with swtpm(version, state) as tpm:
        assert tpm.ioctl("--save", kind, str(saved)).returncode == 0
    data = saved.read_bytes()
    payload = blob.payload(blob.decode(data))
    assert blob.encode_migration(payload) == data
    with Store.open(str(state), version) as store:
        name = PERMALL if kind == "permanent" else VOLATILESTATE
        store.store(name, store.unwrap(name, data))
        assert store.load(name) == payload


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", ["permanent", "volatile"])
def test_swtpm_takes_our_state_blobs(version, kind, tmp_path):
    ours = tmp_path / "blob"
    with swtpm(version, tmp_path) as tpm:
        tpm.remember(SECRET)
        assert tpm.ioctl("--save", kind, str(ours)).returncode == 0
        ours.write_bytes(blob.encode_migration(blob.payload(blob.decode(ours.read_bytes()))))
        assert tpm.ioctl("--stop").returncode == 0
        loaded = tpm.ioctl("--load", kind, str(ours))
        assert (loaded.returncode, loaded.stderr) == (0, "")
        assert tpm.ioctl("-i").returncode == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_swtpms_directory_of_the_other_version_is_refused_and_untouched(version, tmp_path):
    other = "1.2" if version == "2.0" else "2.0"
    with swtpm(other, tmp_path):
        pass
    before = files(tmp_path)
    with pytest.raises(VtpmError) as caught:
        Store.open(str(tmp_path), version)
    assert caught.value.code is Code.STATE_FOREIGN
    assert file_name(other, PERMALL) in caught.value.message
    assert file_name(version, PERMALL) in caught.value.message
    assert files(tmp_path) == before


@pytest.mark.parametrize("version", VERSIONS)
def test_the_restored_generation_is_served_by_swtpm(version, tmp_path):
    with swtpm(version, tmp_path) as tpm:
        tpm.remember(SECRET)
    permall = tmp_path / file_name(version, PERMALL)
    with Store.open(str(tmp_path), version) as store:
        payload = store.load(PERMALL)
        assert payload
        store.store(PERMALL, payload)
    permall.write_bytes(permall.read_bytes()[:500])
    with pytest.raises(VtpmError, match="cut off after 500") as caught:
        Store.open(str(tmp_path), version)
    remedy = caught.value.remedy or ""
    assert remedy.endswith(f" && cp -p {permall}.previous {permall}")
    assert os.system(remedy.split(": ", 1)[1]) == 0
    with swtpm(version, tmp_path) as tpm:
        assert tpm.recall(len(SECRET)) == SECRET


# --- swtpm's other back end ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_the_way_out_of_one_file(version, tmp_path):
    """By its blobs; [state] file serves it where it is."""
    single, saved = tmp_path / "vm1.tpm", tmp_path / "vm1.permanent"
    with swtpm(version, f"file://{single}") as tpm:
        tpm.remember(SECRET)
    with pytest.raises(VtpmError) as caught:
        Store.open(str(single), version)
    assert caught.value.code is Code.STATE_FOREIGN
    with swtpm(version, f"file://{single}") as tpm:
        assert tpm.ioctl("--save", "permanent", str(saved)).returncode == 0
    with tempfile.TemporaryDirectory(prefix="vtpm-single-", dir="/tmp") as folder:
        daemon = DaemonProcess(folder, "vm1", tpm=f'version = "{version}"').start()
        try:
            places = Places(config=folder)
            for words in (
                ["power", "off", "vm1"],
                ["load", "vm1", "permanent", str(saved)],
                ["power", "on", "vm1"],
                ["shutdown", "vm1"],
            ):
                assert entry.main(words, places) == 0
            assert daemon.process.wait(20) == 0
        finally:
            daemon.process = None
        with swtpm(version, daemon.state) as tpm:
            assert tpm.recall(len(SECRET)) == SECRET
