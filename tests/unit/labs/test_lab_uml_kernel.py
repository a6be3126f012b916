"""Which User-Mode Linux the lab takes, with kernels that abort, hang, or are missing (tests/lab/uml-kernel.sh).

They are scripts: no real kernel can be made to fail on demand. What boots for real is tested by every lab.
"""

import os
import subprocess
from pathlib import Path

import pytest

LAB = Path(__file__).resolve().parents[2] / "lab"

HEAD = """#!/bin/bash
case $1 in --version) echo 1.2; exit;; --help) exit;; esac
echo started >>"$0.starts"
for word; do case $word in lab_scratch=*) scratch=${word#*=};; esac; done
"""
BOOTS = ": >$scratch/first-process"
ABORTS = "echo fatal_sigsegv; kill -ABRT $$"
HANGS = "sleep 60"


#: Instead of mmdebstrap: "unpacks" $ARCHIVE into the folder that is named before the last word.
UNPACKS = """#!/bin/bash
[ -f "$ARCHIVE" ] || { echo no such suite; exit 1; }
root=${@: -2:1}; libc=$root/usr/lib/x86_64-linux-gnu
mkdir -p "$root/usr/bin" "$root/usr/lib/uml/modules/1.2" "$libc"; touch "$libc/ld-linux-x86-64.so.2" "$libc/libc.so.6"
cp "$ARCHIVE" "$root/usr/bin/linux.uml"
"""


def script(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def kernels(tmp_path):
    """Writes kernels: the installed one and the archive's. Returns the environment that uses them."""

    def write(installed, archive):
        for body, name in ((installed, "linux.uml"), (archive, "archive.uml")):
            if body is not None:
                script(tmp_path / name, HEAD + body)
        script(tmp_path / "bin/mmdebstrap", UNPACKS)
        script(tmp_path / "bin/patchelf", "#!/bin/sh\n")
        return {
            **os.environ,
            "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
            "LAB_UML": str(tmp_path / "linux.uml"),
            "ARCHIVE": str(tmp_path / "archive.uml"),
            "LAB_CACHE": str(tmp_path / "cache"),
            "LAB_MIRROR": "http://archive.example/debian",
            "LAB_PROBE_LIMIT": "1",
        }

    return write


def chosen(environment, which="any"):
    script = f'set -euo pipefail; . "{LAB}/uml-kernel.sh"; uml_kernel {which} && echo "$UML_KERNEL"'
    return subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False)


def starts(kernel):
    return len(Path(f"{kernel}.starts").read_text().splitlines())


def test_the_installed_kernel_is_taken_and_asked_once(kernels, tmp_path):
    environment = kernels(BOOTS, BOOTS)
    for _ in range(2):
        assert chosen(environment).stdout == f"{tmp_path}/linux.uml\n"
    assert starts(tmp_path / "linux.uml") == 1
    # another kernel at the same place is another answer
    for _ in range(2):
        assert chosen(kernels(ABORTS, BOOTS)).stdout == f"{tmp_path}/cache/uml/sid/linux.uml\n"
    # and what has been unpacked is taken before the installed one
    assert chosen(kernels(BOOTS, BOOTS)).stdout == f"{tmp_path}/cache/uml/sid/linux.uml\n"


@pytest.mark.parametrize(
    ("installed", "why"),
    [
        (ABORTS, "ended with 134 before its first process (fatal_sigsegv)"),
        (HANGS, "did not reach its first process in 1 s"),
        (None, None),
    ],
)
def test_the_archive_s_kernel_is_taken_where_the_installed_one_does_not_boot(kernels, tmp_path, installed, why):
    done = chosen(kernels(installed, BOOTS))
    assert done.stdout == f"{tmp_path}/cache/uml/sid/linux.uml\n"
    assert done.stderr == (f"uml-kernel.sh: {tmp_path}/linux.uml {why}; trying the archive's newest\n" if why else "")


def test_that_time_ran_out_is_not_kept(kernels, tmp_path):
    """It may have been the machine's load; that a kernel aborts is kept."""
    for installed, asked in ((HANGS, 2), (ABORTS, 3)):
        environment = kernels(installed, None)
        for _ in range(2):
            assert chosen(environment).returncode == 1
        assert starts(tmp_path / "linux.uml") == asked


def test_an_unpacked_kernel_that_does_not_boot_any_more_is_passed_over(kernels, tmp_path):
    """As in a cache that was moved, whose kernel does not find its libc."""
    environment = kernels(BOOTS, BOOTS)
    assert chosen(environment, "newest").returncode == 0
    script(tmp_path / "cache/uml/sid/linux.uml", HEAD + ABORTS)
    assert chosen(environment).stdout == f"{tmp_path}/linux.uml\n"


def test_the_newest_may_be_asked_for(kernels, tmp_path):
    assert chosen(kernels(BOOTS, BOOTS), "newest").stdout == f"{tmp_path}/cache/uml/sid/linux.uml\n"


@pytest.mark.parametrize(
    ("installed", "archive", "why"),
    [
        (
            None,
            ABORTS,
            "Installed: there is no {0}/linux.uml. Of the archive: {0}/cache/uml/sid/linux.uml ended with 134",
        ),
        (
            None,
            None,
            "Installed: there is no {0}/linux.uml. Of the archive: it cannot be unpacked, see {0}/cache/uml/fetch.log",
        ),
        (
            ABORTS,
            HANGS,
            "Installed: {0}/linux.uml ended with 134 before its first process (fatal_sigsegv). Of the archive: ",
        ),
    ],
)
def test_where_none_boots_one_line_says_why_and_the_lab_has_its_own_status(kernels, tmp_path, installed, archive, why):
    done = subprocess.run(
        [LAB / "uml.sh", "true"], env=kernels(installed, archive), capture_output=True, text=True, check=False
    )
    assert done.returncode == 125
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"uml-kernel.sh: no User-Mode Linux boots here. {why.format(tmp_path)}")
