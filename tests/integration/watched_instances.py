"""Real daemons whose endorsement keys are watched, and what is known of them: for tests of service/identity."""

import json
import os
import re
import shutil
import subprocess
from contextlib import contextmanager

from daemon_process import DaemonProcess

from swtpm_svc.cli.vtpmctl import entry
from swtpm_svc.cli.vtpmctl.host import Places

NOTICE = re.compile(
    r"notice: this is another TPM than before, or it was cleared: (.*)\. What .* BitLocker .* LUKS .*: .* the old files of (.*)"
)

FORGED = "0" * 64


def record_of(keys, **more):
    return json.dumps({"format": 1, "keys": keys, "storage": None, "change": None, **more})


class Instance:
    """A daemon, its record, and the TPM's own word on its key."""

    def __init__(self, folder, version, **daemon):
        folder.mkdir()
        self.folder, self.version = folder, version
        self.daemon = DaemonProcess(folder, "lab", tpm=f'version = "{version}"', **daemon)
        self.record_path = f"{self.daemon.state}/identity.json"
        self.permall = f"{self.daemon.state}/{'tpm2' if version == '2.0' else 'tpm'}-00.permall"

    def start(self):
        self.daemon.start()
        return self

    def restart(self):
        """What the new process has said."""
        self.daemon.stop()
        self.start()
        return self.daemon.log()

    def vtpmctl(self, *words):
        assert entry.main([*words[0].split(), "lab", *words[1:]], Places(config=str(self.folder))) == 0

    def fingerprint(self, algorithm="rsa2048"):
        """By openssl, of the key that the TPM gives out."""
        pem = self.folder / "pubek.pem"
        self.vtpmctl("getpubek", "--algorithm", algorithm, "--output", str(pem))
        der = subprocess.run(
            ["openssl", "pkey", "-pubin", "-in", pem, "-outform", "DER"], capture_output=True, check=True
        ).stdout
        return (
            subprocess.run(["openssl", "sha256", "-r"], input=der, capture_output=True, check=True).stdout[:64].decode()
        )

    def record(self):
        with open(self.record_path, encoding="utf-8") as file:
            return json.load(file)

    def write_record(self, text):
        with open(self.record_path, "w", encoding="utf-8") as file:
            file.write(text)


class UnitInstance(Instance):
    """As the unit starts it: the record has a directory of its own."""

    def __init__(self, folder, version, **daemon):
        super().__init__(folder, version, **daemon)
        self.beside = self.record_path
        self.own = folder / "vtpm-identity" / "lab"
        self.own.mkdir(parents=True)
        self.record_path = f"{self.own}/identity.json"

    def start(self):
        self.daemon.start(environment={"STATE_DIRECTORY": f"{self.daemon.state}:{self.own}"})
        return self

    def start_by_hand(self):
        super().start()

    def lose_state(self):
        """With the service stopped, and a directory made again, as systemd does."""
        self.daemon.stop()
        shutil.rmtree(self.daemon.state)
        os.mkdir(self.daemon.state)


@contextmanager
def making(kind, folder):
    """make(version, name): an instance of `kind` in a folder of its own; all are stopped at the end."""
    made = []

    def make(version="2.0", name="one", **daemon):
        made.append(kind(folder / name, version, **daemon))
        return made[-1]

    yield make
    for one in made:
        one.daemon.stop()
