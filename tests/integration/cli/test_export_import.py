"""vtpmctl export and import, with the real libtpms: what is taken out comes in again, or nothing does."""

import io
import json
import os
import shutil
import stat
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any, Callable

import pytest
from daemon_process import DaemonProcess
from made_states import permanent

from swtpm_svc.cli.vtpmctl import entry, exporting, importing
from swtpm_svc.cli.vtpmctl.host import Places
from swtpm_svc.errors import TABLE, Code
from swtpm_svc.state import archive, blob
from swtpm_svc.state.backend import PERMALL, SAVESTATE, VOLATILESTATE
from swtpm_svc.state.encryption import Keys, StateKey
from swtpm_svc.state.state_directory import IDENTITY, PREVIOUS, file_name
from swtpm_svc.state.state_file import StateFile

HEX = "01" * 16
KEY = StateKey(bytes([1]) * 16)


class Lab:
    """Configurations and states of two hosts: `here`, where the instance `lab` is, and `there`."""

    def __init__(self, folder: Path, capsys: Any) -> None:
        self.here, self.there, self._capsys = folder / "here", folder / "there", capsys
        self.file = folder / "lab.vtpm"
        for place in (self.here, self.there):
            place.mkdir()
        self.state = self.here / "lab"
        self.state.mkdir(mode=0o700)
        self.configure(self.here)
        self.put(self.state)

    def configure(self, place: Path, more: str = "", version: str = "2.0") -> None:
        where = "" if "file =" in more.replace("key-file =", "") else f'directory = "{place / "lab"}"\n'
        (place / "lab.toml").write_text(f'[tpm]\nversion = "{version}"\n[state]\n{where}{more}\n')

    def put(self, state: Path, name: str = PERMALL, payload: bytes = b"", key: Any = None) -> None:
        (state / file_name("2.0", name)).write_bytes(blob.encode_checked(payload or permanent("2.0"), key))

    def run(self, place: Path, *words: object) -> "tuple[int, str, str]":
        status = entry.main([*map(str, words)], Places(str(place)))
        shown = self._capsys.readouterr()
        assert "Traceback" not in shown.err
        assert len(shown.err.splitlines()) <= 2
        assert "fault of this program" not in shown.err
        return status, shown.out, shown.err

    def export(self, *words: object) -> bytes:
        status, _out, err = self.run(self.here, "export", "lab", self.file, *words)
        assert (status, err) == (0, "")
        return self.file.read_bytes()

    def move(self) -> None:
        """What is written there, and not here, where the same directory is another host's."""
        data = archive.decode(self.file.read_bytes(), "")
        text = data.configuration.decode().replace(str(self.here), str(self.there))
        self.file.write_bytes(archive.encode(data._replace(configuration=text.encode())))

    def import_(self, *words: object) -> "tuple[int, str, str]":
        return self.run(self.there, "import", self.file, *words)


@pytest.fixture
def lab(tmp_path: Path, capsys: Any, monkeypatch: Any) -> Lab:
    monkeypatch.setattr(importing, "USER", "root")
    monkeypatch.setattr(exporting, "IDENTITIES", str(tmp_path / "identities"))
    return Lab(tmp_path, capsys)


def payloads(state: Path, key: Any = None, version: str = "2.0") -> "dict[str, bytes]":
    found = {}
    for name in (PERMALL, VOLATILESTATE, SAVESTATE):
        path = state / file_name(version, name)
        if path.exists():
            found[name] = blob.payload(blob.decode(path.read_bytes()), Keys(key))
    return found


def contents(place: Path) -> "dict[str, bytes]":
    found = {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if not name.endswith(".lock")}


def test_what_was_stopped_is_the_same_there(lab: Lab) -> None:
    (lab.state / IDENTITY).write_bytes(b"{}")
    lab.put(lab.state, VOLATILESTATE, b"not wanted")
    lab.export()
    assert stat.S_IMODE(lab.file.stat().st_mode) == 0o600
    lab.move()
    status, out, err = lab.import_()
    assert (status, err) == (0, "")
    assert "start it: systemctl start vtpm@lab" in out
    assert payloads(lab.there / "lab") == {PERMALL: permanent("2.0")}
    assert (lab.there / "lab" / IDENTITY).read_bytes() == b"{}"
    assert str(lab.there) in (lab.there / "lab.toml").read_text()
    assert not (lab.there / "lab/.created").exists()
    assert stat.S_IMODE((lab.there / "lab").stat().st_mode) == 0o700
    status, out, _err = lab.run(lab.there, "verify", lab.file)
    assert (status, "written by libtpms 0." in out) == (0, True)


