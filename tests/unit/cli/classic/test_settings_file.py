"""swtpm_setup.conf and swtpm-localca.conf: what a line says, and which file it is in."""

import os

import pytest

from swtpm_svc.cli.classic import settings_file


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("key = value", {"key": "value"}),
        ("key=value with blanks  ", {"key": "value with blanks"}),
        ("key =value # and more", {"key": "value"}),
        ("# key = value", {}),
        ("key = one\nkey = two\n", {"key": "one"}),
        (" key = value", {}),
        ("key =", {"key": ""}),
        ("env:A_B = c=d", {"env:A_B": "c=d"}),
        ("key = ${SOME}/x${NONE}", {"key": "where/x"}),
        ("what is it\n\nkey = value\r\n", {"key": "value"}),
    ],
)
def test_lines(tmp_path, monkeypatch, text, values):
    monkeypatch.setenv("SOME", "where")
    monkeypatch.delenv("NONE", raising=False)
    (tmp_path / "f").write_text(text)
    assert settings_file.read(str(tmp_path / "f")) == values


def test_bytes_that_are_no_text_stay(tmp_path):
    (tmp_path / "f").write_bytes(b"key = \xff\n")
    assert os.fsencode(settings_file.read(str(tmp_path / "f"))["key"]) == b"\xff"


def test_the_user_s_file_comes_before_the_system_s(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    assert settings_file.find("none-such.conf") == "/etc/none-such.conf"
    (tmp_path / ".config").mkdir()
    (tmp_path / ".config/none-such.conf").touch()
    assert settings_file.find("none-such.conf") == f"{tmp_path}/.config/none-such.conf"
    monkeypatch.setenv("XDG_CONFIG_HOME", f"{tmp_path}/xdg")
    assert settings_file.find("none-such.conf") == "/etc/none-such.conf"
    (tmp_path / "xdg").mkdir()
    (tmp_path / "xdg/none-such.conf").touch()
    assert settings_file.find("none-such.conf") == f"{tmp_path}/xdg/none-such.conf"
