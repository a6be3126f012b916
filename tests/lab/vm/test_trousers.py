"""tpm-tools, a TPM 1.2's own, as a user without privileges: they speak to tcsd, which opens /dev/tpm0 as user tss."""

import pytest
from services import systemctl
from tcsd import Tcsd, take_ownership

pytestmark = pytest.mark.needs("systemd", "root", "accounts", "setpriv", "tcsd", "tpm-tools")


def test_a_tpm_1_2_gets_an_owner(configure, tmp_path):
    configure("tpm0", '[tpm]\nversion = "1.2"\nstartup = "clear"\n[device]\ngroup = "tss"\n')
    systemctl("start", "tpm0")
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    daemon = Tcsd(str(tmp_path), 30003, user="lab-outsider")
    try:
        take_ownership(daemon)
    finally:
        daemon.close()
