"""A volatile state that was stored is gone on with once: it would bring old PCRs back after a kill."""

import os
import signal

import pytest
from daemon_process import DaemonProcess
from tpm_commands import PCR_EXTEND_16, PCR_READ_16, STARTUP_CLEAR, result_of

from swtpm_svc.wire import ptm, ptm_socket

pytestmark = pytest.mark.needs("binding")


def ask(daemon, command, path=None):
    with daemon.connect(path) as client:
        client.sendall(command)
        return client.recv(4096)


def test_a_start_uses_it_up(tmp_path):
    daemon = DaemonProcess(tmp_path, startup="none").start()
    try:
        assert result_of(ask(daemon, STARTUP_CLEAR)) == 0
        assert result_of(ask(daemon, PCR_EXTEND_16)) == 0
        extended = ask(daemon, PCR_READ_16)
        assert ask(daemon, ptm_socket.pack(ptm.StoreVolatile()), daemon.control) == bytes(4)
        assert daemon.stop() == 0
        assert "tpm2-00.volatilestate" in os.listdir(daemon.state)
        daemon.start()
        assert ask(daemon, PCR_READ_16) == extended
        assert "tpm2-00.volatilestate" not in os.listdir(daemon.state)
    finally:
        daemon.stop(signal.SIGKILL)
