"""Programs by way of their libraries: tpm2-pytss on a TPM 2.0, trousers' tcsd and tpm-tools on a TPM 1.2."""

import os
import shutil
import socket
import subprocess
import tempfile
import time

import pytest
from socket_service import SocketService, free_ports

PYTSS_CLIENT = os.path.join(os.path.dirname(__file__), "pytss_client.py")


@pytest.mark.needs("tpm2-pytss")
@pytest.mark.parametrize("way", ["swtpm", "mssim"])
def test_tpm2_pytss(tmp_path, way):
    port = free_ports()
    service = SocketService(str(tmp_path / "tpm"), mssim=port)
    try:
        tcti = f"swtpm:path={service.path}" if way == "swtpm" else f"mssim:host=127.0.0.1,port={port}"
        words = ["/usr/bin/python3", PYTSS_CLIENT, tcti]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert service.recorder.failures == []
    finally:
        service.close()


class Tcsd:
    """A tcsd of its own, as user tss: configuration and state in `folder`, its TPM at TCP port `tpm_port`."""

    def __init__(self, folder, tpm_port):
        self.port = free_ports()
        os.chmod(folder, 0o755)
        os.mkdir(f"{folder}/state", 0o700)
        shutil.chown(f"{folder}/state", "tss", "tss")
        with open(f"{folder}/tcsd.conf", "w", encoding="ascii") as file:
            file.write(f"port = {self.port}\nsystem_ps_file = {folder}/state/system.data\n")
        shutil.chown(f"{folder}/tcsd.conf", "root", "tss")  # it takes no other owner and mode
        os.chmod(f"{folder}/tcsd.conf", 0o640)
        environment = {
            "PATH": os.environ["PATH"],
            "TCSD_USE_TCP_DEVICE": "1",
            "TCSD_TCP_DEVICE_HOSTNAME": "localhost",
            "TCSD_TCP_DEVICE_PORT": str(tpm_port),
        }
        words = ["setpriv", "--reuid", "tss", "--regid", "tss", "--clear-groups", "tcsd", "-f", "-e", "-c", f"{folder}/tcsd.conf"]
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
        # tpm_version prints what is behind a string's end, which is no text
        options = {"capture_output": True, "text": True, "errors": "replace", "timeout": 60, "check": False}
        done = subprocess.run(words, env=environment, **options)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def close(self):
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture
def tcsd():
    """A tcsd on a TPM 1.2 of ours, over TCP: (tcsd, service)."""
    port = free_ports()
    with tempfile.TemporaryDirectory(prefix="tcsd-", dir="/tmp") as folder:  # where user tss gets to
        service = SocketService(f"{folder}/tpm", version="1.2", tcp=port)
        assert service.tpm.startup("clear")[6:10] == bytes(4)
        try:
            daemon = Tcsd(folder, port)
            yield daemon, service
            daemon.close()
        finally:
            service.close()


@pytest.mark.needs("root", "setpriv", "tcsd", "tpm-tools")
def test_trousers(tcsd):
    daemon, service = tcsd
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
    assert service.recorder.failures == []
