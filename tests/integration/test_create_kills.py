"""`vtpmctl create` killed at any moment leaves a finished TPM or none: never a half-made one that starts."""

import os
import random
import shutil
import signal
import statistics
import subprocess
import time
from pathlib import Path
from typing import Optional

import pytest
from cryptography import x509
from test_create import Host
from tpm_in_process import tpm_in_process

from swtpm_svc.errors import VtpmError
from swtpm_svc.provision import nv_certificates, ownership
from swtpm_svc.provision.ek_templates import ENDORSEMENT_KEYS
from swtpm_svc.provision.manufacture import HASHES
from swtpm_svc.provision.public_key import to_cryptography
from swtpm_svc.provision.tpm2 import Tpm2
from swtpm_svc.provision.tpm12 import Tpm12
from swtpm_svc.service import config
from swtpm_svc.state import newborn
from swtpm_svc.state.store import Store
from swtpm_svc.wire.public_key import PublicKey

#: The whole proof takes 200 (.ci/run); the suite has no time for all of them on a busy machine.
KILLS = int(os.environ.get("VTPM_CREATE_KILLS", "60"))
OWNER = bytes(range(20))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def words_for(number: int) -> "tuple[str, ...]":
    """One in four is a TPM 1.2."""
    return (f"vm{number}", "--tpm-version", "1.2" if number % 4 == 3 else "2.0")


