"""Clients that write a message in pieces over TCP, without TCP_NODELAY: nobody waits for a delayed acknowledgement."""

import socket
import threading
import time

import pytest
from socket_service import SocketService, free_ports
from tpm_commands import GET_RANDOM

from swtpm_svc.cli.tpm_connection import TpmConnection, find_tpm
from swtpm_svc.wire import mssim, ptm, ptm_socket

pytestmark = pytest.mark.needs("binding")


def in_pieces(port, pieces, answer_size, count=10):
    """Seconds a message takes that is sent as clients do which know nothing of TCP_NODELAY."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.settimeout(20)
        begin = time.monotonic()
        for _ in range(count):
            for piece in pieces:
                client.send(piece)
            received = b""
            while len(received) < answer_size:
                received += client.recv(answer_size - len(received))
        return (time.monotonic() - begin) / count


def test_nor_does_a_response_in_pieces_to_vtpmctl():
    response = bytes.fromhex("80010000001400000000") + bytes(10)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            peer, _address = server.accept()
            with peer:
                while peer.recv(100):
                    for piece in (response[:4], response[4:12], response[12:]):
                        peer.send(piece)

        thread = threading.Thread(target=serve)
        thread.start()
        port = server.getsockname()[1]
        with TpmConnection(find_tpm(f"tcp:{port}")) as tpm:
            begin = time.monotonic()
            for _ in range(10):
                assert tpm.execute(GET_RANDOM) == response
            assert time.monotonic() - begin < 0.2
        thread.join(10)


@pytest.fixture
def over_tcp(tmp_path):
    port, simulator = free_ports(), free_ports()
    service = SocketService(str(tmp_path / "sock"), tcp=port, mssim=simulator)
    yield port, simulator
    service.close()


@pytest.mark.parametrize("way", ["data", "data with a locality", "control", "mssim"])
def test_a_message_in_pieces_does_not_wait_for_an_acknowledgement(over_tcp, way):
    """The kernel acknowledges after 40 ms what nothing is sent back for, and until then a piece waits for the one
    before."""
    port, simulator = over_tcp
    config = ptm_socket.pack(ptm.GetConfig())
    ways = {
        "data": (port, [GET_RANDOM[:2], GET_RANDOM[2:6], GET_RANDOM[6:]], 10),
        "data with a locality": (
            port,
            [bytes.fromhex("00000008"), b"\0", len(GET_RANDOM).to_bytes(4, "big"), GET_RANDOM],
            18,
        ),
        "control": (port + 1, [config[:2], config[2:3], config[3:]], 8),
        "mssim": (
            simulator,
            [mssim.Ordinal.SEND_COMMAND.to_bytes(4, "big"), b"\0", len(GET_RANDOM).to_bytes(4, "big"), GET_RANDOM],
            18,
        ),
    }
    assert in_pieces(*ways[way]) < 0.02
