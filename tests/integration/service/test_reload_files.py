"""SIGHUP with [fuse]: whose the file `control` is follows the configuration, as the socket does."""

import os
import signal
from pathlib import Path

import pytest
from daemon_process import DaemonProcess
from device_clients import wait_for

pytestmark = pytest.mark.needs("root", "fuse", "pyfuse3", "binding")


def test_the_control_file_is_given_to_the_new_group(tmp_path):
    files = tmp_path / "files"
    files.mkdir()
    more = f'[fuse]\nenabled = true\ndirectory = "{files}"\n[control]\ngroup = "'
    daemon = DaemonProcess(tmp_path, device_keys='group = "root"', more=f'{more}12345"\n')
    try:
        daemon.spawn()
        wait_for(lambda: "info: ready" in daemon.log(), "READY")
        assert (os.stat(files / "control").st_gid, os.stat(daemon.control).st_gid) == (12345, 12345)
        config = Path(daemon.config)
        for number, (old, new) in enumerate(((12345, 54321), (54321, 12345)), 1):  # and back again
            config.write_text(config.read_text().replace(str(old), str(new)))
            os.kill(daemon.process.pid, signal.SIGHUP)
            wait_for(lambda count=number: daemon.log().count("configuration reloaded") == count, "the reload")
            assert (os.stat(files / "control").st_gid, os.stat(daemon.control).st_gid) == (new, new)
        assert os.stat(files / "tpm").st_gid == 0
        assert daemon.stop() == 0
    finally:
        daemon.stop(signal.SIGTERM)  # which takes the mount away
