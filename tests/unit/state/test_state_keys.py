"""Where keys come from: good ones are read. A key that is not secret, not
there or malformed is refused, and no message shows it."""

import os
import stat
from pathlib import Path

import pytest

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.state import keys
from swtpm_svc.state.encryption import StateKey
from swtpm_svc.state.keys import Source, Trusted

HEX = "00112233445566778899aabbccddeeff"
KEY = StateKey(bytes.fromhex(HEX))
SOMEBODY = 54321
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="unobtainable: root, to give files away")


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "key"
    path.write_text(HEX + "\n")
    path.chmod(0o600)
    return path


def load(path: object, form: str = "hex", mode=None, trusted=keys.NOBODY_ELSE) -> StateKey:
    return keys.load(Source("file", str(path), form, mode), trusted)


def refused(path: object, *arguments, **options) -> VtpmError:
    with pytest.raises(VtpmError) as caught:
        load(path, *arguments, **options)
    error = caught.value
    assert error.code is Code.KEY_UNUSABLE
    assert error.remedy
    assert error.remedy.endswith("; the state was not touched")
    shown = error.message + error.remedy
    assert shown.isprintable()
    assert HEX not in shown
    assert HEX[:8] not in shown
    return error


def test_a_key_file(file):
    assert load(file) == KEY
    assert load(file, mode="aes-cbc") == KEY
    file.write_bytes(bytes.fromhex(HEX))
    assert load(file, "binary") == KEY
    file.write_bytes(b"long and random")
    assert load(file, "pbkdf2").mode == "aes-cbc"
    assert load(file, "sha512", "aes-256-cbc").mode == "aes-256-cbc"


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o700, 0o440, 0o640])
def test_who_may_read_it(file, mode):
    file.chmod(mode)
    if mode & 0o040:
        os.chown(file, -1, os.getegid())
    assert load(file) == KEY


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o601, 0o660, 0o602, 0o666, 0o777])
def test_a_file_that_others_can_read_or_change_is_refused(file, mode):
    os.chown(file, -1, os.getegid())
    file.chmod(mode)
    error = refused(file)
    who = "everybody" if mode & 0o004 else "more than its owner"
    assert error.message == f"{file} is not secret: its mode is {mode:04o}, so {who} can read or change it"
    assert error.remedy == (
        f"if it is the key: chmod 0640 {file}; and use another one if it was read; the state was not touched"
    )


@as_root
def test_a_file_that_another_group_can_read_is_refused(file):
    os.chown(file, 0, SOMEBODY)
    file.chmod(0o640)
    assert "others than its owner" in refused(file).message
    assert load(file, trusted=Trusted(gids=(SOMEBODY,))) == KEY
    file.chmod(0o600)
    assert load(file) == KEY


@as_root
def test_somebody_elses_file_is_refused(file):
    os.chown(file, SOMEBODY, 0)
    assert f"belongs to user {SOMEBODY}" in refused(file).message
    assert load(file, trusted=Trusted(uids=(SOMEBODY,))) == KEY


@pytest.mark.parametrize(("size", "can_be_a_key"), [(1, True), (512, True), (513, False)])
def test_only_what_can_be_a_key_is_to_be_hidden(file, size, can_be_a_key):
    """/etc/passwd, named by mistake, stays readable."""
    file.write_text("x" * size)
    file.chmod(0o666)
    remedy = refused(file).remedy
    assert ("chmod" in remedy) is can_be_a_key
    assert remedy.startswith("if it is the key: " if can_be_a_key else "name the file that holds the key, and nothing")


def test_what_is_no_file_is_refused(tmp_path, file):
    os.mkfifo(tmp_path / "fifo", 0o600)
    assert "is not a regular file" in refused(tmp_path / "fifo").message
    assert "is not a regular file" in refused(tmp_path).message
    assert "No such file" in refused(tmp_path / "none").message
    os.truncate(file, 1 << 20)
    assert "no key is that large" in refused(file).message


@pytest.mark.parametrize(
    ("content", "form", "says"),
    [
        ("", "hex", "hex digits"),
        (HEX[:-1], "hex", "32 or 64 hex digits"),
        (HEX + "zz", "hex", "32 or 64 hex digits"),
        (HEX, "binary", "it has 32 bytes"),
        (HEX + "x", "binary", "33 bytes, not 16 or 32"),
        ("\n", "pbkdf2", "it is empty"),
        ("", "sha512", "it is empty"),
    ],
)
def test_what_is_no_key_is_refused(file, content, form, says):
    file.write_text(content)
    if (content, form) == (HEX, "binary"):  # 32 bytes: a key, if not the one that was meant
        assert load(file, form).mode == "aes-256-cbc"
        assert "for aes-256-cbc, but aes-cbc" in refused(file, form, "aes-cbc").message
        return
    assert says in refused(file, form).message


def test_a_key_of_another_mode_is_refused(file):
    assert "holds a key for aes-cbc, but aes-256-cbc is asked for" in refused(file, "hex", "aes-256-cbc").message


def test_a_credential(tmp_path, monkeypatch):
    source = Source("credential", "state-key", "hex")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(VtpmError, match="there is no credential state-key") as caught:
        keys.load(source)
    assert "LoadCredentialEncrypted=state-key" in (caught.value.remedy or "")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with pytest.raises(VtpmError, match="credential state-key: No such file"):
        keys.load(source)
    path = tmp_path / "state-key"
    path.write_text(HEX)
    path.chmod(0o440)  # as systemd gives it, with an access control list
    assert keys.load(source) == KEY
    path.chmod(0o444)
    with pytest.raises(VtpmError, match="everybody can read"):
        keys.load(source)


def test_a_descriptor():
    reader, writer = os.pipe()
    os.write(writer, HEX.encode())
    os.close(writer)
    try:
        assert keys.load(Source("fd", str(reader), "hex")) == KEY
    finally:
        os.close(reader)
    with pytest.raises(VtpmError, match="the key cannot be read: fd 99999: Bad file"):
        keys.load(Source("fd", "99999", "hex"))
    zero = os.open("/dev/zero", os.O_RDONLY)
    try:
        with pytest.raises(VtpmError, match="no key is that large"):
            keys.load(Source("fd", str(zero), "binary"))
    finally:
        os.close(zero)


def test_the_files_own_mode_is_what_counts(file, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(file)
    assert load(link) == KEY
    file.chmod(0o644)
    refused(link)
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
