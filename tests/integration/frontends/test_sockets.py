"""The socket front end: swtpm's protocol byte by byte, its clients, and peers that misbehave."""

import array
import os
import socket
import struct
import subprocess
import time

import pytest
from conversations import TPM2, TPM12
from socket_service import SocketService, free_ports
from tpm_commands import (
    CREATE_RSA,
    GET_RANDOM,
    PCR_EXTEND_16,
    PCR_READ_16,
    STARTUP_CLEAR,
)
from unix_listener import listens

from swtpm_svc.config.addresses import parse_address
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.frontends.sockets.socket_frontend import MAX_CONNECTIONS_OF_ONE
from swtpm_svc.tpm import libtpms
from swtpm_svc.tpm.controller import Rights
from swtpm_svc.wire import ptm, ptm_socket

h = bytes.fromhex


@pytest.fixture
def serve(tmp_path):
    made = []

    def make(**kw):
        made.append(SocketService(str(tmp_path / "tpm"), **kw))
        return made[-1]

    yield make
    for service in made:
        service.close()


def connect(path):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    sock.settimeout(20)
    return sock


def exchange(sock, data, size=65536):
    sock.sendall(data)
    return sock.recv(size)


def control(sock, request):
    """A control request's reply, as a value."""
    sock.sendall(ptm_socket.pack(request))
    received = b""
    while True:
        received += sock.recv(65536)
        reply = ptm_socket.unpack(request, received)
        if reply is not None:
            return reply


# --- differential: the same bytes to the distribution's swtpm and to us
# ------------------------------------------------


def talk(control_sock, data_sock, table):
    answers = []
    for channel, data, what in table:
        sock = control_sock if channel == "c" else data_sock
        try:
            answers.append((what, exchange(sock, h(data))))
        except OSError as error:
            answers.append((what, type(error).__name__))
    return answers


def comparable(what, answer):
    """What must be the same: everything but random bytes."""
    if what in ("TPM2_GetRandom", "with a send-command prefix", "with a prefix that says locality 4"):
        return what, answer[:-12] if what != "TPM2_GetRandom" else answer[:12], len(answer)
    return what, answer


