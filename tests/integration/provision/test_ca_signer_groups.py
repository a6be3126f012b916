"""The groups in which the CA's signing command runs for another user: that user's, and none of root's."""

import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.provision import ca_signer

NOBODY = 65534


@pytest.mark.needs("root")
@pytest.mark.parametrize("uid", [NOBODY, 54321], ids=["an account", "a number without one"])
def test_it_is_in_no_group_of_roots(uid):
    key = ec.generate_private_key(ec.SECP256R1())
    before = os.getgroups()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        signer, told = Path(folder, "signer"), Path(folder, "told")
        signer.write_text(f"#!/bin/sh\nid -u > {told}; id -g >> {told}; id -G >> {told}; cat > /dev/null\n")
        signer.chmod(0o755)
        command = ca_signer.Command((str(signer),), uid, NOBODY)
        os.setgroups([0, 4, 44])
        try:
            with pytest.raises(VtpmError) as caught:  # it signs nothing
                ca_signer.external_key(command, key.public_key()).sign(b"message", ec.ECDSA(hashes.SHA256()))
            assert os.getgroups() == [0, 4, 44]
        finally:
            os.setgroups(before)
        assert caught.value.code is Code.CA_SIGNER
        assert told.read_text().split("\n") == [str(uid), str(NOBODY), str(NOBODY), ""]


def test_who_is_not_root_runs_it_as_he_is(tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "signer").write_text(f"#!/bin/sh\nid -u > {tmp_path}/told; cat > /dev/null\n")
    (tmp_path / "signer").chmod(0o755)
    command = ca_signer.Command((str(tmp_path / "signer"),), os.geteuid(), os.getegid())
    with pytest.raises(VtpmError):
        ca_signer.external_key(command, key.public_key()).sign(b"message", ec.ECDSA(hashes.SHA256()))
    own = subprocess.run(["id", "-u"], capture_output=True, text=True, check=True).stdout
    assert (tmp_path / "told").read_text() == own
