"""The JSON that callers choose their behaviour by: words, order and blanks (measured with swtpm 0.7.1 to 0.11)."""

import json
import os
import subprocess

import pytest
from classic_commands import commands_directory
from classic_swtpm import DEADLINE_S

from swtpm_svc.tpm import libtpms

#: All words that swtpm 0.11 may print, in its order.
ORDER = [
    "tpm-1.2", "tpm-2.0", "tpm-send-command-header", "flags-opt-startup", "flags-opt-disable-auto-shutdown",
    "ctrl-opt-terminate", "cmdarg-seccomp", "cmdarg-key-fd", "cmdarg-pwd-fd", "cmdarg-print-states", "cmdarg-chroot",
    "cmdarg-migration", "nvram-backend-dir", "nvram-backend-file", "rsa-keysize-1024", "rsa-keysize-2048",
    "rsa-keysize-3072", "rsa-keysize-4096", "cmdarg-profile", "cmdarg-print-profiles", "profile-opt-remove-disabled",
    "cmdarg-print-info", "tpmstate-opt-lock", "tpmstate-dir-backend-opt-backup", "tpmstate-dir-backend-opt-fsync",
    "cmdarg-pcap", "systemd-notify",
]  # fmt: skip


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    return commands_directory(tmp_path_factory.mktemp("commands"))


def said(program, *words, **options):
    done = subprocess.run(
        [program, *map(str, words)], capture_output=True, text=True, timeout=DEADLINE_S, check=True, **options
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("interface", ["socket", "chardev"])
@pytest.mark.parametrize("tpm2", [[], ["--tpm2"]])
def test_capabilities_without_a_home_or_a_place_to_write(commands, tmp_path, interface, tpm2):
    os.chmod(tmp_path, 0o500)
    text = said(commands / "swtpm", interface, *tpm2, "--print-capabilities", cwd=tmp_path, env={})
    assert text.startswith('{ "type": "swtpm", "features": [ "tpm-1.2", "tpm-2.0", "tpm-send-command-header", ')
    assert text.endswith(', "version": "0.10.2" }\n')
    found = json.loads(text)
    assert list(found) == ["type", "features", "profiles", "version"]
    assert found["features"] == [word for word in ORDER if word in found["features"]]
    assert ("rsa-keysize-2048" in found["features"]) is bool(tpm2)
    assert bool(found["profiles"]) is (bool(tpm2) and libtpms.has_profiles())
    assert ("cmdarg-profile" in found["features"]) is bool(found["profiles"])
    assert os.listdir(tmp_path) == []


@pytest.mark.needs("root")
def test_capabilities_of_cuse(commands):
    for program, words in (("swtpm_cuse", []), ("cuse_tpm_server", []), ("swtpm", ["cuse"])):
        found = json.loads(said(commands / program, *words, "--print-capabilities"))
        assert found["type"] == "swtpm"
        assert "tpm-send-command-header" not in found["features"]


def test_states(commands, tmp_path):
    """No newline at the end; a folder that is missing is empty, and is not made."""
    words = ["socket", "--print-states", "--tpm2", "--tpmstate"]
    assert said(commands / "swtpm", *words, f"dir={tmp_path}/none") == '{ "type": "swtpm", "states": [] }'
    (tmp_path / "tpm2-00.permall").write_bytes(bytes(6013))
    (tmp_path / "tpm2-00.volatilestate").write_bytes(bytes(8922))
    (tmp_path / "tpm-00.permall").write_bytes(bytes(5))
    assert said(commands / "swtpm", *words, f"backend-uri=dir://{tmp_path}") == (
        '{ "type": "swtpm", "states": [ {"name": "permall", "size": 6013}, {"name": "volatilestate", "size": 8922} ] }'
    )
    assert sorted(os.listdir(tmp_path)) == ["tpm-00.permall", "tpm2-00.permall", "tpm2-00.volatilestate"]


@pytest.mark.parametrize(("tpm2", "family"), [([], "1.2"), (["--tpm2"], "2.0")])
def test_info(commands, tmp_path, tpm2, family):
    text = said(commands / "swtpm", "socket", *tpm2, "--print-info", "0x3")
    found = json.loads(text)
    assert text.endswith("\n")
    assert found["TPMSpecification"]["family"] == family
    assert found["TPMAttributes"]["manufacturer"] == "id:00001014"
    words = ["--print-info", 1, "--tpmstate", f"dir={tmp_path}"]
    assert json.loads(said(commands / "swtpm", "socket", *tpm2, *words))["TPMSpecification"]["family"] == family
    assert any(name.endswith("permall") for name in os.listdir(tmp_path)), "a state is made where there is none"


def test_profiles(commands):
    assert said(commands / "swtpm", "socket", "--print-profiles") == "{}"
    found = json.loads(said(commands / "swtpm", "socket", "--tpm2", "--print-profiles"))
    assert bool(found) is libtpms.has_profiles()
