"""The sysusers and tmpfiles entries, by systemd's own programs in a root of their own."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SYSUSERS = ROOT / "packaging/sysusers/vtpm.conf"
TMPFILES = ROOT / "packaging/tmpfiles/vtpm.conf"


def run(*command: str) -> str:
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    prefix = [] if os.geteuid() == 0 else ["unshare", "-r"]
    result = subprocess.run([*prefix, *command], capture_output=True, text=True)
    if prefix and "unshare:" in result.stderr:
        pytest.skip("needs root, or a user namespace")
    assert result.returncode == 0, result.stderr
    return result.stderr


@pytest.fixture
def root(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "run").mkdir()
    return tmp_path


def entries(path: Path) -> dict[str, list[str]]:
    return {line.split(":")[0]: line.split(":")[1:] for line in path.read_text().splitlines()}


def test_user_and_groups(root):
    run("systemd-sysusers", f"--root={root}", str(SYSUSERS))
    users, groups = entries(root / "etc/passwd"), entries(root / "etc/group")
    assert set(users) == {"vtpm"}
    assert set(groups) == {"vtpm", "vtpm-admin"}
    _, uid, gid, _, home, shell = users["vtpm"]
    assert gid == groups["vtpm"][1]
    assert 0 < int(uid) < 1000
    assert (home, shell) == ("/var/lib/vtpm", "/usr/sbin/nologin")
    # members of vtpm-admin may control a TPM: no person is one by being installed, the daemon must be for its socket
    assert groups["vtpm-admin"][2] == "vtpm"


def test_nobody_can_log_in_as_vtpm(root):
    run("systemd-sysusers", f"--root={root}", str(SYSUSERS))
    (root / "etc/shadow").chmod(0o600)
    password = entries(root / "etc/shadow")["vtpm"][0]
    assert set(password) <= {"!", "*"}
    assert password


def test_a_second_run_changes_nothing(root):
    run("systemd-sysusers", f"--root={root}", str(SYSUSERS))
    before = (root / "etc/passwd").read_text(), (root / "etc/group").read_text()
    run("systemd-sysusers", f"--root={root}", str(SYSUSERS))
    assert ((root / "etc/passwd").read_text(), (root / "etc/group").read_text()) == before


def test_directories(root):
    said = run("systemd-tmpfiles", "--create", f"--root={root}", str(TMPFILES))
    assert said == ""
    assert (root / "run/vtpm").stat().st_mode & 0o7777 == 0o755
    assert (root / "var/lib/vtpm").stat().st_mode & 0o7777 == 0o755
    assert (root / "var/lib/vtpm-identity").stat().st_mode & 0o7777 == 0o755
    assert (root / "var/lib/vtpm-ca").stat().st_mode & 0o7777 == 0o700
