"""`vtpmctl create` where something is in its way: what is said, that nothing is left, and that the next one is not in
its way."""

import os
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from created_host import Host, killed_at

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.state import newborn
from swtpm_svc.state.newborn import Owner, Place
from swtpm_svc.state.store import Store

QUICK = ("--no-certificates", "--ek", "ecc-p256")
NOBODY = 65534
#: As on a file system that has no O_TMPFILE.
WITHOUT_NAMELESS_FILES = """import errno, os
def opening(path, flags, *a, _open=os.open, **k):
    if flags & os.O_TMPFILE == os.O_TMPFILE: raise OSError(errno.EOPNOTSUPP, "none")
    return _open(path, flags, *a, **k)
os.open = opening
"""


@pytest.fixture
def host() -> Iterator[Host]:
    """In a folder that any user can reach."""
    with tempfile.TemporaryDirectory(prefix="vtpm-create-", dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        yield Host(Path(folder))


def refused(host: Host, *words: object) -> "tuple[Any, str, str]":
    error = host.refused(*words, *QUICK)
    return Code(error["code"]), error["message"], error["remedy"]


# --- links and leftovers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leads_to", ["other", "nowhere"])
def test_a_link_in_the_state_s_place_is_refused_and_stays(host: Host, leads_to: str) -> None:
    (host.folder / "other").mkdir()
    link = host.state / "vm1"
    link.symlink_to(host.folder / leads_to)
    code, message, remedy = refused(host, "vm1")
    assert (code, message) == (Code.STATE_UNWRITABLE, f"{link} is a symbolic link; no TPM can be put in its place")
    assert f"rm {link}" in remedy
    assert os.readlink(link) == str(host.folder / leads_to)
    assert os.listdir(host.state) == ["vm1"]
    assert host.tree() == {}
    host.made("vm2", *QUICK)


def test_a_link_to_a_tpm_is_a_tpm(host: Host) -> None:
    host.made("vm1", *QUICK)
    (host.state / "vm2").symlink_to(host.state / "vm1")
    before = host.tree()
    assert refused(host, "vm2")[0] is Code.ALREADY_PROVISIONED
    assert host.tree() == before


def test_no_leftover_is_in_another_one_s_way(host: Host) -> None:
    """Whatever has such a name. Anything but a directory goes, and no link is followed; somebody's own things stay."""
    own = [".new-0000000f", ".new-12345", ".new-123456789", ".new-ABCDEF01", ".new-notes", ".new-release"]
    (host.folder / "mine").mkdir()
    (host.folder / "mine" / "file").write_text("mine")
    for folder in (host.state, host.config):
        (folder / ".new-00000001").symlink_to(host.folder / "mine")
        (folder / ".new-00000002").symlink_to("/nowhere")
        (folder / ".new-00000003").write_text("")
        (folder / ".new-0000000f" / "inside").mkdir(parents=True)
        (folder / ".new-release").mkdir()
        (folder / ".new-release" / "index.html").write_text("mine")
        for name in own[1:5]:
            (folder / name).write_text("mine")
    (host.state / ".new-0abcdef0").mkdir()
    (host.state / ".new-0abcdef0" / "tpm2-00.permall").write_text("half")
    host.made("vm1", *QUICK)
    assert sorted(os.listdir(host.state)) == [*own, "vm1"]
    assert sorted(os.listdir(host.config)) == [*own, "vm1.toml"]
    assert all((folder / ".new-release" / "index.html").read_text() == "mine" for folder in (host.state, host.config))
    assert (host.folder / "mine" / "file").read_text() == "mine"
    host.made("vm2", *QUICK)


# --- ordinary mistakes -----------------------------------------------------------------------------------------------


def test_a_configuration_directory_that_is_missing_is_told_before_anything_is_made(host: Host) -> None:
    host.config.rmdir()
    host.state.rmdir()
    code, message, remedy = refused(host, "vm1")
    assert (code, message) == (Code.STATE_UNWRITABLE, f"{host.config} cannot be written: No such file or directory")
    assert remedy == f"mount what belongs there, or make the directory that is missing: mkdir -p {host.config}"
    assert not list(host.folder.iterdir())


def test_a_configuration_directory_that_is_none(host: Host) -> None:
    host.config.rmdir()
    host.config.write_text("")
    code, message, remedy = refused(host, "vm1")
    assert (code, message) == (Code.STATE_UNWRITABLE, f"{host.config} cannot be written: Not a directory")
    assert f"ls -ld {host.folder} {host.config}" in remedy
    assert not list(host.state.iterdir())


def test_a_file_in_the_place_of_a_directory_is_no_failing_disk(host: Host) -> None:
    (host.state / "vm1").write_text("mine")
    code, message, remedy = refused(host, "vm1")
    assert (code, message) == (Code.STATE_UNREADABLE, f"{host.state}/vm1 cannot be read: Not a directory")
    assert "disk" not in remedy
    assert (host.state / "vm1").read_text() == "mine"
    (host.state / "vm1").unlink()
    host.state.rmdir()
    host.state.write_text("")
    _code, message, remedy = refused(host, "vm1")
    assert message.endswith("Not a directory")
    assert "disk" not in remedy
    assert not list(host.config.iterdir())


# --- directories that stay -------------------------------------------------------------------------------------------


@pytest.fixture
def mounted() -> Iterator[Host]:
    """A host whose vm1 has a file system of its own, as mkfs.ext4 leaves one; in a folder that the service's user can
    reach."""
    with tempfile.TemporaryDirectory(prefix="vtpm-create-", dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        host = Host(Path(folder))
        (host.state / "vm1").mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0755", "none", host.state / "vm1"], check=True)
        (host.state / "vm1" / "lost+found").mkdir(0o700)
        try:
            yield host
        finally:
            subprocess.run(["umount", host.state / "vm1"], check=True)


def names_in(path: Path) -> "list[str]":
    return sorted(os.listdir(path))


@pytest.mark.needs("root")
@pytest.mark.parametrize("mode", [0o755, 0o1777, 0o700])
def test_a_mount_point_gets_its_tpm(mounted: Host, mode: int) -> None:
    """By `create`; [provision] is below. The directory stays, and becomes the service's, as one that is made."""
    place = mounted.state / "vm1"
    place.chmod(mode)
    inode = place.stat().st_ino
    mounted.made("vm1", *QUICK, user="nobody")
    assert names_in(place) == [".lock", "lost+found", "tpm2-00.permall"]
    assert (place.stat().st_ino, place.stat().st_uid, stat.S_IMODE(place.stat().st_mode)) == (inode, NOBODY, 0o700)
    assert {(place / name).stat().st_uid for name in (".lock", "tpm2-00.permall")} == {NOBODY}
    assert (place / "lost+found").stat().st_uid == 0
    assert refused(mounted, "vm1")[0] is Code.ALREADY_PROVISIONED
    with Store.open(str(place), "2.0") as store:
        assert store.sizes()


@pytest.mark.needs("root")
def test_a_directory_that_systemd_has_made_keeps_what_else_is_in_it(host: Host) -> None:
    place = host.state / "vm1"
    place.mkdir(0o700)
    (place / "NOTES").write_text("mine")
    (place / "identity.json").write_text("{}")
    host.made("vm1", *QUICK)
    assert names_in(place) == [".lock", "NOTES", "identity.json", "tpm2-00.permall"]
    assert (place / "NOTES").read_text() == "mine"


@pytest.mark.needs("root")
@pytest.mark.parametrize("what", ["file", "link", "hard link"])
def test_a_directory_of_root_s_with_something_else_in_it_is_not_given_away(mounted: Host, what: str) -> None:
    place = mounted.state / "vm1"
    if what == "file":
        (place / "precious").write_text("root's")
    elif what == "link":
        (place / ".lock").symlink_to("/etc/passwd")
    else:
        (place / "lost+found" / "1").write_text("root's")
        os.link(place / "lost+found" / "1", place / ".lock")
    before = names_in(place)
    status, values = mounted.create("vm1", *QUICK, user="nobody")
    assert (status, values["error"]["code"]) == (74, "state-unwritable")
    assert "belongs to root, and has something else in it" in values["error"]["message"]
    assert f"chown -h {NOBODY}:" in values["error"]["remedy"]
    assert (names_in(place), place.stat().st_uid, stat.S_IMODE(place.stat().st_mode)) == (before, 0, 0o755)
    assert not list(mounted.config.iterdir())


@pytest.mark.needs("root")
def test_a_mount_point_that_is_full_is_as_it_was(mounted: Host) -> None:
    place = mounted.state / "vm1"
    subprocess.run(["mount", "-o", "remount,size=8k", place], check=True)
    status, values = mounted.create("vm1", *QUICK, user="nobody")
    assert (status, values["error"]["code"]) == (74, "state-full")
    assert set(names_in(place)) <= {".lock", newborn.MARKER, "lost+found"}
    assert newborn.is_empty(str(place))
    subprocess.run(["mount", "-o", "remount,size=8m", place], check=True)
    mounted.made("vm1", *QUICK, user="nobody")
    assert names_in(place) == [".lock", "lost+found", "tpm2-00.permall"]


@pytest.mark.needs("root")
def test_a_configuration_that_cannot_be_written_leaves_no_tpm_in_a_mount_point(mounted: Host) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=1", "none", mounted.config], check=True)
    try:
        status, values = mounted.create("vm1", *QUICK, user="nobody")
        assert (status, values["error"]["code"]) == (74, "state-full")
        assert names_in(mounted.state / "vm1") == [".lock", "lost+found"]
    finally:
        subprocess.run(["umount", mounted.config], check=True)
    mounted.made("vm1", *QUICK, user="nobody")


@pytest.mark.needs("root")
def test_a_mount_point_that_a_daemon_holds_is_left_alone(mounted: Host) -> None:
    place = mounted.state / "vm1"
    os.chown(place, NOBODY, NOBODY)
    with Store.open(str(place), "2.0"):
        os.chown(place / ".lock", NOBODY, NOBODY)
        status, values = mounted.create("vm1", *QUICK, user="nobody")
    assert (status, values["error"]["code"]) == (75, "state-locked")
    assert not list(mounted.config.iterdir())


@pytest.mark.needs("root")
def test_an_empty_directory_that_a_daemon_holds_is_left_alone(host: Host) -> None:
    """As one with power-on = "manual" does before its TPM is made: what it stored later would be in a directory that is
    gone."""
    place = host.state / "vm1"
    place.mkdir(mode=0o700)
    with Store.open(str(place), "2.0"):
        inode = place.stat().st_ino
        status, values = host.create("vm1", *QUICK)
        assert (status, values["error"]["code"]) == (75, "state-locked")
        assert (place.stat().st_ino, names_in(place)) == (inode, [".lock"])
    assert not list(host.config.iterdir())
    host.made("vm1", *QUICK)


@pytest.mark.needs("root")
@pytest.mark.parametrize("has_nameless_files", [True, False])
def test_a_kill_after_any_step_of_filling_a_mount_point(mounted: Host, has_nameless_files: bool) -> None:
    """Before each change of the disk, one after the other, each upon what the one before has left."""
    place, outcomes = mounted.state / "vm1", set()
    for step in range(60):
        command = killed_at(mounted, step, "vm1", *QUICK, user="nobody")
        if not has_nameless_files:
            command[2] = WITHOUT_NAMELESS_FILES + command[2]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        is_configured = (mounted.config / "vm1.toml").exists()
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        outcomes.add((is_configured, newborn.is_empty(str(place))))
        with Store.open(str(place), "2.0") as store:  # a start at that moment meets a whole TPM or none
            assert bool(store.sizes()) != newborn.is_empty(str(place))
        os.chown(place / ".lock", place.stat().st_uid, -1)
        if is_configured:
            assert (place / "tpm2-00.permall").stat().st_size > 1000
            (place / "tpm2-00.permall").unlink()
            (mounted.config / "vm1.toml").unlink()
    assert done.returncode == 0, done.stderr
    assert outcomes == {(False, True), (False, False), (True, False)}
    assert names_in(place) == [".lock", "lost+found", "tpm2-00.permall"]


# --- rights and full disks -------------------------------------------------------------------------------------------


@pytest.mark.needs("root")
def test_who_has_no_rights_is_told_to_be_root(host: Host) -> None:
    def as_nobody() -> "tuple[int, str]":
        # not by setpriv: the program may be where only root can read it
        python, _c, program, *words = host.command("create", "vm1", *QUICK)
        program = (
            "import os\nfrom swtpm_svc.cli.vtpmctl import create, entry, host, performing\n"
            "from swtpm_svc.service import provisioning\n"
            f"os.setgroups([])\nos.setgid(65534)\nos.setuid(65534)\n{program}"
        )
        done = subprocess.run([python, "-c", program, *words], capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stderr

    assert as_nobody() == (
        74,
        f"vtpmctl: {host.config} cannot be written: Permission denied\n  remedy: do this as root\n",
    )
    os.chown(host.config, 65534, 65534)
    assert as_nobody() == (
        74,
        f"vtpmctl: {host.state}/vm1 cannot be written: Permission denied\n  remedy: do this as root\n",
    )
    assert not list(host.state.iterdir())
    assert not list(host.config.iterdir())


@pytest.mark.needs("root")
def test_a_disk_without_room_for_the_configuration_leaves_no_state(host: Host) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=1", "none", host.config], check=True)
    try:
        code, message, remedy = refused(host, "vm1")
        assert (code, message) == (
            Code.STATE_FULL,
            f"{host.config}/vm1.toml cannot be written: No space left on device",
        )
        assert remedy == "make room on its file system"
        assert not list(host.state.iterdir())
    finally:
        subprocess.run(["umount", host.config], check=True)
    host.made("vm1", *QUICK)


def test_a_state_that_another_one_may_use_by_now_stays(tmp_path: Path) -> None:
    """The configuration has come from elsewhere, while the state was put in place."""

    def finish() -> None:
        raise VtpmError(Code.ALREADY_PROVISIONED, "there is one")

    place = Place(str(tmp_path), "vm1", Owner(os.geteuid(), os.getegid()))
    with pytest.raises(VtpmError):
        newborn.install(place, "2.0", b"\0" * 100, None, finish)
    assert sorted(os.listdir(tmp_path / "vm1")) == [".created", ".lock", "tpm2-00.permall"]


@pytest.mark.needs("root")
def test_the_service_reaches_its_state_whatever_the_umask_was(host: Host) -> None:
    host.state.rmdir()
    words = ["bash", "-c", 'umask 077; exec "$@"', "-", *host.command("create", "vm1", *QUICK, user="nobody")]
    subprocess.run(words, check=True, capture_output=True, timeout=60)
    assert host.state.stat().st_mode & 0o7777 == 0o755
    reached = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "cat",
        host.state / "vm1" / "tpm2-00.permall",
    ]
    assert subprocess.run(reached, check=True, capture_output=True).stdout
    reached[-1] = host.config / "vm1.toml"
    assert subprocess.run(reached, check=True, capture_output=True).stdout
    shutil.rmtree(host.state)
