"""The mssim protocol on a listening TPM: tpm2-tools, bytes, and peers that misbehave."""

import os
import socket
import struct
import subprocess

import pytest
from socket_service import SocketService, free_ports
from tpm_commands import (
    CREATE_RSA,
    GET_RANDOM,
    PCR_EXTEND_16,
    PCR_READ_16,
    PCR_READ_17,
    STARTUP_CLEAR,
    TPM12_GET_MANUFACTURER,
    result_of,
)

from swtpm_svc.wire import mssim
from swtpm_svc.wire.mssim import Ordinal

h = bytes.fromhex
DONE = bytes(4)


class Client:
    """One client: its connections to both ports."""

    def __init__(self, port):
        self.commands, self.platform = (socket.create_connection(("127.0.0.1", port + n), 20) for n in (0, 1))

    def execute(self, command, locality=0):
        self.send(command, locality)
        return self.response()

    def send(self, command, locality=0):
        self.commands.sendall(struct.pack(">IBI", Ordinal.SEND_COMMAND, locality, len(command)) + command)

    def response(self):
        (size,) = struct.unpack(">I", read(self.commands, 4))
        body = read(self.commands, size + 4)
        assert body[size:] == DONE
        return body[:size]

    def signal(self, ordinal):
        return ask(self.platform, ordinal)

    def close(self):
        self.commands.close()
        self.platform.close()


def read(sock, size):
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        assert piece, f"the connection was closed after {data.hex()}"
        data += piece
    return data


def ask(sock, ordinal, body=b""):
    sock.sendall(ordinal.to_bytes(4, "big") + body)
    return read(sock, 4)


@pytest.fixture
def serve(tmp_path):
    made = []

    def make(**kw):
        port = free_ports()
        service = SocketService(str(tmp_path / "tpm"), mssim=port, **kw)
        made.append(service)

        def connect():
            made.append(Client(port))
            return made[-1]

        service.port, service.connect = port, connect
        return service

    yield make
    for thing in reversed(made):
        thing.close()


# --- its clients
# ----------------------------------------------------------------------------------------------------------


