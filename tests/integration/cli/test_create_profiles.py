"""`vtpmctl create --profile`, which takes libtpms 0.10: by swtpm's word, the TPM has the profile that was named."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from created_host import Host, served

from swtpm_svc.errors import Code

pytestmark = pytest.mark.needs("profiles", "swtpm_ioctl")
ACTIVE_PROFILE = "32"  # swtpm_ioctl(8), --info
#: Without triple DES, and RSA from 2048 bits on.
ALGORITHMS = (
    "rsa,rsa-min-size=2048,sha1,hmac,aes,aes-min-size=128,mgf1,keyedhash,xor,sha256,sha384,sha512,null,rsassa,rsaes,rsapss,oaep,ecdsa,"
    "ecdh,ecdaa,sm2,ecschnorr,ecmqv,kdf1-sp800-56a,kdf2,kdf1-sp800-108,ecc,ecc-min-size=256,ecc-nist,ecc-bn,symcipher,cmac,ctr,ofb,cbc,"
    "cfb,ecb"
)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def active_profile(state: Path) -> "dict[str, Any]":
    with served(state) as tools:
        control = f"{tools.tcti.partition('path=')[2]}.ctrl"
        words = ["swtpm_ioctl", "--unix", control, "--info", ACTIVE_PROFILE]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)["ActiveProfile"]
    return found


@pytest.mark.parametrize("name", ["default-v1", "null"])
def test_a_profile_by_its_name(host: Host, name: str) -> None:
    host.made("vm1", "--profile", name)
    assert active_profile(host.state / "vm1")["Name"] == name


def test_a_profile_in_a_file(host: Host) -> None:
    path = host.folder / "profile.json"
    path.write_text(json.dumps({"Name": "custom:lab", "Algorithms": ALGORITHMS}))
    host.made("vm1", "--profile", path)
    found = active_profile(host.state / "vm1")
    assert found["Name"] == "custom:lab"
    assert set(found["Algorithms"].split(",")) == set(ALGORITHMS.split(","))


def test_a_profile_that_this_libtpms_does_not_take(host: Host) -> None:
    path = host.folder / "profile.json"
    path.write_text(json.dumps({"Name": "custom:lab", "Algorithms": "rsa"}))
    for profile in ("no-such-profile", str(path)):
        error = host.refused("vm1", "--profile", profile)
        assert (error["code"], profile in error["message"]) == (Code.TPM_REFUSED.value, True)
    assert not (host.state / "vm1").exists()
