"""`vtpmctl create` where something is in its way: what is said, that nothing is left, and that the next one is not in its way."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_create import Host

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.state import newborn
from swtpm_svc.state.newborn import Owner, Place

QUICK = ("--no-certificates", "--ek", "ecc-p256")


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
    """Whatever has such a name. What is no directory goes, and no link is followed; what is somebody's own stays."""
    (host.folder / "mine").mkdir()
    (host.folder / "mine" / "file").write_text("mine")
    for folder in (host.state, host.config):
        (folder / ".new-link").symlink_to(host.folder / "mine")
        (folder / ".new-dangling").symlink_to("/nowhere")
        (folder / ".new-file").write_text("")
        (folder / ".new-full" / "inside").mkdir(parents=True)
    (host.state / ".new-half").mkdir()
    (host.state / ".new-half" / "tpm2-00.permall").write_text("half")
    host.made("vm1", *QUICK)
    assert sorted(os.listdir(host.state)) == [".new-full", "vm1"]
    assert sorted(os.listdir(host.config)) == [".new-full", "vm1.toml"]
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


@pytest.mark.needs("root")
def test_a_mount_point_is_named_as_one(host: Host) -> None:
    place = host.state / "vm1"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
    try:
        code, message, remedy = refused(host, "vm1")
        assert (code, message) == (Code.STATE_UNWRITABLE, f"{place} cannot be written: Device or resource busy")
        assert remedy == f"see what is mounted there: findmnt -T {place}; name another directory, or one below it"
        assert os.listdir(host.state) == ["vm1"]
        assert not list(place.iterdir())
        assert not list(host.config.iterdir())
        host.made("vm2", *QUICK)
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.needs("root")
def test_who_has_no_rights_is_told_to_be_root(host: Host) -> None:
    def as_nobody() -> "tuple[int, str]":
        # not by setpriv: the program may be where only root can read it
        python, _c, program, *words = host.command("create", "vm1", *QUICK)
        program = (
            "import os\nfrom swtpm_svc.cli import create, parser, status, vtpmctl\nfrom swtpm_svc.service import provisioning\n"
            f"os.setgroups([])\nos.setgid(65534)\nos.setuid(65534)\n{program}"
        )
        done = subprocess.run([python, "-c", program, *words], capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stderr

    assert as_nobody() == (74, f"vtpmctl: {host.config} cannot be written: Permission denied\n  remedy: do this as root\n")
    os.chown(host.config, 65534, 65534)
    assert as_nobody() == (74, f"vtpmctl: {host.state}/vm1 cannot be written: Permission denied\n  remedy: do this as root\n")
    assert not list(host.state.iterdir())
    assert not list(host.config.iterdir())


@pytest.mark.needs("root")
def test_a_disk_without_room_for_the_configuration_leaves_no_state(host: Host) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=1", "none", host.config], check=True)
    try:
        code, message, remedy = refused(host, "vm1")
        assert (code, message) == (Code.STATE_FULL, f"{host.config}/vm1.toml cannot be written: No space left on device")
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
    reached = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "cat", host.state / "vm1" / "tpm2-00.permall"]
    assert subprocess.run(reached, check=True, capture_output=True).stdout
    reached[-1] = host.config / "vm1.toml"
    assert subprocess.run(reached, check=True, capture_output=True).stdout
    shutil.rmtree(host.state)
