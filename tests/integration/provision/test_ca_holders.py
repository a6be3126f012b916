"""The local CA beside other users: what they have put there is not used, and root gives nothing away to them."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.provision import ca, ca_directory

NOBODY = 65534
needs_root = pytest.mark.needs("root")


@pytest.fixture
def folder() -> Iterator[Path]:
    """That any user can reach."""
    with tempfile.TemporaryDirectory(prefix="vtpm-ca-", dir="/tmp") as path:
        os.chmod(path, 0o755)
        yield Path(path)


def as_nobody(code: str, *words: object) -> None:
    program = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", sys.executable, "-c", code]
    subprocess.run([*program, *map(str, words)], check=True, timeout=60)


def refusal(place: Path) -> VtpmError:
    with pytest.raises(VtpmError) as caught:
        ca.load(str(place))
    assert caught.value.code is Code.CA_UNUSABLE
    with pytest.raises(VtpmError) as again:
        ca.obtain(str(place))
    assert str(again.value) == str(caught.value)
    return caught.value


def give(path: Path, uid: int) -> None:
    for one in (path, *path.rglob("*")):
        os.chown(one, uid, uid)


SWAP = """
import os, shutil, sys
place, strangers = sys.argv[1:]
os.rename(place + "/current", place + "/old")
shutil.copytree(strangers, place + "/current")
"""


@needs_root
def test_a_stranger_s_ca_signs_nothing(folder: Path) -> None:
    """Also when the directory is closed again: what was put there is a stranger's still."""
    place, strangers = folder / "ca", folder / "strangers"
    ca.obtain(str(place))
    ca.obtain(str(strangers))
    give(strangers, NOBODY)
    place.chmod(0o777)
    as_nobody(SWAP, place, strangers / "current")
    assert refusal(place).message == f"{place} may be written by others"
    place.chmod(0o700)
    error = refusal(place)
    assert error.message == f"{place}/current belongs to the user {NOBODY}, and {place} to 0"
    shutil.rmtree(place / "current")
    (place / "old").rename(place / "current")
    assert ca.load(str(place)).chain


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702, 0o720])
@pytest.mark.parametrize("where", ["", "current"])
def test_a_ca_that_others_can_write_to_is_not_read(folder: Path, mode: int, where: str) -> None:
    place = folder / "ca"
    ca.obtain(str(place))
    (place / where).chmod(mode)
    error = refusal(place)
    assert error.message == f"{(place / where)} may be written by others"
    assert "chmod go-w" in (error.remedy or "")
    (place / where).chmod(0o755)
    assert ca.load(str(place)).chain


@needs_root
def test_root_reads_the_ca_of_the_service_s_user(folder: Path) -> None:
    place = folder / "ca"
    place.mkdir(0o700)
    os.chown(place, NOBODY, NOBODY)
    ca.obtain(str(place))
    assert {path.stat().st_uid for path in place.rglob("*")} == {NOBODY}
    assert ca.load(str(place)).chain


def test_files_without_end_are_not_read(folder: Path) -> None:
    place = folder / "ca"
    ca.obtain(str(place))
    for number in range(100):
        (place / "current" / f"file{number}").touch(0o600)
    assert "files, which no CA has" in refusal(place).message


# --- the lock --------------------------------------------------------------------------------------------------------


@needs_root
@pytest.mark.parametrize("content", ["", "root:secret\n"])
def test_root_gives_no_link_s_target_away(folder: Path, content: str) -> None:
    """The owner of the CA's directory has made the lock a name of somebody else's file."""
    place, secret = folder / "ca", folder / "secret"
    place.mkdir(0o700)
    secret.write_text(content)
    secret.chmod(0o600)
    os.link(secret, place / ca_directory.LOCK)
    os.chown(place, NOBODY, NOBODY)
    with pytest.raises(VtpmError, match="is not a lock that was made here") as caught:
        ca.obtain(str(place))
    assert caught.value.code is Code.CA_UNUSABLE
    assert secret.stat().st_uid == 0


@needs_root
@pytest.mark.parametrize("kind", ["file", "fifo"])
def test_root_gives_no_other_file_away(folder: Path, kind: str) -> None:
    place = folder / "ca"
    place.mkdir(0o700)
    lock = place / ca_directory.LOCK
    if kind == "fifo":
        os.mkfifo(lock, 0o600)
    else:
        lock.write_text("secret")
    os.chown(place, NOBODY, NOBODY)
    with pytest.raises(VtpmError, match="is not a lock that was made here"):
        ca.obtain(str(place))
    assert lock.stat().st_uid == 0


@needs_root
def test_a_lock_that_a_killed_root_did_not_give_away_yet_is_the_owner_s_then(folder: Path) -> None:
    place = folder / "ca"
    place.mkdir(0o700)
    os.chown(place, NOBODY, NOBODY)
    (place / ca_directory.LOCK).touch(0o600)
    ca.obtain(str(place))
    assert (place / ca_directory.LOCK).stat().st_uid == NOBODY


def test_a_lock_that_others_could_open_is_closed_to_them(folder: Path) -> None:
    place = folder / "ca"
    place.mkdir(0o755)
    (place / ca_directory.LOCK).touch(0o644)
    ca.obtain(str(place))
    assert (place / ca_directory.LOCK).stat().st_mode & 0o7777 == 0o600
