"""Trousers' daemon tcsd and tpm-tools, for tests of a TPM 1.2 (tcsd(8), tcsd.conf(5); tpm_takeownership(8) and
others)."""

import os
import shutil
import socket
import subprocess
import time


class Tcsd:
    """A tcsd of its own at `port`, as user tss, with configuration and state in `folder`.

    Its TPM is at TCP port `tpm_port`, or /dev/tpm0. The tools run as `user`, or as who tests.
    """

    def __init__(self, folder, port, tpm_port=None, user=None):
        self.port = port
        self.as_user = ["runuser", "-u", user, "--"] if user else []
        os.chmod(folder, 0o755)
        os.mkdir(f"{folder}/state", 0o700)
        shutil.chown(f"{folder}/state", "tss", "tss")
        with open(f"{folder}/tcsd.conf", "w", encoding="ascii") as file:
            file.write(f"port = {self.port}\nsystem_ps_file = {folder}/state/system.data\n")
        shutil.chown(f"{folder}/tcsd.conf", "root", "tss")  # it takes no other owner and mode
        os.chmod(f"{folder}/tcsd.conf", 0o640)
        environment = {"PATH": os.environ["PATH"]}
        words = [
            "setpriv",
            "--reuid",
            "tss",
            "--regid",
            "tss",
            "--clear-groups",
            "tcsd",
            "-f",
            "-c",
            f"{folder}/tcsd.conf",
        ]
        if tpm_port is not None:
            words.append("-e")
            environment["TCSD_USE_TCP_DEVICE"] = "1"
            environment["TCSD_TCP_DEVICE_HOSTNAME"] = "localhost"
            environment["TCSD_TCP_DEVICE_PORT"] = str(tpm_port)
        self.process = subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while not self._answers():
            assert self.process.poll() is None, "tcsd ended at once"
            assert time.monotonic() < deadline, "tcsd does not answer"
            time.sleep(0.05)

    def _answers(self):
        with socket.socket() as probe:
            return probe.connect_ex(("localhost", self.port)) == 0

    def run(self, *words):
        environment = {**os.environ, "TSS_TCSD_HOSTNAME": "localhost", "TSS_TCSD_PORT": str(self.port)}
        # tpm_version prints what is behind a string's end, which is not text
        options = {"capture_output": True, "text": True, "errors": "replace", "timeout": 60, "check": False}
        done = subprocess.run([*self.as_user, *words], env=environment, **options)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def close(self):
        self.process.terminate()
        self.process.wait(20)


def take_ownership(daemon):
    """What an owner does with a new TPM 1.2: endorsement key, ownership, NV."""
    assert "TPM 1.2 Version Info" in daemon.run("tpm_version")
    daemon.run("tpm_selftest")
    daemon.run("tpm_createek")
    before = daemon.run("tpm_getpubek", "-z")
    daemon.run("tpm_takeownership", "-y", "-z")  # -y, -z: the well-known secrets of twenty zeros
    owned = daemon.run("tpm_getpubek", "-z")
    assert "Public Key:" in before
    assert before.split("Public Key:")[1] == owned.split("Public Key:")[1]
    daemon.run("tpm_nvdefine", "-i", "0x1000", "-s", "16", "-p", "OWNERWRITE|OWNERREAD", "-y")
    daemon.run("tpm_nvwrite", "-i", "0x1000", "-d", "sixteen bytes ..", "-z")
    assert "sixteen bytes .." in daemon.run("tpm_nvread", "-i", "0x1000", "-s", "16", "-z").replace("\n", "")
