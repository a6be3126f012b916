"""vtpmctl restore, with the real libtpms: back to a generation that is good, all at one moment."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from made_states import permanent

from swtpm_svc.cli.vtpmctl import entry
from swtpm_svc.cli.vtpmctl.host import Places
from swtpm_svc.errors import TABLE, Code
from swtpm_svc.state import blob
from swtpm_svc.state.state_directory import open_locked

GOOD = "tpm2-00.permall"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    path.mkdir()
    (tmp_path / "lab.toml").write_text(f'[state]\ndirectory = "{path}"\n')
    (path / GOOD).write_bytes(b"damaged")
    (path / f"{GOOD}.previous").write_bytes(blob.encode_checked(permanent("2.0")))
    (path / "tpm2-00.volatilestate").write_bytes(b"of the damaged one")
    return path


def restore(state: Path, *words: str) -> int:
    return entry.main(["restore", "lab", *words], Places(str(state.parent)))


def files(state: Path) -> "dict[str, bytes]":
    return {path.name: path.read_bytes() for path in state.iterdir() if path.name != ".lock"}


def test_the_generations_change_places(state: Path, capsys: Any) -> None:
    before = files(state)
    assert restore(state) == 0
    assert "the previous generation is the current one now" in capsys.readouterr().out
    assert files(state) == {GOOD: before[f"{GOOD}.previous"], f"{GOOD}.previous": b"damaged"}
    assert entry.main(["verify", "lab"], Places(str(state.parent))) == 0


@pytest.mark.needs("root")
def test_the_state_of_the_service_s_user(state: Path) -> None:
    """As which root acts: what tries the state has less rights still."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for path in (state, state.parent / "lab.toml"):
            shutil.move(path, folder)
        (folder / "lab.toml").write_text(f'[state]\ndirectory = "{folder}/state"\n')
        for path in (folder / "state", *(folder / "state").iterdir()):
            os.chown(path, 65534, 65534)
        assert restore(folder / "state") == 0
        assert {path.stat().st_uid for path in (folder / "state").iterdir()} == {65534}


def test_where_none_is_current_the_generation_before_stays(state: Path) -> None:
    (state / GOOD).unlink()
    assert restore(state) == 0
    assert set(files(state)) == {GOOD, f"{GOOD}.previous"}


@pytest.mark.parametrize(
    ("words", "content", "code"),
    [
        ([], b"damaged too", Code.STATE_CORRUPT),
        ([], blob.encode_checked(b"\x00\x03\xab\x36\x47\x23no state"), Code.STATE_CORRUPT),
        (["--generation", "backup"], b"", Code.STATE_MISSING),
    ],
)
def test_what_is_not_good_is_left_alone(state: Path, words: "list[str]", content: bytes, code: Code) -> None:
    (state / f"{GOOD}.previous").write_bytes(content)
    before = files(state)
    assert restore(state, *words) == TABLE[code].exit_status
    assert files(state) == before


def test_a_running_one_is_left_alone(state: Path) -> None:
    before = files(state)
    directory, lock = open_locked(str(state))
    try:
        assert restore(state) == TABLE[Code.STATE_LOCKED].exit_status
    finally:
        lock.close()
        directory.close()
    assert files(state) == before
