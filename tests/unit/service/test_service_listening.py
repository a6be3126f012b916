"""The socket files of a classic command."""

import os

import pytest

from swtpm_svc.service.classic.emulation import Endpoint
from swtpm_svc.service.classic.listening import Listening


def test_a_socket_that_cannot_be_given_away_leaves_no_file(tmp_path, monkeypatch):
    def refuse(*_words, **_options):
        raise PermissionError

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(PermissionError):
        Listening(Endpoint(path=str(tmp_path / "socket"), uid=0))
    assert os.listdir(tmp_path) == []


def test_a_socket_that_cannot_be_bound_leaves_what_is_there(tmp_path):
    (tmp_path / "socket").mkdir()
    with pytest.raises(OSError, match="directory"):
        Listening(Endpoint(path=str(tmp_path / "socket")))
    assert os.listdir(tmp_path) == ["socket"]