def test_any_tar_reads_it(lab: Lab) -> None:
    lab.export()
    shown = subprocess.run(["tar", "tf", str(lab.file)], capture_output=True, text=True, check=True).stdout
    assert shown.split() == ["manifest.json", "permanent.state", "configuration.toml", "manifest.sha256"]


def test_it_is_encrypted_as_the_instance_is_or_with_a_key_of_its_own(lab: Lab, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    key, other = tmp_path / "key", tmp_path / "other"
    for path, text in ((key, HEX), (other, "02" * 32)):
        path.write_text(text)
        path.chmod(0o600)
    lab.put(lab.state, key=KEY)
    lab.configure(lab.here, f'key-file = "{key}"')
    assert permanent("2.0")[200:600] not in lab.export()
    assert permanent("2.0")[200:600] in lab.export("--key", "none")
    lab.export("--key", f"file={other}")
    lab.move()
    status, _out, err = lab.import_()
    assert (status, contents(lab.there)) == (TABLE[Code.STATE_KEY].exit_status, {})
    assert "--key file=PATH" in err
    assert lab.import_("--key", f"file={other}")[0] == 0
    assert payloads(lab.there / "lab", KEY) == {PERMALL: permanent("2.0")}


def test_a_running_tpm_gives_all_of_one_moment(lab: Lab, tmp_path: Path) -> None:
    """Its volatile state is taken too: there it goes on without a Startup."""
    folder = tmp_path / "running"
    folder.mkdir()
    daemon = DaemonProcess(folder).start()
    try:
        done = lab.run(folder, "export", "lab", lab.file, "--volatile")
        assert (done[0], done[2]) == (0, "")
        assert daemon.process.poll() is None
        status, out, _err = lab.run(folder, "--json", "export", "lab", lab.file)
        assert (status, json.loads(out)["types"]) == (0, ["permanent"])
        lab.run(folder, "export", "lab", lab.file, "--volatile")
    finally:
        daemon.stop()
    found = archive.decode(lab.file.read_bytes(), "")
    assert set(found.blobs) == {PERMALL, VOLATILESTATE}
    assert lab.run(folder, "verify", lab.file)[0] == 0
    text = found.configuration.decode().replace(str(folder), str(lab.there))
    lab.file.write_bytes(archive.encode(found._replace(configuration=text.encode())))
    assert lab.import_()[0] == 0
    assert set(payloads(lab.there / "lab.state")) == {PERMALL, VOLATILESTATE}
    moved = DaemonProcess(lab.there, startup="none").start()
    try:
        with moved.connect() as client:
            client.sendall(bytes.fromhex("80010000000c0000017b0004"))  # TPM2_GetRandom: it was started before
            assert client.recv(100)[6:10] == bytes(4)
    finally:
        moved.stop()


def test_nothing_is_overwritten_without_a_word(lab: Lab) -> None:
    lab.export()
    lab.move()
    assert lab.import_()[0] == 0
    lab.put(lab.there / "lab", payload=b"\x00\x03\xab\x36\x47\x23another")
    (lab.there / "lab" / file_name("2.0", VOLATILESTATE)).write_bytes(b"of the other")
    before = contents(lab.there)
    status, _out, err = lab.import_()
    assert (status, contents(lab.there)) == (TABLE[Code.ALREADY_PROVISIONED].exit_status, before)
    assert "--overwrite" in err
    assert lab.import_("--overwrite")[0] == 0
    assert payloads(lab.there / "lab") == {PERMALL: permanent("2.0")}
    kept = (lab.there / "lab" / (file_name("2.0", PERMALL) + PREVIOUS)).read_bytes()
    assert kept == before["lab/tpm2-00.permall"]


def test_a_state_without_a_configuration_is_not_overwritten_either(lab: Lab) -> None:
    lab.export()
    lab.move()
    (lab.there / "lab").mkdir()
    lab.put(lab.there / "lab", payload=b"\x00\x03\xab\x36\x47\x23another")
    before = contents(lab.there)
    assert lab.import_()[0] == TABLE[Code.ALREADY_PROVISIONED].exit_status
    assert contents(lab.there) == before


def test_a_running_one_is_not_overwritten(lab: Lab) -> None:
    lab.export()
    daemon = DaemonProcess(lab.there).start()
    try:
        before = (lab.there / "lab.state/tpm2-00.permall").read_bytes()
        status, _out, _err = lab.import_("--overwrite")
        assert status == TABLE[Code.STATE_LOCKED].exit_status
        assert (lab.there / "lab.state/tpm2-00.permall").read_bytes() == before
    finally:
        daemon.stop()


def test_the_configuration_that_is_there_counts(lab: Lab) -> None:
    lab.export()
    lab.configure(lab.there)
    text = (lab.there / "lab.toml").read_text()
    assert lab.import_()[0] == 0
    assert (lab.there / "lab.toml").read_text() == text
    lab.configure(lab.there, version="1.2")
    assert lab.import_("--overwrite")[0] == TABLE[Code.STATE_FOREIGN].exit_status


def test_it_does_not_share_the_state_of_another(lab: Lab) -> None:
    lab.export()
    before = contents(lab.here)
    assert lab.run(lab.here, "import", lab.file, "other")[0] != 0
    assert contents(lab.here) == before


def test_all_of_a_tpm_in_one_file(lab: Lab) -> None:
    lab.export()
    lab.configure(lab.there, f'file = "{lab.there / "all"}"')
    assert lab.import_()[0] == 0
    assert lab.import_()[0] == TABLE[Code.ALREADY_PROVISIONED].exit_status
    assert lab.import_("--overwrite")[0] == 0
    file = StateFile.open(str(lab.there / "all"))
    found = file.read(PERMALL)
    file.close()
    assert found is not None
    assert blob.payload(blob.decode(found)) == permanent("2.0")
    assert lab.run(lab.there, "export", "lab", lab.file)[0] == 0


@pytest.mark.needs("root")
def test_root_works_as_the_owner_of_the_state(monkeypatch: Any, capsys: Any) -> None:
    """Files that root left behind could not be read by the service."""
    folder = Path(tempfile.mkdtemp())  # pytest's own is closed to all others
    try:
        folder.chmod(0o755)
        monkeypatch.setattr(importing, "USER", "nobody")
        lab = Lab(folder, capsys)
        for path in (lab.state, *lab.state.iterdir()):
            shutil.chown(path, 65534, 65534)
        (lab.state / IDENTITY).write_bytes(b"{}")
        shutil.chown(lab.state / IDENTITY, 65534, 65534)
        lab.export()
        assert lab.file.stat().st_uid == 0
        lab.move()
        for words in ((), ("--overwrite",)):
            assert lab.import_(*words)[0] == 0
            there = lab.there / "lab"
            assert {path.stat().st_uid for path in (there, *there.iterdir())} == {65534}
            assert (lab.there / "lab.toml").stat().st_uid == 0
            assert (there / IDENTITY).read_bytes() == b"{}"
        assert {path.stat().st_uid for path in lab.state.iterdir()} == {65534}
    finally:
        shutil.rmtree(folder)


# --- what is no export ---------------------------------------------------------------------------------------------


def refused(lab: Lab, data: bytes) -> str:
    lab.file.write_bytes(data)
    status, _out, err = lab.import_()
    assert status in (TABLE[Code.STATE_CORRUPT].exit_status, TABLE[Code.TOO_LARGE].exit_status)
    assert contents(lab.there) == {}
    assert lab.run(lab.there, "verify", lab.file)[0] != 0
    return err


def test_a_flipped_bit_is_refused_or_means_nothing(lab: Lab) -> None:
    data = lab.export()
    whole = archive.decode(data, "")
    end_of_manifest = 512 + tarfile.TarInfo.frombuf(data[:512], "utf-8", "strict").size
    for place in (*range(0, end_of_manifest * 8, 3), *range(end_of_manifest * 8, len(data) * 8, 61)):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        code = None
        try:
            found = archive.decode(bytes(flipped), "")
        except importing.VtpmError as error:
            code = error.code
        assert code in (Code.STATE_CORRUPT, Code.STATE_FOREIGN) or found == whole, place


def test_what_is_cut_off_is_refused(lab: Lab) -> None:
    data = lab.export()
    end = data.index(b"manifest.sha256") + 512 + 82
    for size in (*range(0, end, 97), end - 1):
        with pytest.raises(importing.VtpmError):
            archive.decode(data[:size], "")
    for size in (0, 10, 600, end - 1):
        refused(lab, data[:size])


def tar_of(*members: "tuple[tarfile.TarInfo, bytes]") -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w:", format=tarfile.PAX_FORMAT) as tar:
        for member, data in members:
            tar.addfile(member, io.BytesIO(data))
    return written.getvalue()


def member(name: str, data: bytes = b"x", **fields: Any) -> "tuple[tarfile.TarInfo, bytes]":
    found = tarfile.TarInfo(name)
    found.size = len(data)
    for field, value in fields.items():
        setattr(found, field, value)
    return found, data


@pytest.mark.parametrize(
    "hostile",
    [
        member("../../../tmp/vtpm-hostile"),
        member("/tmp/vtpm-hostile"),
        member("permanent.state", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("permanent.state", b"", type=tarfile.LNKTYPE, linkname="manifest.json"),
        member("permanent.state", b"", type=tarfile.CHRTYPE),
        member("permanent.state", b"", type=tarfile.FIFOTYPE),
        member("permanent.state", b"", type=tarfile.DIRTYPE),
        member("manifest.json"),
        member("permanent.state", b"x", pax_headers={"path": "../x"}),
        member("permanent.state", b"x", pax_headers={"size": "99999999999"}),
        member("permanent.state", b"x", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}),
        member("x" * 5000),
        member("\n\x1b[2J"),
    ],
)
def test_hostile_members(lab: Lab, hostile: "tuple[tarfile.TarInfo, bytes]") -> None:
    err = refused(lab, tar_of(member("manifest.json", b"{}"), hostile))
    assert "\x1b" not in err
    assert not os.path.lexists("/tmp/vtpm-hostile")


def test_a_length_that_is_not_so(lab: Lab) -> None:
    first = tar_of(member("manifest.json", b"{}"))
    for size in (1 << 30, 1 << 62, 20 << 20):
        found = tarfile.TarInfo("permanent.state")
        found.size = size
        refused(lab, first[:1024] + found.tobuf(tarfile.GNU_FORMAT) + b"x" * 512)


def changed(data: bytes, **values: Any) -> bytes:
    """With another manifest, as somebody would write it who knows the form."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        files = {one.name: tar.extractfile(one).read() for one in tar.getmembers()}  # type: ignore[union-attr]
    manifest = {**json.loads(files["manifest.json"]), **values}
    files["manifest.json"] = json.dumps(manifest).encode()
    files["manifest.sha256"] = archive._digest_line(files["manifest.json"])
    return tar_of(*(member(name, content) for name, content in files.items()))


@pytest.mark.parametrize(
    "values",
    [
        {"files": {}},
        {"files": []},
        {"version": "3"},
        {"version": ["2.0"]},
        {"instance": None},
        {"instance": "a\nb"},
        {"made": "now"},
        {"encrypted": 1},
        {"format": 2},
        {"libtpms": 9},
    ],
)
def test_a_manifest_that_says_something_else(lab: Lab, values: "dict[str, Any]") -> None:
    refused(lab, changed(lab.export(), **values))


@pytest.mark.parametrize("name", ["../x", "a/b", "", "-x", "."])
def test_its_name_is_no_path(lab: Lab, name: str) -> None:
    lab.file.write_bytes(changed(lab.export(), instance=name))
    assert lab.import_()[0] != 0
    assert contents(lab.there) == {}


def test_states_that_are_not_what_they_are_called(lab: Lab) -> None:
    """Swapped: the checksums are right, libtpms tells."""
    good = archive.decode(lab.export(), "")
    other = blob.encode_checked(permanent("1.2"))
    for blobs in ({PERMALL: other}, {PERMALL: good.blobs[PERMALL], VOLATILESTATE: good.blobs[PERMALL]}):
        refused(lab, archive.encode(good._replace(blobs=blobs)))
    refused(lab, archive.encode(good._replace(blobs={PERMALL: blob.encode_checked(permanent("2.0")[:-100])})))


def test_no_time_that_there_is(lab: Lab) -> None:
    lab.file.write_bytes(changed(lab.export(), made=10**30))
    assert lab.run(lab.there, "verify", lab.file)[0] in (0, TABLE[Code.STATE_CORRUPT].exit_status)


def test_what_cannot_be_exported(lab: Lab) -> None:
    lab.file.write_bytes(b"before")
    lab.put(lab.state, payload=permanent("2.0")[:-100])
    assert lab.run(lab.here, "export", "lab", lab.file)[0] == TABLE[Code.STATE_CORRUPT].exit_status
    (lab.state / "tpm2-00.permall").unlink()
    assert lab.run(lab.here, "export", "lab", lab.file)[0] == TABLE[Code.STATE_MISSING].exit_status
    assert lab.run(lab.here, "export", "none", lab.file)[0] == TABLE[Code.CONFIG_MISSING].exit_status
    assert lab.run(lab.here, "export", "lab", "/dev/full")[0] != 0
    assert lab.file.read_bytes() == b"before"


# --- a kill at every step ------------------------------------------------------------------------------------------


def killed_at(step: int, lab: Lab, *words: object) -> bool:
    """Import, killed before its change number `step`. Was it killed?"""
    child = os.fork()
    if not child:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            kill_at(step)
            entry.main(["import", str(lab.file), *map(str, words)], Places(str(lab.there)))
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def kill_at(step: int) -> None:
    left = [step]

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*words: Any, **named: Any) -> Any:
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), 9)
            return call(*words, **named)

        return run

    for name in (
        "mkdir",
        "rename",
        "link",
        "unlink",
        "rmdir",
        "write",
        "pwrite",
        "fsync",
        "fdatasync",
        "chown",
        "fchown",
    ):
        setattr(os, name, counted(getattr(os, name)))


@pytest.mark.parametrize("is_there", [False, True])
def test_a_kill_at_every_step_leaves_all_or_nothing(lab: Lab, is_there: bool) -> None:
    lab.put(lab.state, VOLATILESTATE, permanent("2.0"))
    good = archive.decode(lab.export("--volatile"), "")
    # what libtpms takes for a volatile state is not the question here: an identity record goes along
    blobs = {PERMALL: good.blobs[PERMALL]}
    lab.file.write_bytes(archive.encode(good._replace(blobs=blobs, identity=b"{}")))
    lab.move()
    new, old = (
        {PERMALL: permanent("2.0")},
        {PERMALL: b"\x00\x03\xab\x36\x47\x23old", VOLATILESTATE: b"\x00\x03\xab\x36old"},
    )
    step, was_killed, seen = 0, True, set()
    while was_killed:
        step += 1
        subprocess.run(["rm", "-rf", str(lab.there)], check=True)
        lab.there.mkdir()
        if is_there:
            (lab.there / "lab").mkdir(mode=0o700)
            lab.configure(lab.there)
            for name, payload in old.items():
                lab.put(lab.there / "lab", name, payload)
        was_killed = killed_at(step, lab, *(["--overwrite"] if is_there else []))
        if is_there:  # whoever takes the lock next brings it to its end
            directory, lock = importing.takeover.open_locked(str(lab.there / "lab"))
            lock.close()
            directory.close()
        found = payloads(lab.there / "lab") if (lab.there / "lab").exists() else {}
        has_configuration = (lab.there / "lab.toml").exists()
        assert found in ([old, new] if is_there else [{}, new]), step
        assert found == new or is_there or not has_configuration, step
        seen.add(found == new)
        assert lab.import_(*(["--overwrite"] if is_there else []))[0] == 0 or (has_configuration and found == new)
        assert payloads(lab.there / "lab") == new, step
        assert (lab.there / "lab.toml").exists()
        assert not (lab.there / "lab/.created").exists()
    assert step > 10
    assert seen == {True, False}
