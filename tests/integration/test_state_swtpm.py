"""State directories go to and fro between the distribution's swtpm and our Store, and the TPM remembers."""

import os
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from daemon_process import DaemonProcess
from unix_listener import listens

from swtpm_svc.cli import vtpmctl
from swtpm_svc.cli.status import Places
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.state import blob
from swtpm_svc.state.store import PERMALL, SAVESTATE, VOLATILESTATE, Store, file_name, restore_previous

pytestmark = pytest.mark.needs("swtpm", "swtpm_ioctl")
VERSIONS = ["1.2", "2.0"]
DEADLINE_S = 20.0


class Swtpm:
    """The distribution's swtpm on a state directory, started and stopped as an administrator would."""

    def __init__(self, version: str, directory: str, sockets: str, *options: str) -> None:
        self.version = version
        self.control = os.path.join(sockets, "tpm.ctrl")
        self.data = os.path.join(sockets, "tpm")
        place = f"backend-uri={directory}" if directory.startswith("file://") else f"dir={directory}"
        arguments = ["swtpm", "socket", "--tpmstate", place, "--flags", "not-need-init,startup-clear"]
        arguments += ["--ctrl", f"type=unixio,path={self.control}", "--server", f"type=unixio,path={self.data}", *options]
        arguments += ["--tpm2"] if version == "2.0" else []
        self.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        end = time.monotonic() + DEADLINE_S
        while not listens(self.data) or self.ioctl("-c").returncode:
            assert self.process.poll() is None, f"swtpm did not start: {self.process.communicate()[0]}"
            assert time.monotonic() < end, "swtpm does not answer"
            time.sleep(0.02)

    def ioctl(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = ["swtpm_ioctl", "--unix", self.control, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)

    def stop(self) -> None:
        self.ioctl("-s")
        try:
            self.process.wait(DEADLINE_S)
        finally:
            self.process.kill()
            self.process.communicate()

    def send(self, tag: int, code: int, body: bytes) -> bytes:
        """The response's body; fails unless the TPM succeeds."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(DEADLINE_S)
            connection.connect(self.data)
            connection.sendall(struct.pack(">HII", tag, 10 + len(body), code) + body)
            response = connection.recv(4096)
        assert int.from_bytes(response[6:10], "big") == 0, response.hex()
        return response[10:]

    def remember(self, text: bytes) -> None:
        """Write an NV index that stays."""
        if self.version == "2.0":
            # NV_DefineSpace for the owner, NV_Write: empty password sessions
            public = struct.pack(">IHIHH", NV_2_0, 0x000B, 0x00020002, 0, len(text))
            self.send(0x8002, 0x12A, struct.pack(">I", OWNER) + PASSWORD + struct.pack(">HH", 0, len(public)) + public)
            written = struct.pack(">H", len(text)) + text + struct.pack(">H", 0)
            self.send(0x8002, 0x137, struct.pack(">II", OWNER, NV_2_0) + PASSWORD + written)
            return
        # TPM_NV_DefineSpace with TPM_NV_PER_OWNERWRITE, which asks nobody before nvLocked is set; TPM_NV_WriteValue
        pcrs = struct.pack(">H3sB20s", 3, bytes(3), 0x1F, bytes(20))
        public = struct.pack(">HI", 0x18, NV_1_2) + pcrs + pcrs + struct.pack(">HI3sI", 0x17, 2, bytes(3), len(text))
        self.send(0xC1, 0xCC, public + bytes(20))
        self.send(0xC1, 0xCD, struct.pack(">III", NV_1_2, 0, len(text)) + text)

    def recall(self, size: int) -> bytes:
        if self.version == "2.0":
            area = struct.pack(">II", OWNER, NV_2_0) + PASSWORD + struct.pack(">HH", size, 0)
            return self.send(0x8002, 0x14E, area)[6 : 6 + size]
        return self.send(0xC1, 0xCF, struct.pack(">III", NV_1_2, 0, size))[4 : 4 + size]


NV_2_0, NV_1_2 = 0x01500016, 0x1234
OWNER = 0x40000001
PASSWORD = struct.pack(">IIHBH", 9, 0x40000009, 0, 0, 0)
SECRET = b"remember"


@contextmanager
def swtpm(version: str, directory: object, *options: str) -> Iterator[Swtpm]:
    sockets = f"/tmp/swtpm-test-{os.getpid()}-{time.monotonic_ns()}"  # a UNIX socket's path has at most 107 bytes
    os.mkdir(sockets, 0o700)
    try:
        tpm = Swtpm(version, str(directory), sockets, *options)
        try:
            yield tpm
        finally:
            tpm.stop()
    finally:
        shutil.rmtree(sockets)


def files(directory: object) -> dict[str, bytes]:
    """All but the lock, with content."""
    names = [name for name in os.listdir(str(directory)) if name != ".lock"]
    return {name: open(os.path.join(str(directory), name), "rb").read() for name in names}


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
            assert blob.encode_plain(payload) == written[file_name(version, name)]
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
    read = {"1.2": (0xC1, 0x15, struct.pack(">I", 10)), "2.0": (0x8001, 0x17E, bytes.fromhex("00000001 000b 03 000400"))}[version]
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
        store.store_raw(name, data)
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
    assert f"cp -p {permall}.previous {permall}" in (caught.value.remedy or "")
    restore_previous(str(tmp_path), version)
    with swtpm(version, tmp_path) as tpm:
        assert tpm.recall(len(SECRET)) == SECRET


# --- swtpm's other back end ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_the_way_out_of_one_file(version, tmp_path):
    """What the message about such a file says, as vtpm@.service(8) has it, step by step."""
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
            for words in (["stop", "vm1"], ["load", "vm1", "permanent", str(saved)], ["init", "vm1"], ["shutdown", "vm1"]):
                assert vtpmctl.main(words, places) == 0
            assert daemon.process.wait(20) == 0
        finally:
            daemon.process = None
        with swtpm(version, daemon.state) as tpm:
            assert tpm.recall(len(SECRET)) == SECRET
