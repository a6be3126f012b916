"""packaging/install-systemd.sh and the launchers: into a root of its own, as a package build does it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "packaging/install-systemd.sh"
LAUNCHERS = [ROOT / "packaging/libexec" / name for name in ("vtpmd",)]
DROP_IN = "usr/lib/systemd/system/vtpm@.service.d/openfile.conf"
FLAGS_OF_PYTHON_3_9 = set("bBdEhiIOqsSuvVWxX?")


def install(root: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {"PATH": os.environ["PATH"], "DESTDIR": str(root), "SYSTEMD_VERSION": "252", **variables}
    return subprocess.run(["sh", str(SCRIPT)], env=environment, capture_output=True, text=True)


def test_every_file_has_its_place(tmp_path):
    result = install(tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert {
        str(path.relative_to(tmp_path)): oct(path.stat().st_mode & 0o777)
        for path in tmp_path.rglob("*")
        if path.is_file()
    } == {
        "etc/vtpm.d/vtpm0.toml": "0o644",
        "etc/vtpm.d/vtpm1.toml": "0o644",
        "usr/lib/systemd/catalog/vtpm.catalog": "0o644",
        "usr/lib/systemd/system/vtpm-failed@.service": "0o644",
        "usr/lib/systemd/system/vtpm.target": "0o644",
        "usr/lib/systemd/system/system-vtpm.slice": "0o644",
        "usr/lib/systemd/system/vtpm@.service": "0o644",
        "usr/lib/systemd/system/vtpm@.socket": "0o644",
        "usr/lib/sysusers.d/vtpm.conf": "0o644",
        "usr/lib/tmpfiles.d/vtpm.conf": "0o644",
        "usr/lib/udev/rules.d/70-vtpm.rules": "0o644",
        "usr/libexec/vtpm/vtpm-attach": "0o755",
        "usr/libexec/vtpm/vtpm-end-sockets": "0o755",
        "usr/libexec/vtpm/vtpm-ima": "0o755",
        "usr/libexec/vtpm/vtpm-udev-properties": "0o755",
        "usr/libexec/vtpm/vtpmd": "0o755",
    }


def test_files_are_readable_whatever_the_umask_is(tmp_path):
    previous = os.umask(0o077)
    try:
        install(tmp_path)
    finally:
        os.umask(previous)
    assert (tmp_path / "etc/vtpm.d").stat().st_mode & 0o777 == 0o755


def test_the_drop_in_follows_the_version(tmp_path):
    install(tmp_path, SYSTEMD_VERSION="253")
    assert (tmp_path / DROP_IN).exists()
    install(tmp_path, SYSTEMD_VERSION="252")
    assert not (tmp_path / DROP_IN).exists()


def test_a_configuration_that_is_there_stays(tmp_path):
    mine = tmp_path / "etc/vtpm.d/vtpm0.toml"
    mine.parent.mkdir(parents=True)
    mine.write_text("# mine\n")
    install(tmp_path)
    assert mine.read_text() == "# mine\n"


def test_another_place_for_the_launchers_reaches_every_file_that_names_them(tmp_path):
    install(tmp_path, LIBEXECDIR="/usr/local/libexec/vtpm", PYTHON="/usr/bin/python3.12", SYSTEMD_VERSION="257")
    texts = {path.name: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert texts["vtpmd"].startswith("#!/usr/bin/python3.12 -IB\n")
    assert "/mnt /usr/bin/python3.12 -IB -m swtpm_svc.service.attach" in texts["vtpm-attach"]
    assert "exec /usr/bin/python3.12 -IB -m swtpm_svc.service.systemd.udev_properties" in texts["vtpm-udev-properties"]
    for name, text in texts.items():
        assert "/usr/libexec/" not in text, name
    for name in ("vtpm@.service", "vtpm-failed@.service", "openfile.conf", "70-vtpm.rules"):
        assert "/usr/local/libexec/vtpm/vtpm" in texts[name]


@pytest.mark.parametrize(
    "variables", [{"LIBEXECDIR": "/opt/vtpm"}, {"SYSTEMD_VERSION": "new"}], ids=["libexecdir", "version"]
)
def test_a_wrong_variable_is_refused_before_anything_is_written(tmp_path, variables):
    result = install(tmp_path, **variables)
    assert result.returncode == 64
    assert len(result.stderr.splitlines()) == 2
    assert "remedy: " in result.stderr
    assert list(tmp_path.iterdir()) == []


def flags(launcher: Path) -> str:
    interpreter, _, word = launcher.read_text().split("\n", 1)[0].partition(" ")
    assert interpreter == "#!/usr/bin/python3"
    assert word.startswith("-")
    return word


@pytest.mark.parametrize("launcher", LAUNCHERS, ids=lambda path: path.name)
def test_the_flags_exist_in_every_python_that_is_supported(launcher):
    """One word, as a #! line carries one argument; -P and -X options came later or take a second."""
    assert set(flags(launcher)[1:]) <= FLAGS_OF_PYTHON_3_9
    assert os.access(launcher, os.X_OK)


@pytest.mark.parametrize("launcher", LAUNCHERS, ids=lambda path: path.name)
def test_nothing_is_imported_from_the_caller_s_places(tmp_path, launcher):
    """A swtpm_svc in PYTHONPATH, in the working directory and beside the script: none of them runs."""
    planted = tmp_path / "swtpm_svc"
    planted.mkdir()
    marker = tmp_path / "executed"
    (planted / "__init__.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    copy = tmp_path / launcher.name
    copy.write_bytes(launcher.read_bytes())
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)}

    subprocess.run(
        [sys.executable, flags(launcher), str(copy)], env=environment, cwd=tmp_path, capture_output=True, timeout=30
    )
    assert not marker.exists()

    # the same without the flags, so that the test is known to notice
    subprocess.run([sys.executable, str(copy)], env=environment, cwd=tmp_path, capture_output=True, timeout=30)
    assert marker.exists()


def test_a_missing_package_is_one_line_and_a_remedy():
    """After an upgrade of the system's Python. -S: no site-packages, so nothing is installed."""
    launcher = ROOT / "packaging/libexec/vtpmd"
    result = subprocess.run(
        [sys.executable, "-ISB", str(launcher), "vtpm0"], capture_output=True, text=True, timeout=30
    )
    assert result.returncode == 69
    first, second = result.stderr.splitlines()
    assert first.startswith("vtpmd: No module named 'swtpm_svc")
    assert second.startswith("  remedy: install ")
