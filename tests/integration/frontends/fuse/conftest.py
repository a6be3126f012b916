"""A FUSE front end on a real mount, in a process of its own."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from fuse_clients import SYSTEM_PYTHON
from fuse_service import FuseService, is_mounted


def system_pyfuse3():
    """Has the distribution's pyfuse3 poll()? "True", "False", or "" if there is none."""
    program = "import cffi, _cffi_backend, pyfuse3; print(hasattr(pyfuse3.Operations, 'poll'))"
    return subprocess.run([SYSTEM_PYTHON, "-c", program], capture_output=True, text=True).stdout.strip()


@pytest.fixture(params=["newest", "system"])
def python(request):
    """Two interpreters: pip's pyfuse3, and the distribution's, which has no poll() on Debian 12."""
    if request.param == "newest":
        return sys.executable
    if not system_pyfuse3():
        pytest.skip("the system's Python has no pyfuse3 and cffi: apt-get install python3-pyfuse3 python3-cffi-backend")
    return SYSTEM_PYTHON


@pytest.fixture
def directory():
    """An empty one, which other users can reach."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = Path(folder, "fs")
        path.mkdir()
        yield path
        while is_mounted(path):
            subprocess.run(["umount", "-l", path], check=True)


@pytest.fixture
def start(directory):
    """Start a service; whatever happens then, its mount goes."""
    services = []

    def start(where=directory, **options):
        services.append(FuseService(where, **options))
        return services[-1]

    yield start
    for service in services:
        service.close()


@pytest.fixture
def service(start):
    return start()


@pytest.fixture
def either(start, python):
    """A service with each of the two versions of pyfuse3."""
    return start(python=python)
