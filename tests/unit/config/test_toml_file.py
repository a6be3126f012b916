"""What there is to do when a configuration cannot be read: by who asks, and what was named."""

import errno
import os

import pytest

from swtpm_svc.config import toml_file

DENIED = PermissionError(errno.EACCES, "denied")


@pytest.mark.parametrize(
    ("user", "path", "error", "remedy"),
    [
        (0, "/etc/vtpm.d/my tpm.toml", DENIED,
         "see what keeps root from it: ls -ldZ '/etc/vtpm.d/my tpm.toml'; namei -l '/etc/vtpm.d/my tpm.toml'"),
        (0, "/etc/vtpm.d", DENIED, "see what keeps root from it: ls -ldZ /etc/vtpm.d; namei -l /etc/vtpm.d"),
        (990, "/etc/vtpm.d/a.toml", DENIED, "run this as root, or let it be read: chmod a+r /etc/vtpm.d/a.toml"),
        (990, "/etc/vtpm.d/key", DENIED, "run this as root"),
        (990, "/root/a.toml", DENIED, "run this as root"),
        (990, "/etc/vtpm.d", DENIED, "run this as root"),
        (0, "/etc/vtpm.d/a.toml", OSError(errno.EIO, "disk"), "see what is there: ls -ld /etc/vtpm.d/a.toml"),
        (990, "/root/a.toml", OSError(errno.ELOOP, "loop"), "see what is there: ls -ld /root/a.toml"),
    ],
)  # fmt: skip
def test_a_remedy_is_for_who_asks_and_opens_no_secret(monkeypatch, user, path, error, remedy):
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert toml_file.unreadable(path, error) == remedy
