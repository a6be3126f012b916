"""[tpm]: what a start makes of its keys."""

import json
import os
import signal

import pytest
from daemon_process import DaemonProcess

from swtpm_svc.tpm import libtpms

pytestmark = pytest.mark.needs("binding")


@pytest.mark.parametrize(("wanted", "has"), [(0, 4096), (3500, 3500)])
def test_the_buffer_has_the_size_that_is_configured(tmp_path, wanted, has):
    daemon = DaemonProcess(tmp_path, tpm=f"buffer-size = {wanted}").start()
    try:
        assert daemon.status()["tpm"]["buffer_size"] == has
        assert "buffer-size" not in daemon.log()
    finally:
        daemon.stop()


def test_a_buffer_that_libtpms_does_not_take_is_told(tmp_path):
    daemon = DaemonProcess(tmp_path, tpm="buffer-size = 1").start()
    try:
        has = daemon.status()["tpm"]["buffer_size"]
        assert 2000 < has < 4096
        assert f"[tpm] buffer-size: found 1; libtpms takes {has}" in daemon.log()
    finally:
        daemon.stop()


@pytest.mark.parametrize("is_disabled", [False, True])
def test_a_shutdown_at_the_end_can_be_left_out(tmp_path, is_disabled):
    daemon = DaemonProcess(tmp_path, tpm=f"disable-auto-shutdown = {str(is_disabled).lower()}").start()
    try:
        before = os.stat(f"{daemon.state}/tpm2-00.permall").st_mtime_ns
        assert daemon.stop() == 0
        assert (os.stat(f"{daemon.state}/tpm2-00.permall").st_mtime_ns == before) is is_disabled
    finally:
        daemon.stop(signal.SIGKILL)


def test_a_profile_is_for_a_tpm_that_is_made(tmp_path):
    """Of any libtpms: a profile that it does not have, or no profiles at all, is why none is made. One that there is
    keeps its own."""
    profile = json.dumps({"Name": "no-such-profile"})
    daemon = DaemonProcess(tmp_path, tpm=f"profile = {chr(39)}{profile}{chr(39)}")
    daemon.spawn()
    assert daemon.process.wait(60) == 70
    cause = "does not accept the profile that is given as JSON" if libtpms.has_profiles() else "has no profiles"
    assert f"libtpms {libtpms.version()} {cause}" in daemon.log()
    assert os.listdir(daemon.state) == [".lock"]

    DaemonProcess(tmp_path, name="other").start().stop()
    os.rename(tmp_path / "other.state" / "tpm2-00.permall", tmp_path / "lab.state" / "tpm2-00.permall")
    try:
        daemon.start()
    finally:
        daemon.stop()
