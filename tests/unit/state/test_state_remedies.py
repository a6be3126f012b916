"""What a person is told who has to mend a file of a TPM: by what went wrong, who this runs as, and whose the file is."""

import errno
import os

import pytest

from swtpm_svc.errors import Code
from swtpm_svc.state import file_errors, keys
from swtpm_svc.state.keys import Source

SERVICE, PERSON = 990, 1001


@pytest.fixture
def run_as(monkeypatch):
    """Whom the process takes itself for; `real` where root acts as another."""

    def become(effective, real=None):
        monkeypatch.setattr(os, "geteuid", lambda: effective)
        monkeypatch.setattr(os, "getuid", lambda: effective if real is None else real)
        monkeypatch.setattr(os, "getegid", lambda: effective)

    return become


@pytest.fixture
def state(tmp_path, monkeypatch):
    """A state's directory whose files are root's, whoever runs the test."""
    for name in ("tpm2-00.permall", ".lock", "notes"):
        (tmp_path / name).touch()
    real = os.lstat

    def of_root(path):
        found = list(real(path))
        found[4] = found[5] = 0
        return os.stat_result(found)

    monkeypatch.setattr(os, "lstat", of_root)
    monkeypatch.setattr(file_errors, "_is_roots", lambda entry: entry.name.startswith(file_errors._OURS))
    return tmp_path


def denied(path, **more):
    return file_errors.write_error(str(path), PermissionError(errno.EACCES, "denied"), **more)


def test_root_is_told_what_keeps_root_from_it(run_as, tmp_path):
    run_as(0)
    (tmp_path / "file").touch()
    for path, there in ((tmp_path / "file", tmp_path / "file"), (tmp_path / "none", tmp_path)):
        error = denied(path)
        assert error.code is Code.STATE_UNWRITABLE
        assert error.message == f"{path} cannot be written: Permission denied"
        assert error.remedy == f"see what keeps root from it: ls -ldZ {there}; lsattr -d {there}; findmnt -T {there}"


def test_root_that_acts_as_another_is_told_so(run_as, tmp_path):
    run_as(PERSON, real=0)
    assert denied(tmp_path / "file").remedy == (
        f"root acts as user {PERSON} there, whose directory it is: see what keeps that user from it: "
        f"namei -l {tmp_path}/file; or name another directory"
    )


def test_the_service_s_files_are_named_to_be_given_to_it(run_as, state):
    run_as(SERVICE)
    path = state / "tpm2-00.permall"
    remedy = f"give it to the user that this runs as: chown -h {SERVICE}:{SERVICE} "
    assert denied(path).remedy == f"{remedy}{state}/.lock {path}"
    assert denied(state).remedy == f"{remedy}{state}"
    assert denied(path, denied="ask root").remedy == "ask root"
    assert denied(path, denied="ask root").message == f"{path} cannot be written: Permission denied"
    assert denied(path, is_kept=True).remedy.endswith("; the state is as it was before")


def test_to_a_person_nothing_of_root_s_is_given(run_as, state):
    run_as(PERSON)
    path = state / "tpm2-00.permall"
    remedy = "it belongs to user 0: run this as that user, or as root, or name another directory"
    assert denied(path).remedy == remedy
    run_as(SERVICE)
    path.unlink()
    path.symlink_to("notes")
    assert denied(path).remedy == remedy  # wherever it leads


def test_an_owner_that_has_no_rights_is_told_which(run_as, tmp_path):
    run_as(os.stat(tmp_path).st_uid or PERSON)
    if os.stat(tmp_path).st_uid == 0:
        for place in (tmp_path, tmp_path / "tpm2-00.permall"):
            place.touch()
            os.chown(place, PERSON, -1)
    path = tmp_path / "tpm2-00.permall"
    path.touch()
    path.chmod(0o400)
    assert denied(path).remedy == f"give them to its owner: chmod u+rw {path}"
    path.chmod(0o600)
    assert denied(path).remedy == f"see what is in the way: namei -l {path}"
    tmp_path.chmod(0o600)
    assert denied(tmp_path).remedy == f"give them to its owner: chmod u+rwx {tmp_path}"
    tmp_path.chmod(0o700)
    assert denied(tmp_path / "none").remedy == f"see which directory is in the way: namei -l {tmp_path}/none"


