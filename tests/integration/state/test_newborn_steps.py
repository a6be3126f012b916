"""What is made or replaced as a whole is there after a loss of power, at whichever step: each fsync is at its place."""

import fcntl
import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from disk_steps import disk_steps

from swtpm_svc.cli.vtpmctl import create
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.state import newborn, replacement
from swtpm_svc.state.files import Directory
from swtpm_svc.state.newborn import Owner, Place

STATE = b"\x03\xab\x36\x47\x23 a state"
OURS = Owner(os.getuid(), os.getgid())
NOBODY = 65534
#: An empty file is made, and nothing stands in its way.
MAKE = ["mkdir .new-*", "fsync .new-*/nameless", "link .new-*/tpm2-00.permall", "fsync .new-*"]


def without_the_lock(steps):
    return [step for step in steps if not step.endswith(".create.lock")]


def test_a_new_state_is_durable_when_it_is_made(tmp_path):
    with disk_steps(tmp_path) as steps:
        newborn.install(Place(str(tmp_path), "vm", OURS), "2.0", STATE, None)
    assert without_the_lock(steps) == [*MAKE, "fsync .new-*", "rename .new-* vm", "fsync ."]


def test_a_new_state_with_a_configuration_is_durable_before_and_after_it(tmp_path):
    """A mark that came back would say that nobody has used the TPM, and let it be replaced."""
    with disk_steps(tmp_path) as steps:
        newborn.install(Place(str(tmp_path), "vm", OURS), "2.0", STATE, None, lambda: steps.append("the configuration"))
    assert without_the_lock(steps) == [
        *MAKE,
        "fsync .new-*/.created",
        "fsync .new-*",
        "rename .new-* vm",
        "fsync .",
        "the configuration",
        "unlink vm/.created",
        "fsync vm",
    ]


def test_the_first_state_in_a_directory_that_stays_is_durable_after_its_mark(tmp_path):
    place = tmp_path / "vm"
    place.mkdir()
    (place / "NOTES").write_text("mine")
    with disk_steps(place) as steps:
        newborn.install(Place(str(tmp_path), "vm", OURS), "2.0", STATE, None, lambda: steps.append("the configuration"))
    assert steps == [
        *["fsync nameless", "link .created", "fsync ."],
        *["fsync nameless", "link tpm2-00.permall", "fsync ."],
        *["the configuration", "unlink .created", "fsync ."],
    ]


def test_a_configuration_is_durable_when_it_is_written(tmp_path, monkeypatch):
    config, states = tmp_path / "etc", tmp_path / "lib"
    config.mkdir()
    states.mkdir()
    from swtpm_svc.cli.vtpmctl import entry
    from swtpm_svc.cli.vtpmctl.status import Places

    monkeypatch.setattr(create, "STATE", str(states))
    monkeypatch.setattr(create, "USER", "root")
    words = ["create", "vm", "--no-certificates", "--ek", "ecc-p256", "--ca", str(tmp_path / "ca")]
    with disk_steps(config) as steps:
        assert entry.main(words, Places(config=str(config))) == 0
    assert steps == ["fsync .new-*", "link vm.toml", "unlink .new-*", "fsync ."]


def test_files_that_are_replaced_together_are_durable_before_the_moment_and_after_it(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"old")
    directory = Directory(str(tmp_path), os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY))
    with disk_steps(tmp_path) as steps:
        replacement.replace_all(directory, {"a": b"new", "b": b"new"})
    directory.close()
    assert steps == [
        *["mkdir .rekey.new", "fsync .rekey.new/a", "fsync .rekey.new/b", "fsync .rekey.new"],
        *["rename .rekey.new .rekey", "fsync ."],
        *["rename .rekey/a a", "rename .rekey/b b", "fsync ."],
        *["rmdir .rekey", "fsync ."],
    ]


