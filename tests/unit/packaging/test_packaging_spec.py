"""The RPM's spec file, as far as it repeats what the tree says elsewhere. That it builds is for tests/lab/rpm.sh."""

import re
import runpy
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

import swtpm_svc
from swtpm_svc.cli.classic import SWTPM_VERSION

ROOT = Path(__file__).resolve().parents[3]
INSTALLER = runpy.run_path(str(ROOT / "tools/install_package.py"))
COMMANDS = INSTALLER["commands_of"](INSTALLER["CLASSIC_COMMANDS"])
SPEC = (ROOT / "packaging/swtpm.spec").read_text()


def test_the_version_is_that_of_the_library():
    assert re.findall(r"^Version: +(.+)$", SPEC, re.MULTILINE) == [swtpm_svc.__version__]
    newest = re.search(r"^%changelog\n\* .* - (.+)-[0-9]+$", SPEC, re.MULTILINE)
    assert newest
    assert newest[1] == swtpm_svc.__version__


def test_there_is_an_selinux_package_as_soon_as_there_is_a_policy():
    """%bcond_without: on, unless the build is told to do without."""
    policy = ROOT / "packaging/swtpm.te"
    assert re.findall(r"^%bcond_(\w+) +selinux$", SPEC, re.MULTILINE) == ["without" if policy.exists() else "with"]


def test_every_manual_page_is_in_the_package():
    pages = {f"%{{_mandir}}/man{page.suffix[1:]}/{page.name}*" for page in (ROOT / "docs/man").glob("*.[1-8]")}
    assert {line for line in SPEC.splitlines() if line.startswith("%{_mandir}")} == pages


def test_every_page_for_administrators_is_in_the_package_and_installed_by_make():
    pages = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} - {"docs/releasing.md", "docs/testing.md"}
    assert len(pages) > 10
    words = " ".join(re.findall(r"^%doc (.+)$", SPEC, re.MULTILINE)).split()
    assert set(words) == {*pages, "README.md", "CHANGELOG.md", "docs/decisions"}
    command = ["make", "-n", "-C", ROOT, "install", "DESTDIR=/there"]
    done = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (loop,) = re.findall(r"^for page in (README.md .+?); do install .+/share/doc/python3-swtpm/", done, re.MULTILINE)
    assert {*pages, "README.md", "CHANGELOG.md"} == set(loop.split())


def test_the_old_command_names_are_a_package_of_their_own_that_excludes_swtpm_s():
    assert re.findall(r"^%global swtpm_version (.+)$", SPEC, re.MULTILINE) == [SWTPM_VERSION]
    package = SPEC.split("%package -n     python3-swtpm-compat\n", 1)[1].split("%description", 1)[0]
    tags = dict.fromkeys(line for line in package.splitlines() if not line.startswith("#"))
    assert {"Conflicts:      swtpm", "Conflicts:      swtpm-tools"} <= set(tags)
    assert "Requires:       python3-swtpm = %{version}-%{release}" in tags
    files = SPEC.split("%files -n python3-swtpm -f", 1)[1].split("%files", 1)[0]
    commands = re.findall(r"^%\{_bindir\}/(.+)$", files, re.MULTILINE)
    assert commands == ["vtpmctl", "vtpmd"]


def test_the_list_of_its_files_names_each_command_and_page(tmp_path):
    """By the lines of the spec that make it, in a shell; the macros stay as they are."""
    section = SPEC.split("%install\n", 1)[1].split("\n\n\n", 1)[0]
    lines = re.findall(r"^sed -n .*compat-files$|^  echo .*compat-files$", section, re.MULTILINE)
    assert len(lines) == 2
    loop = f"for page in docs/man/classic/*.[1-8]; do\n{lines[1]}\ndone"
    script = "\n".join([lines[0], loop]).replace("compat-files", str(tmp_path / "list"))
    subprocess.run(["bash", "-ec", script], cwd=ROOT, check=True)
    listed = (tmp_path / "list").read_text().splitlines()
    pages = sorted((ROOT / "docs/man/classic").glob("*.[1-8]"))
    assert sorted(listed) == sorted(
        [f"%{{_bindir}}/{name}" for name in COMMANDS]
        + [f"%{{_mandir}}/man{page.suffix[1:]}/{page.name}*" for page in pages]
    )


def test_the_source_of_a_tree_is_the_same_bytes_each_time(tmp_path):
    written = []
    for name in ("one", "two"):
        command = [ROOT / "packaging/make-source.sh", tmp_path / name]
        written.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    assert written[0] == f"{tmp_path}/one/swtpm-svc-{swtpm_svc.__version__}.tar.gz"
    assert Path(written[0]).read_bytes() == Path(written[1]).read_bytes()
    with tarfile.open(written[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "pyproject.toml",
        "LICENSE",
        "packaging/swtpm.spec",
        "swtpm_svc/tpm/binding.c",
        "swtpm_svc/tpm/confinement.c",
        "tests/conftest.py",
    } <= names
    assert not {name for name in names if name.startswith((".venv", "build/")) or name.endswith((".pyc", ".so"))}


@pytest.mark.needs("git")
def test_the_source_of_a_tree_that_was_unpacked_in_another_s_checkout(tmp_path):
    """As `fedpkg local` does: git knows nothing of these files."""
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    command = [ROOT / "packaging/make-source.sh", tmp_path]
    packed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    shutil.unpack_archive(packed, tmp_path)
    tree = packed.removesuffix(".tar.gz")
    command = [f"{tree}/packaging/make-source.sh", tmp_path / "again"]
    again = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    with tarfile.open(packed) as first, tarfile.open(again) as second:
        assert sorted(first.getnames()) == sorted(second.getnames())