@pytest.mark.parametrize(
    ("name", "is_named"),
    [("tpm2-00.permall", True), (".lock", True), ("notes", False), ("link", False), ("twice", False)],
)
@pytest.mark.skipif(os.geteuid() != 0, reason="unobtainable: root, to have files of root")
def test_only_a_tpm_s_own_plain_files_of_root_s_are_named_beside(run_as, tmp_path, name, is_named):
    (tmp_path / "tpm-00.permall").touch()
    if name == "link":
        (tmp_path / ".lock").symlink_to("notes")
    elif name == "twice":
        (tmp_path / ".lock").touch()
        os.link(tmp_path / ".lock", tmp_path / "elsewhere")
    else:
        (tmp_path / name).touch()
    run_as(SERVICE)
    named = denied(tmp_path / "tpm-00.permall").remedy.split()[-2:]
    other = ".lock" if name in ("link", "twice") else name
    assert (f"{tmp_path}/{other}" in named) is is_named


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "make room on its file system"),
        (errno.ENOENT, "mount what belongs there, or make the directory that is missing: mkdir -p {}/none"),
        (errno.EROFS, file_errors._REMEDIES[errno.EROFS]),
        (errno.EBUSY, "see what is mounted there: findmnt -T {}/none/file; name another directory, or one below it"),
        (errno.EIO, file_errors._DISK),
    ],
)
def test_what_is_not_a_matter_of_rights(tmp_path, number, remedy):
    error = file_errors.write_error(f"{tmp_path}/none/file", OSError(number, ""))
    assert error.remedy == remedy.format(tmp_path)
    assert error.code is (Code.STATE_FULL if number == errno.ENOSPC else Code.STATE_UNWRITABLE)
    assert error.message == f"{tmp_path}/none/file cannot be written: {os.strerror(number)}"


def test_a_directory_that_is_missing_itself_is_named(tmp_path):
    """Its parent is there."""
    error = file_errors.read_error(str(tmp_path / "state"), FileNotFoundError(errno.ENOENT, ""))
    assert error.code is Code.STATE_UNREADABLE
    assert error.remedy.startswith(
        f"mount what belongs there, or make the directory that is missing: mkdir -p {tmp_path}/state;"
    )


def test_a_link_is_told_as_one(tmp_path):
    error = file_errors.read_error(str(tmp_path), OSError(errno.ELOOP, ""))
    assert error.message == f"{tmp_path} cannot be read: it is a symbolic link"


def test_whose_a_file_is_is_told_where_it_is_another_s(run_as, tmp_path):
    (tmp_path / "file").touch(mode=0o640)
    (tmp_path / "file").chmod(0o640)
    owner = os.stat(tmp_path / "file").st_uid
    run_as(SERVICE)
    words = denied(tmp_path / "file").message.partition(": it belongs to ")[2]
    assert words == f"{file_errors._user(owner)}, mode 0640, and this runs as user {SERVICE}"
    assert "it belongs to" not in denied(tmp_path / "none").message
    if owner:
        run_as(owner)
        assert denied(tmp_path / "file").message == f"{tmp_path}/file cannot be written: Permission denied"


@pytest.mark.parametrize(
    ("user", "remedy"),
    [
        (0, "see what keeps root from it: ls -lZ {0}; namei -l {0}"),
        (PERSON, "run this as root"),
        (
            SERVICE,
            "let the service's user (number 990) read it, and nobody else: chgrp 990 {0}; chmod 0640 {0}; and come to "
            "it: namei -l {0}; or use a credential",
        ),
    ],
    ids=["root", "a person", "the service"],
)
def test_a_key_that_may_not_be_read(run_as, monkeypatch, user, remedy):
    run_as(user)
    monkeypatch.setattr(
        keys.os, "open", lambda *_arguments, **_more: (_ for _ in ()).throw(PermissionError(13, "denied"))
    )
    with pytest.raises(keys.VtpmError) as caught:
        keys.load(Source("file", "/etc/vtpm.d/my key", "hex"))
    assert caught.value.code is Code.KEY_UNUSABLE
    assert remedy.format("'/etc/vtpm.d/my key'") in caught.value.remedy


@pytest.mark.parametrize(("uid", "person"), [(0, False), (999, False), (1000, True), (60000, True), (60001, False)])
def test_whose_account_is_a_persons(uid, person):
    """UID_MIN and UID_MAX as login.defs(5) of Debian and Fedora has them; the first person of a machine is 1000."""
    assert file_errors.is_person(uid) is person
