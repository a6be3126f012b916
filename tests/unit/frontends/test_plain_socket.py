"""Our sockets beside the standard library's, whose subclass of the same type in C they are."""

import fcntl
import os
import socket

import pytest

from swtpm_svc.frontends import plain_socket


@pytest.mark.parametrize("module", [plain_socket, socket], ids=["ours", "socket's"])
def test_a_connection(module, tmp_path):
    path = str(tmp_path / "socket")
    with module.socket(module.AF_UNIX, module.SOCK_STREAM) as listening:
        listening.bind(path)
        listening.listen(1)
        with module.socket(module.AF_UNIX, module.SOCK_STREAM) as client:
            client.connect(path)
            listening.setblocking(False)
            connection, _address = listening.accept()
            with connection:
                assert type(connection) is module.socket
                assert connection.gettimeout() is None
                assert (connection.family, connection.type) == (socket.AF_UNIX, socket.SOCK_STREAM)
                assert os.get_inheritable(connection.fileno()) is False
                connection.set_inheritable(True)
                assert fcntl.fcntl(connection, fcntl.F_GETFD) == 0
                client.sendall(b"question")
                assert connection.recv(100) == b"question"
            assert connection.fileno() == -1
            assert client.recv(100) == b""
        with pytest.raises(BlockingIOError):
            listening.accept()


def test_one_of_a_descriptor():
    ours, theirs = socket.socketpair()
    with theirs, plain_socket.socket(fileno=ours.detach()) as found:
        assert (found.family, found.type) == (socket.AF_UNIX, socket.SOCK_STREAM)


def test_its_names_are_those_of_the_standard_library():
    with open(plain_socket.__file__, encoding="utf-8") as file:
        names = [line.split()[-1] for line in file if line.lstrip().startswith("from ")]
    assert len(names) > 20
    for name in names:
        ours, theirs = getattr(plain_socket, name), getattr(socket, name)
        assert ours == theirs or (callable(ours) and callable(theirs))
