"""The CA's directory after a loss of power: a set of files is whole before it is the one in use, and stays that."""

from disk_steps import disk_steps

from swtpm_svc.provision.ca_directory import CaDirectory

FILES = {"key.pem": b"key", "chain.pem": b"chain"}
WRITTEN = ["mkdir .new-*", "fsync .new-*/key.pem", "fsync .new-*/chain.pem", "fsync .new-*", "rename .new-* next"]


def test_the_first_set_is_durable_before_it_is_in_use_and_after_that(tmp_path):
    directory = CaDirectory(str(tmp_path / "ca"))
    with directory.locked() as locked, disk_steps(tmp_path / "ca") as steps:
        assert locked.replace(FILES) is None
    assert steps == [*WRITTEN, "rename next current", "fsync ."]
    found = directory.read()
    assert found is not None
    assert found.files == FILES


def test_so_is_one_that_replaces_another(tmp_path):
    directory = CaDirectory(str(tmp_path / "ca"))
    with directory.locked() as locked:
        locked.replace(FILES)
        with disk_steps(tmp_path / "ca") as steps:
            locked.replace(FILES)
    assert steps == [*WRITTEN, "rename current replaced-*", "rename next current", "fsync ."]


def test_and_one_that_somebody_else_had_not_finished(tmp_path):
    directory = CaDirectory(str(tmp_path / "ca"))
    with directory.locked() as locked:
        locked.replace(FILES)
    (tmp_path / "ca" / "current").rename(tmp_path / "ca" / "next")
    with disk_steps(tmp_path / "ca") as steps:
        assert directory.read() is not None
    assert steps == ["rename next current", "fsync ."]
