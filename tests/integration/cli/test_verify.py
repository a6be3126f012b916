"""vtpmctl verify, with the real libtpms: what is good, what is not, and that nothing is changed."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from made_states import permanent

from swtpm_svc.cli.vtpmctl import entry
from swtpm_svc.cli.vtpmctl.host import Places
from swtpm_svc.errors import TABLE, Code, VtpmError
from swtpm_svc.provision import trial
from swtpm_svc.state import blob
from swtpm_svc.state.backend import PERMALL, VOLATILESTATE
from swtpm_svc.state.encryption import StateKey
from swtpm_svc.state.state_directory import PREVIOUS, file_name
from swtpm_svc.state.state_file import StateFile

HEX = "01" * 16
KEY = StateKey(bytes([1]) * 16)
CORRUPT = TABLE[Code.STATE_CORRUPT].exit_status


class Lab:
    """An instance `lab` with a good state of two generations."""

    def __init__(self, folder: Path, capsys: Any) -> None:
        self.folder, self.state, self._capsys = folder, folder / "state", capsys
        self.state.mkdir()
        self.configure()
        for name in (PERMALL, PERMALL + PREVIOUS):
            self.put(name)

    def configure(self, more: str = "", version: str = "2.0") -> None:
        place = "" if "file =" in more.replace("key-file", "") else f'directory = "{self.state}"\n'
        (self.folder / "lab.toml").write_text(f'[tpm]\nversion = "{version}"\n[state]\n{place}{more}\n')

    def put(self, name: str, payload: bytes = b"", key: Any = None, version: str = "2.0") -> Path:
        path = self.state / file_name(version, name)
        path.write_bytes(blob.encode_checked(payload or permanent(version), key))
        return path

    def look(self) -> "dict[str, tuple[bytes, int]]":
        return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in self.state.iterdir()}

    def verify(self, *words: object) -> "tuple[int, str, str]":
        before = self.look()
        status = entry.main(["verify", *map(str, words)], Places(str(self.folder)))
        assert self.look() == before
        shown = self._capsys.readouterr()
        assert "Traceback" not in shown.err
        assert len(shown.err.splitlines()) <= 2
        return status, shown.out, shown.err

    def states(self, *words: object) -> "tuple[int, list[dict[str, Any]]]":
        status, out, _err = self.verify("--json", *words)
        values = json.loads(out)
        assert values["schema"] == 1
        return status, values["states"]


@pytest.fixture
def lab(tmp_path: Path, capsys: Any) -> Lab:
    return Lab(tmp_path, capsys)


def test_a_good_state(lab: Lab) -> None:
    status, out, err = lab.verify("lab")
    assert (status, err) == (0, "")
    assert out.splitlines()[0] == ("lab: TPM 2.0; 0 NV indices, 0 persistent objects; good: current, previous")
    assert "  permanent, previous: " in out
    for words in ((), (lab.state,), (lab.state / "tpm2-00.permall",), ("vtpm@lab.service",)):
        status, found = lab.states(*words)
        assert (status, found[0]["version"], found[0]["good"][0]) == (0, "2.0", "current")
        assert found[0]["files"][0]["checksum"]


def test_a_tpm_1_2(lab: Lab) -> None:
    lab.configure(version="1.2")
    lab.put(PERMALL, version="1.2")
    status, out, _err = lab.verify("lab")
    assert (status, out.splitlines()[0]) == (0, "lab: TPM 1.2; without an owner; good: current")
    status, found = lab.states(lab.state)
    assert (status, [one["version"] for one in found]) == (0, ["2.0", "1.2"])


@pytest.mark.parametrize("name", [PERMALL, PERMALL + PREVIOUS])
@pytest.mark.parametrize("kind", ["flipped", "cut", "empty"])
def test_the_generation_that_is_damaged_is_told(lab: Lab, name: str, kind: str) -> None:
    path = lab.state / file_name("2.0", name)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes({"flipped": bytes(data), "cut": bytes(data[:700]), "empty": b""}[kind])
    status, found = lab.states("lab")
    is_current = name == PERMALL
    assert found[0]["good"] == (["previous"] if is_current else ["current"])
    assert status == (CORRUPT if is_current else 0)
    assert [one["problem"] is not None for one in found[0]["files"]] == [is_current, not is_current]


def test_what_libtpms_refuses_has_a_checksum_that_is_right(lab: Lab) -> None:
    """Only to load it tells: swapped with the state of another TPM, or of another kind."""
    lab.put(PERMALL, permanent("2.0")[:-200])
    status, out, _err = lab.verify("lab")
    assert status == CORRUPT
    assert "is damaged: permall: libtpms does not accept it" in out
    lab.put(PERMALL)
    lab.put(VOLATILESTATE, permanent("2.0"))
    status, found = lab.states("lab")
    assert (status, found[0]["good"]) == (CORRUPT, ["previous"])
    assert [one["type"] for one in found[0]["files"] if one["problem"]] == ["volatile"]


def test_the_current_one_is_missing(lab: Lab) -> None:
    (lab.state / "tpm2-00.permall").unlink()
    status, out, _err = lab.verify("lab")
    assert status == CORRUPT
    assert "good: previous" in out
    assert "the permanent state of the TPM in" in out
    for path in lab.state.iterdir():
        path.unlink()
    assert lab.verify("lab")[0] == TABLE[Code.STATE_MISSING].exit_status
    assert lab.verify(lab.state)[0] == TABLE[Code.STATE_MISSING].exit_status


def test_an_encrypted_state_needs_its_key(lab: Lab) -> None:
    pytest.importorskip("cryptography")
    for name in (PERMALL, PERMALL + PREVIOUS):
        lab.put(name, key=KEY)
    key, other = lab.folder / "key", lab.folder / "other"
    for path, content in ((key, HEX), (other, "02" * 16)):
        path.write_text(content)
        path.chmod(0o600)
    status, found = lab.states("lab")
    assert (status, found[0]["good"], found[0]["problem"]["code"]) == (CORRUPT, [], "state-key")
    assert lab.states("lab", "--key", f"file={other}")[1][0]["problem"]["code"] == "state-key"
    assert lab.verify(lab.state, "--key", f"file={key}")[0] == 0
    lab.configure(f'key-file = "{key}"')
    assert lab.states("lab")[1][0]["files"][0]["form"] == "encrypted"
    assert lab.verify("lab")[0] == 0


def test_all_of_a_tpm_in_one_file(lab: Lab) -> None:
    path = lab.folder / "all"
    file = StateFile.open(str(path))
    file.lock()
    file.write(PERMALL, blob.encode_checked(permanent("2.0")))
    file.close()
    lab.configure(f'file = "{path}"')
    for word in ("lab", path):
        status, found = lab.states(word)
        assert (status, found[0]["good"]) == (0, ["current"])
    data = bytearray(path.read_bytes())
    data[8] ^= 0xFF
    path.write_bytes(data)
    assert lab.verify(path)[0] != 0


@pytest.mark.parametrize("word", ["none", "no/such", "../x", "a b", "/", "/dev/null", "/etc/passwd"])
def test_what_is_not_a_state_is_one_line(lab: Lab, word: str) -> None:
    status, _out, err = lab.verify(word)
    assert status != 0
    assert len(err.splitlines()) <= 2


def test_a_link_in_the_directory_is_not_followed(lab: Lab) -> None:
    path = lab.state / "tpm2-00.permall"
    path.rename(lab.folder / "elsewhere")
    path.symlink_to(lab.folder / "elsewhere")
    assert lab.verify("lab")[0] != 0


# --- the process that is thrown away -------------------------------------------------------------------------------


def dying(action: Any) -> Any:
    def attempt(_version: str, _payloads: "dict[str, bytes]") -> "dict[str, Any]":
        action()
        return {}

    return attempt


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "dies of it (signal 11)"),
        (lambda: time.sleep(60), "does not come to an end"),
        (lambda: os._exit(3), "ends without a word"),
        (lambda: os.execv("/bin/true", ["true"]), "dies of it (signal 31)"),
        (lambda: Path("/dev/null").write_text("x"), "ends without a word"),
    ],
)
def test_a_process_that_goes_wrong_is_one_error(monkeypatch: Any, action: Any, words: str) -> None:
    monkeypatch.setattr(trial, "_try", dying(action))
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(VtpmError) as caught:
        trial.load("2.0", {PERMALL: b"x"}, 1.0)
    assert words in caught.value.message
    assert set(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.parametrize(
    "answer", [{}, {"nv_indices": ["x"], "persistent": [], "has_owner": None}, [1], {"refused": "\n" * 9}]
)
def test_what_it_says_is_checked(monkeypatch: Any, answer: Any) -> None:
    monkeypatch.setattr(trial, "_try", lambda _version, _payloads: answer)
    with pytest.raises(VtpmError) as caught:
        trial.load("2.0", {PERMALL: b"x"})
    assert "\n" not in caught.value.message


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_it_has_no_rights_and_no_files(monkeypatch: Any, tmp_path: Path) -> None:
    def look(_version: str, _payloads: "dict[str, bytes]") -> "dict[str, Any]":
        return {"refused": f"{len([fd for fd in range(1000) if is_open(fd)])} {os.getuid()} {os.getgroups()}"}

    monkeypatch.setattr(trial, "_try", look)
    with open(tmp_path / "x", "w"), pytest.raises(VtpmError) as caught:
        trial.load("2.0", {PERMALL: b"x"})
    uid = 65534 if os.getuid() == 0 else os.getuid()
    assert caught.value.message.startswith(f"4 {uid} ")  # three, and the pipe
