"""A newcomer's walk through each page of docs/: what it shows is typed, from its beginning to its end.

Which blocks are not, and why, is in tests/documented.py.
"""

import glob
import os
import re
import shutil
import time

import pytest
from documented import WITHOUT_ROOT, blocks, pages
from services import run

pytestmark = pytest.mark.needs("systemd", "systemd 253", "root", "accounts", "tpm2-tools")

#: Pages of which a machine with systemd is to be asked.
WALKED = [page for page in pages() if page not in WITHOUT_ROOT and any(block.is_typed for block in blocks(page))]
#: Where pages make something.
PLACES = (
    "/etc/vtpm.d/*", "/etc/systemd/system/*", "/etc/systemd/system/*.wants/*", "/var/lib/vtpm/*",
    "/var/lib/vtpm-identity/*", "/root/*", "/srv/*",
)  # fmt: skip
ACCOUNTS = ("alice", "libvirt-qemu")


def found():
    return {path for place in PLACES for path in glob.glob(place)}


@pytest.fixture
def host(monkeypatch):
    """Accounts that pages speak of; what a page makes is gone after it."""
    there = found()
    for account in ACCOUNTS:
        run("useradd", "--no-create-home", "--home-dir", "/tmp", account)
    monkeypatch.chdir("/root")
    yield
    sockets = [os.path.basename(path) for path in found() - there if path.endswith(".socket")]
    run("systemctl", "stop", *sockets, "vtpm.target", expect=None)
    run("systemctl", "reset-failed", expect=None)
    for path in sorted(found() - there, reverse=True):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    run("systemctl", "daemon-reload")
    for account in ACCOUNTS:
        run("userdel", account)


def swtpm_before(page):
    """What a reader of the page brings along: a TPM of swtpm."""
    if page == "docs/moving-from-swtpm.md":
        os.makedirs("/srv/swtpm")
        words = ["swtpm", "socket", "--tpm2", "--tpmstate", "dir=/srv/swtpm", "--flags", "not-need-init,startup-clear"]
        run(*words, "--ctrl", "type=unixio,path=/root/swtpm.ctrl", "--daemon")
        run("swtpm_ioctl", "--unix", "/root/swtpm.ctrl", "-s")
        for _ in range(100):
            if not os.path.exists("/root/swtpm.ctrl"):
                break
            time.sleep(0.1)


@pytest.mark.parametrize("page", WALKED)
def test_a_page_works_as_it_is_printed(host, page):
    swtpm_before(page)
    for block in blocks(page):
        if not block.is_typed:
            continue
        if block.file:
            os.makedirs(os.path.dirname(block.file), exist_ok=True)
            with open(block.file, "w", encoding="utf-8") as file:
                file.write("\n".join(block.lines) + "\n")
            if block.file.startswith("/etc/systemd"):
                run("systemctl", "daemon-reload")
            continue
        done = run("bash", "-e", "-o", "pipefail", "-c", "\n".join(block.commands), expect=None, timeout=300)
        assert done.returncode == 0, f"{page}: {block.name}\n{done.stdout}{done.stderr}"
        if block.printed:
            shape = "\n".join(re.sub("[0-9a-f]", "x", line) for line in block.printed)
            assert re.sub("[0-9a-f]", "x", done.stdout.strip()).endswith(shape), done.stdout
