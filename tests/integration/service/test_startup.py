"""[tpm] startup: sent at each power-on, whoever asks for it, but for clients that are machines with a firmware."""

import array
import signal
import socket
import struct
from pathlib import Path

import pytest
from daemon_process import DaemonProcess
from socket_service import free_ports
from tpm_commands import GET_RANDOM, PCR_EXTEND_16, PCR_READ_16, STARTUP_CLEAR, TPM12_GET_RANDOM, result_of

from swtpm_svc.wire import ptm, ptm_socket
from swtpm_svc.wire.mssim import Ordinal

pytestmark = pytest.mark.needs("binding")

INIT = ptm_socket.pack(ptm.Init(ptm.INIT_FLAG_DELETE_VOLATILE))
INIT_ALONE = ptm_socket.pack(ptm.Init(ptm.INIT_FLAG_DELETE_VOLATILE | ptm.INIT_FLAG_NO_STARTUP))
DONE = bytes(4)
#: TPM_INVALID_POSTINIT, TPM_RC_INITIALIZE.
UNSTARTED = {"1.2": 0x26, "2.0": 0x100}
COMMAND = {"1.2": TPM12_GET_RANDOM, "2.0": GET_RANDOM}


@pytest.fixture
def make(tmp_path):
    made = []

    def make(**keys):
        """With the default, unless `startup` is given."""
        made.append(DaemonProcess(tmp_path, **keys))
        if "startup" not in keys:
            config = Path(made[-1].config)
            config.write_text(config.read_text().replace('startup = "clear"\n', ""))
        return made[-1].start()

    yield make
    for one in made:
        one.stop(signal.SIGKILL)


def ask(daemon, command, path=None):
    with daemon.connect(path) as client:
        client.sendall(command)
        return client.recv(4096)


@pytest.mark.parametrize("version", ["1.2", "2.0"])
def test_a_configuration_that_says_nothing_is_for_the_host(make, version):
    daemon = make(tpm=f'version = "{version}"')
    command = COMMAND[version]
    assert result_of(ask(daemon, command)) == 0
    assert ask(daemon, INIT, daemon.control) == DONE
    assert result_of(ask(daemon, command)) == 0
    assert ask(daemon, INIT_ALONE, daemon.control) == DONE
    assert result_of(ask(daemon, command)) == UNSTARTED[version]
    assert "startup" not in daemon.log()


def test_a_power_on_by_hand_starts_it(make):
    daemon = make(tpm='power-on = "manual"')
    assert result_of(ask(daemon, GET_RANDOM)) == 0x101
    assert ask(daemon, INIT, daemon.control) == DONE
    assert result_of(ask(daemon, GET_RANDOM)) == 0


def test_none_is_none(make):
    daemon = make(startup="none")
    assert result_of(ask(daemon, GET_RANDOM)) == 0x100
    assert ask(daemon, INIT, daemon.control) == DONE
    assert result_of(ask(daemon, GET_RANDOM)) == 0x100


def test_a_startup_that_the_tpm_refuses_is_told(make):
    daemon = make(startup="state")
    assert ask(daemon, INIT, daemon.control) == DONE
    daemon.status()
    assert daemon.log().count("warning: startup state: TPM_RC_VALUE") == 2
    assert result_of(ask(daemon, GET_RANDOM)) == 0x100


def test_a_machine_s_firmware_starts_its_tpm(make):
    """As QEMU does it: a data channel first, and a reset through the same connection."""
    daemon = make()
    ours, theirs = socket.socketpair()
    with daemon.connect(daemon.control) as control, ours:
        with theirs:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [theirs.fileno()]))]
            control.sendmsg([ptm_socket.pack(ptm.SetDataFd())], rights)
            assert control.recv(4) == DONE
        for _reset in range(2):
            control.sendall(INIT)
            assert control.recv(4) == DONE
            for command, result in ((GET_RANDOM, 0x100), (STARTUP_CLEAR, 0), (GET_RANDOM, 0)):
                ours.sendall(command)
                assert result_of(ours.recv(4096)) == result
        assert ask(daemon, INIT, daemon.control) == DONE, "another client"
        ours.sendall(GET_RANDOM)
        assert result_of(ours.recv(4096)) == 0


def test_a_client_of_the_simulator_s_protocol_starts_its_tpm(make):
    port = free_ports()
    daemon = make(socket_keys=f'control = "none"\nmssim = "tcp:{port}"')
    with socket.create_connection(("127.0.0.1", port), 30) as commands:

        def execute(command):
            commands.sendall(struct.pack(">IBI", Ordinal.SEND_COMMAND, 0, len(command)) + command)
            (size,) = struct.unpack(">I", commands.recv(4, socket.MSG_WAITALL))
            return commands.recv(size + 4, socket.MSG_WAITALL)

        assert result_of(execute(GET_RANDOM)) == 0
        with socket.create_connection(("127.0.0.1", port + 1), 30) as platform:
            for ordinal in (Ordinal.SIGNAL_POWER_OFF, Ordinal.SIGNAL_POWER_ON):
                platform.sendall(ordinal.to_bytes(4, "big"))
                assert platform.recv(4) == DONE
        for command, result in ((GET_RANDOM, 0x100), (STARTUP_CLEAR, 0), (GET_RANDOM, 0)):
            assert result_of(execute(command)) == result
    assert "startup" not in daemon.log()


def test_what_goes_on_from_where_it_was_is_not_started_again(make):
    daemon = make()
    assert result_of(ask(daemon, PCR_EXTEND_16)) == 0
    extended = ask(daemon, PCR_READ_16)
    for _each in range(2):
        assert ask(daemon, ptm_socket.pack(ptm.StoreVolatile()), daemon.control) == DONE
        assert ask(daemon, INIT, daemon.control) == DONE
        assert ask(daemon, PCR_READ_16) == extended
    assert ask(daemon, ptm_socket.pack(ptm.StoreVolatile()), daemon.control) == DONE
    assert daemon.stop() == 0
    daemon.start()
    assert ask(daemon, PCR_READ_16) == extended
    assert "startup" not in daemon.log()
