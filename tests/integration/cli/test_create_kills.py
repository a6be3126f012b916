"""`vtpmctl create` killed at any moment leaves a finished TPM or none: never a half-made one that starts."""

import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

import pytest
from created_host import KILLER, Host, killed_at
from cryptography import x509
from tpm_in_process import tpm_in_process

from swtpm_svc.config import loading
from swtpm_svc.errors import VtpmError
from swtpm_svc.provision import nv_certificates, ownership
from swtpm_svc.provision.ek_templates import ENDORSEMENT_KEYS
from swtpm_svc.provision.subject_public_key import to_cryptography
from swtpm_svc.provision.tpm2_owner import Tpm2
from swtpm_svc.provision.tpm12_owner import Tpm12
from swtpm_svc.state import newborn
from swtpm_svc.state.store import Store
from swtpm_svc.wire.algorithms import HASHES
from swtpm_svc.wire.public_key import PublicKey

#: The whole proof takes 200 (.ci/run); the suite has no time for all of them on a busy machine.
KILLS = int(os.environ.get("VTPM_CREATE_KILLS", "60"))
OWNER = bytes(range(20))
#: Runs each command line that it reads in a fork, whose number and then status it prints; the first word is the step of
#: KILLER. So what is killed is vtpmctl at work, and not Python that imports: that changes nothing on the disk, and took
#: half of the time.
FORKER = f"""{KILLER}
import json
from cryptography import x509
from swtpm_svc.cli.vtpmctl import create, commands, performing, render, entry
from swtpm_svc.cli.vtpmctl.host import Places
from swtpm_svc.provision import ca, certificates
from swtpm_svc.service import provisioning
places, create.STATE, create.USER = Places(config=sys.argv[1]), *sys.argv[2:4]
for line in sys.stdin:
    left[0], *words = json.loads(line)
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            os._exit(entry.main(words, places))
        finally:
            os._exit(70)
    print(child, flush=True)
    sys.stdin.readline()  # until then the number is nobody else's
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
NEVER = 1_000_000


class Forker:
    """Runs `vtpmctl create` as often as one likes, and kills it."""

    def __init__(self, host: Host) -> None:
        self._host = host
        python, dash_c, _program, *places = host.command("create")[:6]
        self._process = subprocess.Popen(
            [python, dash_c, FORKER, str(NEVER), *places],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def run(self, *words: str, step: int = NEVER, after_s: Optional[float] = None) -> int:
        """Its exit status, negative for a signal; killed before its change number `step`, or after `after_s`
        seconds."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps([step, *self._host.command("create", *words)[6:]]) + "\n")
        self._process.stdin.flush()
        child = int(self._process.stdout.readline())
        if after_s is not None:
            time.sleep(after_s)
            os.kill(child, signal.SIGKILL)
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
def forker(host: Host) -> Iterator[Forker]:
    forker = Forker(host)
    yield forker
    forker.close()


def words_for(number: int) -> "tuple[str, ...]":
    """One in four is a TPM 1.2."""
    return (f"vm{number}", "--tpm-version", "1.2" if number % 4 == 3 else "2.0")


def usual_time_and_changes(host: Host, forker: Forker, version: str) -> "tuple[float, int]":
    """What the command takes in all, the median of three, and how many CHANGES it makes."""
    times = []
    for number in range(3):
        begin = time.monotonic()
        assert forker.run(f"usual{version[0]}{number}", "--tpm-version", version) == 0
        times.append(time.monotonic() - begin)
    done = subprocess.run(
        killed_at(host, 1000, f"counted{version[0]}", "--tpm-version", version),
        capture_output=True,
        text=True,
        check=True,
    )
    return statistics.median(times), 1000 - int(done.stderr.split()[-1])


def check_whole(host: Host, name: str, version: str) -> None:
    """Start the TPM that the configuration is for: keys, certificates of these keys, banks or lock are there."""
    loaded = loading.load(str(host.config / f"{name}.toml"), name)
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


def test_a_kill_at_any_moment_leaves_a_finished_tpm_or_none(
    host: Host, forker: Forker, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half of them at any moment of the command's time, half as it changes the disk, which is too small a part of that
    to hit."""
    host.made("first")  # and the CA
    usual = {version: usual_time_and_changes(host, forker, version) for version in ("1.2", "2.0")}
    generator = random.Random(5)
    outcomes = {"not killed": 0, "nothing": 0, "no configuration": 0, "finished": 0}
    unfinished = []
    for number in range(KILLS):
        name, *options = words_for(number)
        version = options[-1]
        usual_s, changes = usual[version]
        before = set(os.listdir(host.state))
        if generator.random() < 0.5:
            for left in host.state.glob(f"{newborn.NEW}*"):
                shutil.rmtree(left)  # to clean up would be changes before those that were counted
            is_killed = forker.run(name, *options, step=generator.randrange(changes)) == -signal.SIGKILL
            assert is_killed
        else:
            is_killed = forker.run(name, *options, after_s=generator.uniform(0, usual_s)) == -signal.SIGKILL
        if (host.config / f"{name}.toml").exists():
            check_whole(host, name, version)
            outcomes["finished" if is_killed else "not killed"] += 1
            continue
        assert is_killed
        unfinished.append(number)
        has_left = not before.issuperset(os.listdir(host.state))
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


def test_a_kill_after_any_step_of_putting_in_place(host: Host, forker: Forker) -> None:
    """The moments that a random kill seldom meets: before each rename, link, unlink and fsync, one after the other."""
    seen = set()
    for step in range(60):
        status = forker.run("vm1", "--no-certificates", step=step)
        is_configured = (host.config / "vm1.toml").exists()
        if status == 0:
            break
        seen.add((status, is_configured))
        assert status in (-signal.SIGKILL, 73)
        if is_configured:
            assert len((host.state / "vm1" / "tpm2-00.permall").read_bytes()) > 2000
            shutil.rmtree(host.state / "vm1")
            os.unlink(host.config / "vm1.toml")
    assert (-signal.SIGKILL, False) in seen
    assert (-signal.SIGKILL, True) in seen
    assert status == 0
    assert sorted(os.listdir(host.state)) == ["vm1"]
    assert sorted(os.listdir(host.config)) == ["vm1.toml"]
    assert sorted(os.listdir(host.state / "vm1")) == [".lock", "tpm2-00.permall"]
