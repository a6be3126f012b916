"""tpm-tools, a TPM 1.2's own, as a user without privileges: they speak to tcsd, which opens /dev/tpm0 as user tss."""

import os
import shutil

import pytest
from services import systemctl
from tcsd import Tcsd, take_ownership

pytestmark = pytest.mark.needs("systemd", "root", "accounts", "setpriv", "tcsd", "tpm-tools")


@pytest.fixture
def folder():
    """Where tcsd may be, by its own SELinux policy, too."""
    path = "/var/lib/tpm/lab"
    os.mkdir(path)
    yield path
    shutil.rmtree(path)


def test_a_tpm_1_2_gets_an_owner(configure, folder):
    configure("tpm0", '[tpm]\nversion = "1.2"\nstartup = "clear"\n[device]\ngroup = "tss"\n')
    systemctl("start", "tpm0")
    daemon = Tcsd(folder, 30003, user="lab-outsider")
    try:
        take_ownership(daemon)
    finally:
        daemon.close()