@pytest.mark.needs("tpm2-tools")
def test_tpm2_tools(serve):
    service = serve(power=False)  # they switch it on
    extended = "0x" + "ab" * 32

    def run(*words):
        tcti = f"mssim:host=127.0.0.1,port={service.port}"
        done = subprocess.run([*words, "-T", tcti], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout

    run("tpm2_startup", "-c")
    assert len(run("tpm2_getrandom", "--hex", "8")) == 16
    run("tpm2_pcrextend", f"16:sha256={extended[2:]}")
    value = run("tpm2_pcrread", "sha256:16")
    assert "0x" + "0" * 64 not in value
    run("tpm2_createprimary", "-Q", "-C", "o", "-G", "rsa")
    assert run("tpm2_pcrread", "sha256:16") == value, "a new connection reset the TPM"
    assert service.events.failures == []


# --- byte by byte
# -----------------------------------------------------------------------------------------------------------


def test_power(serve):
    service = serve(power=False)
    client = service.connect()
    assert result_of(client.execute(STARTUP_CLEAR)) == 0x101  # no power: it fails
    assert client.signal(Ordinal.SIGNAL_RESET) == DONE
    assert result_of(client.execute(STARTUP_CLEAR)) == 0x101  # which a reset does not give
    assert client.signal(Ordinal.SIGNAL_POWER_ON) == DONE
    assert result_of(client.execute(STARTUP_CLEAR)) == 0
    fresh = client.execute(PCR_READ_16)[20:]
    client.execute(PCR_EXTEND_16)
    extended = client.execute(PCR_READ_16)[20:]
    assert extended != fresh
    assert client.signal(Ordinal.SIGNAL_POWER_ON) == DONE
    assert client.execute(PCR_READ_16)[20:] == extended  # it had power
    assert client.signal(Ordinal.SIGNAL_RESET) == DONE
    assert result_of(client.execute(PCR_READ_16)) == 0x100  # TPM_RC_INITIALIZE
    client.execute(STARTUP_CLEAR)
    assert client.execute(PCR_READ_16)[20:] == fresh
    assert client.signal(Ordinal.SIGNAL_POWER_OFF) == DONE
    assert result_of(client.execute(GET_RANDOM)) == 0x101
    assert client.signal(Ordinal.SIGNAL_POWER_ON) == DONE
    assert result_of(client.execute(GET_RANDOM)) == 0x100


def test_signals_that_are_so_already_and_signals_that_cannot_be(serve):
    client = serve().connect()
    for ordinal in (Ordinal.SIGNAL_PHYS_PRES_OFF, Ordinal.SIGNAL_CANCEL_ON, Ordinal.SIGNAL_CANCEL_OFF, Ordinal.SIGNAL_NV_ON,
                    Ordinal.SIGNAL_KEY_CACHE_ON, Ordinal.SIGNAL_KEY_CACHE_OFF):  # fmt: skip
        assert client.signal(ordinal) == DONE, ordinal
    for ordinal in (Ordinal.SIGNAL_PHYS_PRES_ON, Ordinal.SIGNAL_NV_OFF, Ordinal.TEST_FAILURE_MODE):
        assert client.signal(ordinal) == h("00000001"), ordinal
    client.commands.sendall(h("0000000f 00000001"))
    assert read(client.commands, 12) == mssim.encode_handshake()
    assert ask(client.commands, Ordinal.SET_ALTERNATIVE_RESULT, h("00000002 abcd")) == DONE
    assert result_of(client.execute(STARTUP_CLEAR)) == 0


def test_the_hash_sequence(serve):
    client = serve().connect()
    client.execute(STARTUP_CLEAR)
    before = client.execute(PCR_READ_17)
    assert ask(client.commands, Ordinal.HASH_START) == DONE
    assert ask(client.commands, Ordinal.HASH_DATA, h("00000003 616263")) == DONE
    assert ask(client.commands, Ordinal.HASH_END) == DONE
    assert client.execute(PCR_READ_17) != before


def test_localities(serve):
    client = serve().connect()
    client.execute(STARTUP_CLEAR)
    assert result_of(client.execute(GET_RANDOM, locality=4)) == 0
    assert result_of(client.execute(GET_RANDOM, locality=5)) == 0x907  # TPM_RC_LOCALITY


@pytest.mark.parametrize("command", [b"", b"\x80", GET_RANDOM[:9], GET_RANDOM + b"\0", bytes(4096)])
def test_commands_of_any_length_get_a_response(serve, command):
    client = serve().connect()
    client.execute(STARTUP_CLEAR)
    assert result_of(client.execute(command)) != 0
    assert result_of(client.execute(GET_RANDOM)) == 0


def test_a_tpm_12(serve):
    client = serve(version="1.2").connect()
    assert client.signal(Ordinal.SIGNAL_POWER_ON) == DONE
    assert result_of(client.execute(h("00c10000000c000000990001"))) == 0
    assert client.execute(TPM12_GET_MANUFACTURER)[-4:] == b"IBM\0"


@pytest.mark.parametrize("port", ["commands", "platform"])
def test_the_end_of_a_session_and_of_the_service(serve, port):
    service = serve()
    client = service.connect()
    sock = getattr(client, port)
    sock.sendall(h("00000014"))
    assert sock.recv(10) == b""
    assert service.shutdowns == []
    sock = getattr(service.connect(), port)
    sock.sendall(h("00000015"))
    assert sock.recv(10) == b""
    assert service.shutdowns == [1]


# --- two clients, long commands
# ---------------------------------------------------------------------------------------------


def test_two_clients_and_a_long_command(serve):
    service = serve()
    one, two = service.connect(), service.connect()
    one.execute(STARTUP_CLEAR)
    one.send(CREATE_RSA)
    one.send(GET_RANDOM)  # it does not wait for the response: this one waits in the connection
    two.send(GET_RANDOM)
    assert two.signal(Ordinal.SIGNAL_NV_ON) == DONE
    assert result_of(one.response()) == 0
    assert result_of(two.response()) == 0
    assert result_of(one.response()) == 0


def test_cancel(serve):
    """libtpms looks only between a key's primes: about one try in five is in time."""
    client = serve().connect()
    client.execute(STARTUP_CLEAR)
    for _ in range(200):
        client.send(CREATE_RSA)
        assert client.signal(Ordinal.SIGNAL_CANCEL_ON) == DONE
        assert client.signal(Ordinal.SIGNAL_CANCEL_OFF) == DONE
        response = client.response()
        if result_of(response) == 0x909:  # TPM_RC_CANCELED
            break
        client.execute(h("80010000000e00000165") + response[10:14])
    else:
        pytest.fail("no command was cancelled")
    assert result_of(client.execute(GET_RANDOM)) == 0


def test_power_off_waits_for_the_long_command(serve):
    client = serve().connect()
    client.execute(STARTUP_CLEAR)
    client.send(CREATE_RSA)
    client.platform.sendall(h("00000002 00000001"))
    assert result_of(client.response()) == 0
    assert read(client.platform, 8) == bytes(8)
    assert result_of(client.execute(GET_RANDOM)) == 0x100


# --- peers that misbehave
# -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("port", ["commands", "platform"])
@pytest.mark.parametrize("data", [h("00000000"), h("00000012"), h("ffffffff"), h("00000000") * 30, os.urandom(1 << 20)])
def test_wrong_ordinals_end_that_connection_alone(serve, port, data):
    service = serve()
    client, other = service.connect(), service.connect()
    sock = getattr(client, port)
    received = b""
    try:
        sock.sendall(data)
        while piece := sock.recv(100):
            received += piece
    except OSError:
        pass
    assert received in (b"", h("00000001"))
    assert len(data) > 100 or received
    assert result_of(other.execute(STARTUP_CLEAR)) == 0
    assert service.events.failures == []


def test_ordinals_of_the_other_port_and_messages_that_are_too_long(serve):
    service = serve()
    for port, data in (("platform", h("00000008 00 0000000c") + GET_RANDOM), ("commands", h("00000002")),
                       ("commands", h("00000008 00 00001001")), ("commands", h("00000006 ffffffff"))):  # fmt: skip
        sock = getattr(service.connect(), port)
        sock.sendall(data)
        assert read(sock, 4) == h("00000001")
    assert result_of(service.connect().execute(STARTUP_CLEAR)) == 0


def test_messages_byte_by_byte(serve):
    client = serve().connect()
    for byte in struct.pack(">IBI", 8, 0, len(STARTUP_CLEAR)) + STARTUP_CLEAR:
        client.commands.sendall(bytes([byte]))
    assert result_of(client.response()) == 0
    for byte in h("00000001 0000000b"):
        client.platform.sendall(bytes([byte]))
    assert read(client.platform, 8) == bytes(8)


def test_a_client_that_dies_in_the_middle_does_not_disturb_the_next(serve):
    service = serve()
    other = service.connect()
    other.execute(STARTUP_CLEAR)
    for data in (h("000000"), h("00000008 00 0000000c") + GET_RANDOM[:7], h("00000006 00000fff"),
                 struct.pack(">IBI", 8, 0, len(CREATE_RSA)) + CREATE_RSA):  # fmt: skip
        client = service.connect()
        client.commands.sendall(data)
        client.platform.sendall(h("0000"))
        client.close()
        assert result_of(other.execute(GET_RANDOM)) == 0
    service.wait_for_connections(2)
    assert service.events.failures == []
