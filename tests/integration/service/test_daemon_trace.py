"""What the daemon's log tells of commands: each with `level = "debug"`, and none that succeeds otherwise."""

import signal

import pytest
from daemon_process import DaemonProcess
from tpm_commands import GET_RANDOM, result_of

pytestmark = pytest.mark.needs("binding")


@pytest.mark.parametrize("level", ["debug", "info"])
def test_a_command_is_told_where_that_is_asked_for(tmp_path, level):
    daemon = DaemonProcess(tmp_path, more=f'[log]\nlevel = "{level}"\n')
    try:
        with daemon.start().connect() as client:
            client.sendall(GET_RANDOM)
            assert result_of(client.recv(4096)) == 0
        assert daemon.stop() == 0
        assert ("TPM2_GetRandom: success TPM_CC=0x17b TPM_RC=0x0" in daemon.log()) is (level == "debug")
    finally:
        daemon.stop(signal.SIGKILL)
