"""What swtpm_ioctl, swtpm_bios and swtpm_cuse do when the TPM, or the system, does not do what they ask."""

import errno
import socket

import pytest

from swtpm_svc.cli.classic import ioctl_commands, swtpm_cuse_command, tpm_addresses


def test_a_control_request_that_does_not_get_there():
    class Broken:
        def exchange(self, *_request):
            raise OSError(errno.EPIPE, "Broken pipe")

    with pytest.raises(ioctl_commands.Failure) as failed:
        ioctl_commands.ask(Broken(), "INIT")
    assert str(failed.value) == "Could not execute PTM_INIT: Broken pipe"


def test_a_port_where_nobody_listens():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # and does not listen
        port = str(free.getsockname()[1])
        with pytest.raises(tpm_addresses.Unreachable) as failed:
            tpm_addresses.connect_tcp("127.0.0.1", port, 5)
    said = f"Could not connect to host '127.0.0.1' on port '{port}' using TCP socket: Connection refused"
    assert str(failed.value) == said


def test_the_folder_of_the_state_is_made(tmp_path):
    """One level of it, and what is there already is used."""
    for _ in range(2):
        swtpm_cuse_command._make_directory(str(tmp_path / "state"))
        assert (tmp_path / "state").is_dir()


def test_swtpm_cuse_prints_and_is_done(monkeypatch, capfd):
    monkeypatch.setattr(swtpm_cuse_command, "_become_root", lambda: None)
    assert swtpm_cuse_command.run("swtpm_cuse", "swtpm_cuse", ["--print-capabilities"]) == 0
    assert '"features"' in capfd.readouterr().out
