"""Single files of a directory: what is looked at, and how."""

import os

from swtpm_svc.state import files


def test_what_is_no_file_is_not_even_opened(tmp_path, monkeypatch):
    """Opening a device has effects of its own: a watchdog starts, a tape is wound back."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_bytes(b"swtpmlin...")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    opened, really = [], os.open
    monkeypatch.setattr(os, "open", lambda path, *rest, **more: opened.append(path) or really(path, *rest, **more))
    found = {name: files.begins(str(tmp_path / name), b"swtpmlin") for name in ("fifo", "file", "link", "none")}
    assert found == {"fifo": False, "file": True, "link": False, "none": False}
    assert opened == [str(tmp_path / "file")]


def test_what_a_killed_run_has_left():
    assert all(map(files.is_draft, (".new-01234567", ".new-89abcdef")))
    others = (
        ".new-",
        ".new-0123456",
        ".new-012345678",
        ".new-0123456g",
        ".new-ABCDEF01",
        ".new-release",
        "new-01234567",
        "",
    )
    assert not any(map(files.is_draft, others))
