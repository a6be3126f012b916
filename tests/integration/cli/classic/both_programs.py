"""The distribution's swtpm_setup, swtpm_localca and swtpm_cert beside ours: the same words to both, each in a folder of
its own."""

import shutil
import subprocess
import sys
from typing import NamedTuple

import pytest

#: Where the distribution's are; another PATH may have ours before them.
THEIRS = "/usr/bin/"

needs_swtpm_tools = pytest.mark.skipif(
    shutil.which("swtpm_setup", path=THEIRS) is None or shutil.which("certtool", path=THEIRS) is None,
    reason="the distribution's swtpm-tools and certtool are not here",
)


class Ran(NamedTuple):
    status: int
    out: str
    err: str


def run_theirs(name, words, **options):
    return _run([THEIRS + name, *words], **options)


def run_ours(name, words, **options):
    program = f"import sys; from swtpm_svc.start import {name}; sys.exit({name}())"
    return _run([sys.executable, "-c", program, *words], **options)


def _run(words, **options):
    ran = subprocess.run(words, capture_output=True, timeout=120, check=False, **options)
    return Ran(ran.returncode, ran.stdout.decode(errors="replace"), ran.stderr.decode(errors="replace"))