@pytest.mark.needs("swtpm 0.7")
@pytest.mark.parametrize(("version", "table"), [("2.0", TPM2), ("1.2", TPM12)], ids=["2.0", "1.2"])
def test_the_same_bytes_get_the_same_answers_as_from_swtpm(serve, tmp_path, version, table):
    state = tmp_path / "swtpm"
    state.mkdir()
    theirs = str(tmp_path / "theirs")
    words = ["swtpm", "socket", *(["--tpm2"] if version == "2.0" else []), "--tpmstate", f"dir={state}"]
    words += ["--ctrl", f"type=unixio,path={theirs}.ctrl", "--server", f"type=unixio,path={theirs}"]
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not (listens(theirs) and listens(f"{theirs}.ctrl")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        expected = talk(connect(f"{theirs}.ctrl"), connect(theirs), table)
    finally:
        process.kill()
        process.wait()
    ours = serve(version=version, power=False)
    found = talk(connect(ours.control_path), connect(ours.path), table)
    assert [comparable(*answer) for answer in found] == [comparable(*answer) for answer in expected]
    assert ours.shutdowns == [1]


@pytest.mark.parametrize(("version", "bits"), [("2.0", 0x1FFFF), ("1.2", 0x17FFF)])
def test_capabilities(serve, version, bits):
    sock = connect(serve(version=version).control_path)
    assert exchange(sock, h("00000001")) == struct.pack(">II", 0, bits)
    assert exchange(sock, h("00000013 00000000")) == bytes(4)  # LOCK_STORAGE: it is locked


# --- its clients
# ----------------------------------------------------------------------------------------------------------


@pytest.mark.needs("swtpm_ioctl")
def test_the_distributions_swtpm_ioctl(serve, tmp_path):
    port = free_ports()
    service = serve(tcp=port)
    data = connect(service.path)
    exchange(data, STARTUP_CLEAR)
    exchange(data, PCR_EXTEND_16)
    extended = exchange(data, PCR_READ_16)

    def ioctl(*words, tcp=False):
        where = ("--tcp", f"127.0.0.1:{port + 1}") if tcp else ("--unix", service.control_path)
        done = subprocess.run(["swtpm_ioctl", *where, *words], capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout + done.stderr

    assert "0x1ffff" in ioctl("-c")
    assert "0x1ffff" in ioctl("-c", tcp=True)
    for words in (("-e",), ("-l", "4"), ("-l", "0"), ("-r", "3"), ("-C",), ("-g",), ("--info", "1"), ("-v",)):
        ioctl(*words)
    for blob in ("permanent", "volatile"):
        ioctl("--save", blob, str(tmp_path / blob))
    ioctl("--stop")
    for blob in ("permanent", "volatile"):
        ioctl("--load", blob, str(tmp_path / blob))
    ioctl("-i")
    assert exchange(data, PCR_READ_16) == extended
    ioctl("-h", "abcd", tcp=True)
    refused = subprocess.run(
        ["swtpm_ioctl", "--tcp", f"127.0.0.1:{port + 1}", "--save", "permanent", str(tmp_path / "p")],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert refused.returncode != 0  # nobody knows who is at the other end of a TCP connection


@pytest.mark.needs("tpm2-tools")
@pytest.mark.parametrize("way", ["unix", "tcp"])
def test_tpm2_tools(serve, way):
    port = free_ports()
    service = serve(tcp=port)
    tcti = f"swtpm:path={service.path}" if way == "unix" else f"swtpm:host=127.0.0.1,port={port}"
    for words in (("tpm2_startup", "-c"), ("tpm2_getrandom", "--hex", "8"), ("tpm2_pcrread", "sha256:0"),
                  ("tpm2_createprimary", "-Q", "-C", "o", "-G", "rsa")):  # fmt: skip
        done = subprocess.run([*words, "-T", tcti], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, (words, done.stderr)


def test_a_data_socket_that_comes_over_the_control_channel(serve):
    """As QEMU does it, with the bodies that QEMU sends."""
    service = serve(power=False)
    sock = connect(service.control_path)
    ours, theirs = socket.socketpair()
    ours.settimeout(20)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [theirs.fileno()]))]
    sock.sendmsg([h("00000010")], rights)
    assert sock.recv(100) == bytes(4)
    theirs.close()
    assert exchange(sock, h("00000002 00000000")) == bytes(4)
    assert exchange(sock, h("00000005 00000000")) == bytes(4)  # SET_LOCALITY with three bytes of padding
    assert exchange(ours, STARTUP_CLEAR)[6:10] == bytes(4)
    assert len(exchange(ours, GET_RANDOM)) == 20
    ours.close()
    assert exchange(sock, h("0000000f")) == bytes(8)


def test_a_whole_state_blob_comes_in_one_reply(serve):
    service = serve()
    exchange(connect(service.path), STARTUP_CLEAR)
    sock = connect(service.control_path)
    whole = control(sock, ptm.GetStateBlob(0, 2, 0))
    assert whole.total_length == len(whole.data) > 8000
    rest = control(sock, ptm.GetStateBlob(0, 2, 5000))
    assert rest.total_length == len(rest.data) == len(whole.data) - 5000


def test_a_long_command_keeps_nobody_from_asking(serve):
    service = serve()
    data, other = connect(service.path), connect(service.path)
    exchange(data, STARTUP_CLEAR)
    data.sendall(CREATE_RSA)
    sock = connect(service.control_path)
    assert exchange(sock, h("00000001"))[:4] == bytes(4)
    other.sendall(GET_RANDOM)
    sock.sendall(h("00000004") + h("0000000f"))  # the first waits for the TPM, the second for the first
    assert data.recv(4096)[6:10] == bytes(4)
    assert len(other.recv(4096)) == 20
    received = b""
    while len(received) < 16:
        received += sock.recv(100)
    assert received[:4] + received[8:] == bytes(12)


# --- rights
# ------------------------------------------------------------------------------------------------------------------


def test_without_rights_control_is_refused_and_the_tpm_can_be_used(serve):
    service = serve(rights=Rights(control=False, secrets=False))
    sock, data = connect(service.control_path), connect(service.path)
    assert exchange(sock, h("00000001"))[:4] == bytes(4)
    for request in (ptm.Init(0), ptm.Stop(), ptm.SetLocality(1), ptm.StoreVolatile(), ptm.Shutdown(), ptm.HashStart()):
        assert control(sock, request).tpm_result == 0x09
    assert control(sock, ptm.GetStateBlob(0, 1, 0)).tpm_result == 0x09
    assert exchange(data, STARTUP_CLEAR)[6:10] == bytes(4)
    prefixed = h("00000008 02 0000000c") + GET_RANDOM
    assert exchange(data, prefixed) == h("0000000a 80010000000a00000907 00000000")
    assert len(service.events.refusals) == 7


def test_the_refusal_of_a_state_blob_has_all_fields(serve):
    """QEMU waits for them. Without, a migration that is refused leaves the guest hanging for good."""
    service = serve(rights=Rights(control=True, secrets=False))
    sock = connect(service.control_path)
    assert exchange(sock, ptm_socket.pack(ptm.GetStateBlob(1, 1, 0))) == h("00000009") + bytes(12)


# --- peers that misbehave
# ------------------------------------------------------------------------------------------------------


def still_serves(service):
    assert exchange(connect(service.control_path), h("0000000f")) == bytes(8)


@pytest.mark.parametrize(
    "data", [h("000000ff"), b"\xff" * 100, os.urandom(1 << 20), h("0000000d 00000000 00000001 ffffffff")]
)
def test_garbage_on_the_control_channel_ends_that_connection_alone(serve, data):
    service = serve()
    sock = connect(service.control_path)
    try:
        sock.sendall(data)
        while sock.recv(65536):
            pass
    except OSError:
        pass
    still_serves(service)
    assert service.events.failures == []


def test_control_requests_byte_by_byte(serve):
    sock = connect(serve().control_path)
    for byte in h("00000011 00000000 0000000f"):
        sock.sendall(bytes([byte]))
    received = b""
    while len(received) < 24:
        received += sock.recv(100)
    assert received == struct.pack(">4I", 0, *libtpms.set_buffer_size(0)) + bytes(8)


def test_a_command_byte_by_byte(serve):
    service = serve()
    data = connect(service.path)
    exchange(data, STARTUP_CLEAR)
    for byte in GET_RANDOM:
        data.sendall(bytes([byte]))
    assert len(data.recv(100)) == 20


def test_a_peer_that_dies_in_the_middle_does_not_disturb_the_next(serve):
    service = serve()
    for path, data in (
        (service.control_path, h("0000000d 000000")),
        (service.path, GET_RANDOM[:7]),
        (service.path, CREATE_RSA),
    ):
        sock = connect(path)
        sock.sendall(data)
        sock.close()
    still_serves(service)
    assert len(exchange(connect(service.path), GET_RANDOM)) == 10


def test_descriptors_that_are_no_sockets_are_refused_and_closed(serve):
    service = serve()
    sock = connect(service.control_path)
    before = len(os.listdir("/proc/self/fd"))
    with open("/dev/null", "rb") as null:
        for _ in range(30):
            sock.sendmsg(
                [h("00000010")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null.fileno()] * 3))]
            )
            assert int.from_bytes(sock.recv(4), "big") != 0
    assert len(os.listdir("/proc/self/fd")) < before + 30
    still_serves(service)