def test_what_is_tried_takes_the_same_steps(tmp_path):
    directory = Directory(str(tmp_path), os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY))
    with disk_steps(tmp_path) as steps:
        directory.try_write("draft", "name", b"content")
    directory.close()
    assert steps == ["fsync draft", "rename draft name", "unlink name", "fsync ."]


# --- root, who acts as another user ----------------------------------------------------------------------------------


@pytest.fixture
def theirs():
    """A directory of another user's in one that any user can reach."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = Path(folder, "theirs")
        path.mkdir()
        os.chown(path, NOBODY, NOBODY)
        yield path


def who():
    return os.getresuid(), os.getresgid(), os.getgroups()


@pytest.fixture
def in_groups():
    """Root is in groups of which the other user is not."""
    before = os.getgroups()
    os.setgroups([0, 4, 44])
    yield who()
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    os.setgroups(before)


ROOT = ((0, 0, 0), (0, 0, 0), [0, 4, 44])
ACTING = ((0, NOBODY, 0), (0, NOBODY, 0), [])


@pytest.mark.needs("root")
@pytest.mark.parametrize("stays", [False, True])
def test_root_is_the_other_user_on_the_way_and_itself_before_and_after(theirs, in_groups, monkeypatch, stays):
    """In no group of its own meanwhile, and for the configuration, which is root's, itself once more."""
    seen = {}
    flock, unlink = fcntl.flock, os.unlink

    def locking(fd, operation):
        seen.setdefault("there", who())
        return flock(fd, operation)

    def unlinking(name, **options):
        if name == newborn.MARKER and "finishing" in seen:
            seen["afterwards"] = who()[:2]
        unlink(name, **options)

    monkeypatch.setattr(fcntl, "flock", locking)
    monkeypatch.setattr(os, "unlink", unlinking)
    if stays:
        (theirs / "vm").mkdir()
        (theirs / "vm" / "NOTES").write_text("theirs")
        for path in (theirs / "vm", theirs / "vm" / "NOTES"):
            os.chown(path, NOBODY, NOBODY)
    place = Place(str(theirs), "vm", Owner(NOBODY, NOBODY))
    newborn.install(place, "2.0", STATE, None, lambda: seen.update(finishing=who()[:2]))
    assert seen == {"there": ACTING, "finishing": ROOT[:2], "afterwards": ACTING[:2]}
    assert who() == ROOT == in_groups
    assert {path.stat().st_uid for path in (theirs / "vm").iterdir()} == {NOBODY}


@pytest.mark.needs("root")
@pytest.mark.parametrize("when", ["walk", "lock", "finish"])
def test_root_is_itself_again_when_it_fails(theirs, in_groups, when):
    def finish():
        raise VtpmError(Code.STATE_FULL, "no space", remedy="none")

    base = theirs
    if when == "walk":
        base = theirs / "missing" / "deeper"
    elif when == "lock":
        (theirs / ".create.lock").mkdir()
    with pytest.raises(VtpmError):
        newborn.install(Place(str(base), "vm", Owner(NOBODY, NOBODY)), "2.0", STATE, None, finish)
    assert who() == ROOT
    if when == "finish":
        assert os.listdir(theirs) == []


@pytest.mark.needs("root")
def test_a_directory_of_the_services_in_one_of_roots_is_filled_as_the_service(in_groups, monkeypatch):
    """What the service's user could have put there must not be followed by root."""
    seen = []
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        place = Path(folder, "vm")
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
        try:
            os.chown(place, NOBODY, NOBODY)
            replace = Directory.replace
            monkeypatch.setattr(
                Directory, "replace", lambda self, *words, **named: seen.append(who()) or replace(self, *words, **named)
            )
            newborn.install(Place(folder, "vm", Owner(NOBODY, NOBODY)), "2.0", STATE, None, lambda: None)
            assert {path.stat().st_uid for path in place.iterdir()} == {NOBODY}
        finally:
            subprocess.run(["umount", place], check=True)
    assert seen == [ACTING, ACTING]
    assert who() == ROOT
