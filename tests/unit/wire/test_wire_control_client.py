"""The control requests of swtpm_ioctl are the bytes that the protocol's own modules make and take."""

import _socket
import socket
import threading

import pytest
from wire_values import REQUESTS, replies_to

from swtpm_svc.cli.classic import control_client
from swtpm_svc.cli.classic.control_client import DeviceClient, SocketClient
from swtpm_svc.wire import ptm, ptm_ioctl, ptm_socket


def taken_apart(request):
    numbers, data = ptm.split(request)
    return ptm.command_of(request).name, numbers[:-1] if ptm.has_data(type(request)) else numbers, data


def answered(theirs, reply, received):
    def run():
        received.append(theirs.recv(1 << 16))
        theirs.sendall(reply)
        theirs.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def exchanged(request, reply):
    """What is sent for `request`, and what is made of `reply`, both by socket."""
    ours, theirs = socket.socketpair()
    received = []
    with theirs:
        thread = answered(theirs, reply, received)
        client = _socket.socket(fileno=ours.detach())
        try:
            return received, SocketClient(client).exchange(*taken_apart(request))
        finally:
            client.close()
            thread.join()


@pytest.mark.parametrize("request_", REQUESTS, ids=repr)
def test_a_message_and_its_reply(request_):
    for reply in replies_to(request_):
        received, (numbers, data) = exchanged(request_, ptm_socket.encode(reply))
        assert received == [ptm_socket.pack(request_)]
        command = ptm.command_of(request_)
        if len(numbers) == 1:
            assert numbers[0] == reply[0]
        else:
            assert ptm.join_reply(command, numbers, data) == ptm_socket.unpack(request_, ptm_socket.encode(reply))


@pytest.mark.parametrize("request_", REQUESTS, ids=repr)
def test_an_ioctl_and_its_reply(request_, monkeypatch):
    for reply in replies_to(request_):
        called = []

        def ioctl(descriptor, number, buffer, mutate, reply=reply, called=called):
            called.append((descriptor, number, bytes(buffer), mutate))
            buffer[:] = ptm_ioctl.encode(request_, reply)
            return 0

        monkeypatch.setattr(control_client.fcntl, "ioctl", ioctl)
        numbers, data = DeviceClient(7).exchange(*taken_apart(request_))
        number, buffer = ptm_ioctl.pack(request_)
        assert called == [(7, number, bytes(buffer), True)]
        understood = ptm_ioctl.unpack(request_, ptm_ioctl.encode(request_, reply))
        if isinstance(understood, ptm.Result):
            assert numbers[0] == understood.tpm_result
        else:
            assert ptm.join_reply(ptm.command_of(request_), numbers, data) == understood


@pytest.mark.parametrize("reply", [b"", b"\0\0\0", bytes(12), b"\0" * 8 + b"\0\0\0\5\0\0\0\5abcd"])
def test_a_reply_that_is_cut_off_is_an_error(reply):
    with pytest.raises(ConnectionResetError):
        exchanged(ptm.GetStateBlob(1, 1, 0), reply)


def test_a_peer_may_not_announce_what_no_tpm_has():
    with pytest.raises(OSError, match="Bad message"):
        exchanged(ptm.GetStateBlob(1, 1, 0), b"\0" * 8 + b"\xff" * 8)