def start_and_wait(host: Host, *words: str) -> "tuple[subprocess.Popen[bytes], float]":
    """The command, when it has begun to change the states' directory (or has ended), and how long that took."""
    before, begin = set(os.listdir(host.state)), time.monotonic()
    process = subprocess.Popen(host.command("create", *words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while set(os.listdir(host.state)) == before and process.poll() is None:
        time.sleep(0.0003)
    return process, time.monotonic() - begin


def usual_times(host: Host, version: str) -> "tuple[float, float]":
    """Medians of three: what the command takes in all, and of that from its first change on the disk on."""
    times = []
    for number in range(3):
        process, quiet_s = start_and_wait(host, f"usual{version[0]}{number}", "--tpm-version", version)
        begin = time.monotonic()
        assert process.wait(60) == 0
        times.append((quiet_s, time.monotonic() - begin))
    quiet_s, disk_s = (statistics.median(column) for column in zip(*times))
    return quiet_s + disk_s, disk_s


def check_whole(host: Host, name: str, version: str) -> None:
    """Start the TPM that the configuration is for: keys, certificates of these keys, banks or lock are there."""
    loaded = config.load(str(host.config / f"{name}.toml"), name)
    assert (loaded.tpm.version, loaded.tpm.startup) == (version, "clear")
    with Store.open(loaded.state.directory, version) as store, tpm_in_process(version, storage=store) as execute:
        if version == "1.2":
            tpm12 = Tpm12(execute)
            key = tpm12.read_pubek()
            with pytest.raises(VtpmError, match="nobody owns the TPM yet"):  # as of its lock
                nv_certificates.read_1_2(tpm12, nv_certificates.EK_INDEX_1_2)
            tpm12.take_ownership(OWNER)
            check_certified(key, nv_certificates.read_1_2(tpm12, nv_certificates.EK_INDEX_1_2, OWNER))
            assert nv_certificates.read_1_2(tpm12, nv_certificates.PLATFORM_INDEX_1_2, OWNER)
            return
        tpm = Tpm2(execute)
        for template in (ENDORSEMENT_KEYS["rsa2048"], ENDORSEMENT_KEYS["ecc-p384"]):
            public = ownership.find_endorsement_key(tpm, template)
            assert public is not None
            check_certified(public, nv_certificates.read(tpm, template.certificate_index))
        assert nv_certificates.read(tpm, nv_certificates.PLATFORM_INDEX)
        assert {bank for bank, is_on in tpm.pcr_banks().items() if is_on} == {HASHES["sha256"], HASHES["sha384"]}


def check_certified(key: PublicKey, certificate: Optional[bytes]) -> None:
    assert certificate is not None
    certified = x509.load_der_x509_certificate(certificate).public_key()
    assert certified.public_numbers() == to_cryptography(key).public_numbers()  # type: ignore[union-attr]


def test_a_kill_at_any_moment_leaves_a_finished_tpm_or_none(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """Half of them at any moment of the command's time, half while it changes the disk, which is a small part of that."""
    host.made("first")  # and the CA
    usual = {version: usual_times(host, version) for version in ("1.2", "2.0")}
    generator = random.Random(5)
    outcomes = {"not killed": 0, "nothing": 0, "no configuration": 0, "finished": 0}
    unfinished = []
    for number in range(KILLS):
        name, *options = words_for(number)
        version = options[-1]
        whole_s, disk_s = usual[version]
        if generator.random() < 0.5:
            process, _quiet_s = start_and_wait(host, name, *options)
            time.sleep(generator.uniform(0, 0.7 * disk_s))
        else:
            command = host.command("create", name, *options)
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(generator.uniform(0, whole_s))
        process.send_signal(signal.SIGKILL)
        is_killed = process.wait(60) == -signal.SIGKILL
        if (host.config / f"{name}.toml").exists():
            check_whole(host, name, version)
            outcomes["finished" if is_killed else "not killed"] += 1
            continue
        assert is_killed
        unfinished.append(number)
        has_left = (host.state / name).exists() or any(path.name.startswith(newborn.NEW) for path in host.state.iterdir())
        outcomes["no configuration" if has_left else "nothing"] += 1
    with capsys.disabled():
        print(f"\n{KILLS} times vtpmctl create: {', '.join(f'{what}: {count}' for what, count in outcomes.items())}")
    assert outcomes["not killed"] < KILLS / 2, outcomes
    assert all(outcomes[what] >= KILLS / 30 for what in ("nothing", "no configuration", "finished")), outcomes
    for number in unfinished[-5:]:
        name, *options = words_for(number)
        host.made(name, *options)
        check_whole(host, name, options[-1])
    assert [path.name for path in host.state.iterdir() if path.name.startswith(newborn.NEW)] == []
    assert not list(host.config.glob(".*"))


def test_a_kill_after_any_step_of_putting_in_place(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The moments that a random kill seldom meets: before each rename, link, unlink and fsync, one after the other."""
    calls = ("rename", "link", "unlink", "fsync", "mkdir", "rmdir", "fchown", "chown")
    killer = (
        "import os, sys\n"
        "left = [int(sys.argv.pop(1))]\n"
        "def dying(call):\n"
        "    def run(*a, **k):\n"
        "        left[0] -= 1\n"
        "        if left[0] < 0: os.kill(os.getpid(), 9)\n"
        "        return call(*a, **k)\n"
        "    return run\n"
        f"for name in {calls!r}: setattr(os, name, dying(getattr(os, name)))\n"
    )
    words = host.command("create", "vm1", "--no-certificates")
    words[2] = killer + words[2]
    seen = set()
    for step in range(60):
        done = subprocess.run([*words[:3], str(step), *words[3:]], capture_output=True, text=True, check=False)
        is_configured = (host.config / "vm1.toml").exists()
        if done.returncode == 0:
            break
        seen.add((done.returncode, is_configured))
        assert done.returncode in (-signal.SIGKILL, 73), done.stderr
        if is_configured:
            assert len((host.state / "vm1" / "tpm2-00.permall").read_bytes()) > 2000
            shutil.rmtree(host.state / "vm1")
            os.unlink(host.config / "vm1.toml")
    assert (-signal.SIGKILL, False) in seen
    assert (-signal.SIGKILL, True) in seen
    assert done.returncode == 0
    assert sorted(os.listdir(host.state)) == ["vm1"]
    assert sorted(os.listdir(host.config)) == ["vm1.toml"]
    assert sorted(os.listdir(host.state / "vm1")) == [".lock", "tpm2-00.permall"]
