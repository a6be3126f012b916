"""[log] pcap: what a daemon's clients and the daemon itself say to the TPM is in a file."""

import os
import socket

import pytest
from daemon_process import DaemonProcess
from tpm_commands import GET_RANDOM

#: A file that was begun and ended, and each command of 12 bytes with its response of 10 or 20.
CONNECTION, SHORT, RANDOM = 312 + 264, 196, 208


@pytest.fixture
def daemon(tmp_path):
    made = []

    def make(path):
        made.append(DaemonProcess(tmp_path, more=f'[log]\npcap = "{path}"\n'))
        made[0].start()
        return made[0]

    yield make
    for one in made:
        one.stop()


def random_bytes(daemon):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(daemon.data)
        connection.sendall(GET_RANDOM)
        return connection.recv(4096)


def test_each_command_is_in_the_file(daemon, tmp_path):
    one = daemon(tmp_path / "capture")
    response = random_bytes(one)
    one.stop()
    captured = (tmp_path / "capture").read_bytes()
    assert GET_RANDOM in captured
    assert response in captured
    assert len(captured) == CONNECTION + SHORT + RANDOM + SHORT, "Startup, the command, Shutdown"
    assert os.stat(tmp_path / "capture").st_mode & 0o777 == 0o640


def test_a_file_that_cannot_be_had_keeps_nobody_from_the_tpm(daemon, tmp_path):
    one = daemon(tmp_path / "no/where")
    assert len(random_bytes(one)) == 20
    assert f"[log] pcap: nothing is captured: {tmp_path}/no/where: No such file or directory" in one.log()
