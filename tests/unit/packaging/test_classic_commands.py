"""The table of the old command names, and what installs them: launchers beside the package's own, or alone."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from swtpm_svc import start
from swtpm_svc.cli.classic import settings_file

ROOT = Path(__file__).resolve().parents[3]
INSTALLER = runpy.run_path(str(ROOT / "tools/install_package.py"))
COMMANDS = INSTALLER["commands_of"](INSTALLER["CLASSIC_COMMANDS"])
SHARED = INSTALLER["commands_of"](INSTALLER["CLASSIC_COMMANDS"], "share_swtpm")


def test_each_name_calls_a_function_that_is_there():
    """They are small ones in swtpm_svc/start.py, as an interrupt while a command is imported is to be a quiet end."""
    for name, target in {**COMMANDS, **SHARED}.items():
        module, _, function = target.partition(":")
        assert (name, module) == (name, "swtpm_svc.start")
        assert callable(getattr(start, function, None)), name


def test_none_is_a_command_of_the_package_itself():
    """swtpm's own package has these names: two packages with one path cannot be installed."""
    text = (ROOT / "pyproject.toml").read_text()
    own = text.split("[project.scripts]\n", 1)[1].split("\n\n", 1)[0]
    assert {line.split(" = ")[0] for line in own.splitlines()} == {"vtpmd", "vtpmctl"}


def test_a_launcher_ends_with_what_its_function_gives(tmp_path):
    INSTALLER["install_commands"]({"old-name": "sys:getrecursionlimit"}, tmp_path / "bin")
    launcher = tmp_path / "bin/old-name"
    assert launcher.stat().st_mode & 0o777 == 0o755
    assert launcher.read_text().startswith(f"#!{sys.executable} -IS\n")
    assert subprocess.run([launcher]).returncode == sys.getrecursionlimit() & 0xFF


def test_a_launcher_finds_packages_where_the_interpreter_does_without_site(tmp_path):
    """In a virtual environment, in the system's folders, and where .pth files say."""
    INSTALLER["install_commands"]({"old-name": "sys:getrecursionlimit"}, tmp_path)
    launcher = tmp_path / "old-name"
    text = launcher.read_text().replace("sys.exit(", "print(*sys.path, 'site' in sys.modules)\nsys.exit(")
    launcher.write_text(text)
    *places, has_site = subprocess.run([launcher], capture_output=True, text=True, cwd="/").stdout.split()
    command = [sys.executable, "-Ic", "import sys; print(*sys.path)"]
    assert set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()) <= set(places)
    assert has_site == "False"


def test_a_launcher_asks_site_for_what_is_elsewhere(tmp_path):
    INSTALLER["install_commands"]({"old-name": "swtpm_svc.start:swtpm"}, tmp_path)
    launcher = tmp_path / "old-name"
    lines = launcher.read_text().splitlines()
    text = "\n".join("sys.path += []" if line.startswith("sys.path +=") else line for line in lines)
    launcher.write_text(text)
    if subprocess.run(
        [sys.executable, "-Ic", "import swtpm_svc"], capture_output=True, check=False, cwd="/"
    ).returncode:
        pytest.skip("swtpm_svc is not installed where this Python looks by itself")
    done = subprocess.run([launcher, "--version"], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.startswith("TPM emulator version ")


def test_make_install_brings_them_only_if_asked():
    def said(*words):
        command = ["make", "-n", "-C", ROOT, "install", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    asked = said("COMPAT=1")
    assert "install_package.py --classic " in asked
    assert " docs/man/classic/*.[1-8]" in asked
    for without in (said(), said("COMPAT=0")):
        assert "--classic" not in without
        assert "docs/man/classic" not in without


@pytest.mark.parametrize("destdir", ["", "/root-of-a-package"])
def test_they_can_be_installed_without_the_package(tmp_path, destdir):
    prefix = f"{tmp_path}/usr" if not destdir else "/usr"
    words = [prefix] if not destdir else [prefix, f"{tmp_path}{destdir}"]
    assert INSTALLER["main"]("--classic-only", *words) == 0
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    places = [f"bin/{name}" for name in COMMANDS] + [f"share/swtpm/{name}" for name in SHARED]
    assert found == {f"{destdir}/usr/{place}".lstrip("/") for place in places}


def install_files(root, bin_directory="/usr/bin"):
    subprocess.run(
        [ROOT / "packaging/install-classic.sh"],
        env={"DESTDIR": str(root), "BINDIR": bin_directory, "PATH": "/usr/bin:/bin"},
        check=True,
    )


def test_their_configuration_is_that_of_these_commands(tmp_path):
    install_files(tmp_path, "/usr/local/bin")
    setup = settings_file.read(str(tmp_path / "etc/swtpm_setup.conf"))
    assert setup["create_certs_tool"] == "/usr/local/bin/swtpm_localca"
    assert setup["active_pcr_banks"] == "sha256"
    for key, name in (("config", "swtpm-localca.conf"), ("options", "swtpm-localca.options")):
        assert setup[f"create_certs_tool_{key}"] == f"/etc/{name}"
        assert (tmp_path / "etc" / name).is_file()
    (entry,) = (
        line for line in (tmp_path / "usr/lib/tmpfiles.d/vtpm-classic.conf").read_text().splitlines() if line[0] != "#"
    )
    assert settings_file.read(str(tmp_path / "etc/swtpm-localca.conf"))["statedir"] == entry.split()[1]


def test_a_configuration_that_is_there_stays(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/swtpm_setup.conf").write_text("mine\n")
    install_files(tmp_path)
    assert (tmp_path / "etc/swtpm_setup.conf").read_text() == "mine\n"
