"""Programs by way of their libraries: tpm2-pytss on a TPM 2.0, trousers' tcsd and tpm-tools on a TPM 1.2."""

import os
import subprocess
import tempfile

import pytest
from socket_service import SocketService, free_ports
from tcsd import Tcsd, take_ownership

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
        assert service.events.failures == []
    finally:
        service.close()


@pytest.fixture
def tcsd():
    """A tcsd on a TPM 1.2 of ours, over TCP: (tcsd, service)."""
    port = free_ports()
    with tempfile.TemporaryDirectory(prefix="tcsd-", dir="/tmp") as folder:  # where user tss gets to
        service = SocketService(f"{folder}/tpm", version="1.2", tcp=port)
        assert service.tpm.startup("clear")[6:10] == bytes(4)
        try:
            daemon = Tcsd(folder, free_ports(), port)
            try:
                yield daemon, service
            finally:
                daemon.close()
        finally:
            service.close()


@pytest.mark.needs("root", "setpriv", "tcsd", "tpm-tools")
def test_trousers(tcsd):
    daemon, service = tcsd
    take_ownership(daemon)
    assert service.events.failures == []