def test_connections_of_one_user_have_a_limit(serve):
    service = serve()
    socks = []
    for _ in range(MAX_CONNECTIONS_OF_ONE + 5):
        socks.append(connect(service.control_path))
    ended = 0
    for sock in socks[MAX_CONNECTIONS_OF_ONE:]:
        sock.settimeout(5)
        ended += sock.recv(10) == b""
    assert ended == 5
    assert exchange(socks[0], h("0000000f")) == bytes(8)
    for sock in socks:
        sock.close()
    deadline = time.monotonic() + 5
    while service.call(lambda: service.frontend.connections):
        assert time.monotonic() < deadline
    still_serves(service)


def test_a_peer_that_does_not_read_is_let_go(serve):
    service = serve()
    exchange(connect(service.path), STARTUP_CLEAR)
    sock = connect(service.control_path)
    request = ptm_socket.pack(ptm.GetStateBlob(0, 2, 0))
    try:
        for _ in range(2000):
            sock.sendall(request)
    except OSError:
        pass
    still_serves(service)


# --- addresses
# -----------------------------------------------------------------------------------------------------------------


def test_an_address_in_use_is_named(serve, tmp_path):
    service = serve()
    with pytest.raises(VtpmError) as caught:
        service.frontend.listen(parse_address(service.control_path), "control", mode=0o600, gid=None, passed=None)
    assert caught.value.code is Code.SOCKET_UNAVAILABLE
    assert service.control_path in caught.value.message
    (tmp_path / "file").write_text("kept")
    with pytest.raises(VtpmError, match="another kind"):
        service.frontend.listen(parse_address(str(tmp_path / "file")), "control", mode=0o600, gid=None, passed=None)
    assert (tmp_path / "file").read_text() == "kept"


def test_a_socket_file_of_a_dead_process_is_replaced(serve, tmp_path):
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(tmp_path / "tpm.ctrl"))
    dead.close()
    service = serve()
    still_serves(service)
    assert os.stat(service.control_path).st_mode & 0o777 == 0o600
