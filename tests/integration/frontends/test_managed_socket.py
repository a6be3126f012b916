"""The managed data socket: each connection is a space of its own, beside raw connections to the same TPM."""

import os
import shlex
import socket
import subprocess
import sys
import time

import pytest
from socket_service import SocketService
from space_client import AUDIT, OWNER, PARENT, HmacSession, SpaceClient, command, sized, uint32
from space_model import Refused
from tpm_commands import CREATE_CHILD, CREATE_RSA, EMPTY_PASSWORD, GET_RANDOM, STARTUP_CLEAR, result_of

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.wire import ptm, ptm_socket
from swtpm_svc.wire.results import TpmRc

h = bytes.fromhex

FIRST = 0x80FFFFFF
OBJECTS, SESSIONS, SAVED = 0x80000000, 0x02000000, 0x03000000


class Connection(SpaceClient):
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(path)
        super().__init__(self.exchange)

    def exchange(self, whole):
        self.socket.sendall(whole)
        return self.socket.recv(4096)

    def close(self):
        self.socket.close()


@pytest.fixture
def service(tmp_path):
    made = SocketService(str(tmp_path / "tpm"))
    made.call(lambda: made.tpm.startup("clear"))
    yield made
    made.close()


@pytest.fixture
def connect(service):
    made = []

    def connection(kind=".managed"):
        made.append(Connection(service.path + kind))
        return made[-1]

    yield connection
    for one in made:
        one.close()


def control(service, request):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(service.control_path)
        sock.sendall(ptm_socket.pack(request))
        received = b""
        while (reply := ptm_socket.unpack(request, received)) is None:
            received += sock.recv(65536)
        return reply


def loaded(service):
    """What the TPM itself has, without anybody's giving way."""

    def look():
        hook, service.tpm.give_way = service.tpm.give_way, None
        try:
            bare = SpaceClient(service.execute)
            return [handle for first in (OBJECTS, SESSIONS, SAVED) for handle in bare.listed(first)]
        finally:
            service.tpm.give_way = hook

    return service.call(look)


def wait_until_empty(service):
    deadline = time.monotonic() + 20
    while left := loaded(service):
        assert time.monotonic() < deadline, [hex(handle) for handle in left]
        time.sleep(0.02)


def test_each_connection_has_objects_of_its_own(service, connect):
    one, two = connect(), connect()
    handles = [
        [client.load_external(number + 10 * place) for number in range(5)] for place, client in enumerate((one, two))
    ]
    assert handles == [[FIRST - number for number in range(5)]] * 2
    for number in range(5):
        assert (one.unique(FIRST - number), two.unique(FIRST - number)) == (number, 10 + number)
    three = connect()
    assert three.refusal(0x173, FIRST) == TpmRc.REFERENCE_H0
    assert three.flush(FIRST) == TpmRc.HANDLE | 0x140
    assert (three.listed(OBJECTS), one.listed(OBJECTS)) == ([], sorted(handles[0]))


def test_all_of_it_goes_with_the_connection(service, connect):
    client = connect()
    client.load_external(1)
    client.start()
    client.start(0)
    assert len(loaded(service)) == 3
    client.close()
    wait_until_empty(service)


def test_nothing_is_left_of_a_client_that_dies_in_the_middle_of_a_command(service, connect):
    """What waits for the TPM then is not executed any more."""
    client, other = connect(), connect()
    client.create_parent()
    client.socket.sendall(CREATE_RSA)
    other.socket.sendall(CREATE_RSA)
    other.close()
    client.close()
    service.wait_for_connections(0)
    wait_until_empty(service)
    assert service.events.failures == []


def test_the_raw_socket_finds_the_tpm_as_if_there_were_no_spaces(service, connect):
    """Also by what is served in C where nobody has to give way."""
    raw, client = connect(""), connect()
    kept = [raw.load_external(90)]
    numbers = [(client.load_external(number), number) for number in range(4)]
    session = client.start()
    for _ in range(3):
        kept += [raw.load_external(number) for number in (91, 92)]
        assert kept == raw.listed(OBJECTS) == [OBJECTS, OBJECTS + 1, OBJECTS + 2]
        assert [client.unique(handle) for handle, _number in numbers] == [number for _handle, number in numbers]
        client.digest(session)
        assert [raw.unique(handle) for handle in kept] == [90, 91, 92]
        for handle in kept[1:]:
            raw.flush(handle)
        del kept[1:]


def test_the_service_itself_finds_room_too(service, connect):
    """It asks for what is persistent, which takes a place while it is read."""
    client = connect()
    parent = client.create_parent()
    persistent = 0x81000001
    owners = client.handle(0x131, OWNER, parameters=PARENT, auth=EMPTY_PASSWORD)
    client(0x120, OWNER, owners, parameters=uint32(persistent), auth=EMPTY_PASSWORD)
    for number in range(3):
        client.load_external(number)
    answer = service.call(lambda: service.tpm.ask(command(0x173, persistent)))
    assert result_of(answer) == 0
    assert result_of(client.exchange(command(0x173, parent))) == 0


def test_a_reset_takes_all_of_it(service, connect):
    client = connect()
    client.load_external(1)
    client.start()
    assert control(service, ptm.Init(ptm.INIT_FLAG_DELETE_VOLATILE)).tpm_result == 0
    assert result_of(client.exchange(STARTUP_CLEAR)) == 0
    assert client.refusal(0x173, FIRST) == TpmRc.REFERENCE_H0
    assert client.listed(SESSIONS) == []
    assert client.load_external(2) == FIRST
    client.close()
    wait_until_empty(service)


@pytest.mark.parametrize(
    "request_",
    [ptm.StoreVolatile(), ptm.GetStateBlob(ptm.STATE_FLAG_DECRYPTED, ptm.BlobType.VOLATILE, 0), ptm.HashStart()],
    ids=lambda one: type(one).__name__,
)
def test_what_is_taken_elsewhere_has_nothing_of_the_spaces(service, connect, request_):
    client = connect()
    client.load_external(7)
    session = client.start()
    assert control(service, request_).tpm_result == 0
    assert [
        handle for handle in loaded(service) if handle >> 24 != SAVED >> 24 and handle >> 24 != SESSIONS >> 24
    ] == []
    if isinstance(request_, ptm.HashStart):
        assert control(service, ptm.HashEnd()).tpm_result == 0
    assert client.unique(FIRST) == 7
    client.digest(session)


def test_a_command_that_could_not_be_stored_has_not_ended_its_session(service, connect):
    """The TPM is the one before it, which has the session still."""
    client = connect()
    audit = HmacSession(client)
    handle = int.from_bytes(audit.handle, "big")
    body = sized(b"") + sized(h("01500000 000b 00020012 0000 0008"))
    service.storage.failure = VtpmError(Code.STATE_FULL, "a test")
    with pytest.raises(Refused, match=str(int(TpmRc.FAILURE))):
        audit(0x12A, [OWNER], [uint32(OWNER)], parameters=body, attributes=AUDIT, first=True)
    service.storage.failure = None
    assert handle in client.listed(SESSIONS)
    assert client.flush(handle) == 0


def test_a_locality_comes_with_a_command(service, connect):
    client = connect()
    client.load_external(3)

    def at(locality, whole):
        client.socket.sendall(h("00000008") + bytes([locality]) + len(whole).to_bytes(4, "big") + whole)
        answer = client.socket.recv(4096)
        assert answer[-4:] == bytes(4)
        return answer[4:-4]

    reset = command(0x13D, 21, auth=EMPTY_PASSWORD)
    assert [result_of(at(locality, reset)) for locality in (0, 2)] == [TpmRc.LOCALITY, 0]
    assert result_of(client.exchange(reset)) == TpmRc.LOCALITY
    assert client.unique(FIRST) == 3


def test_long_commands_run_beside_short_ones(service, connect):
    client, other = connect(), connect()
    parent = client.create_parent()
    client.socket.sendall(h("8002") + CREATE_CHILD[2:10] + uint32(parent) + CREATE_CHILD[14:])
    other.load_external(1)
    assert result_of(client.socket.recv(4096)) == 0
    assert result_of(other.exchange(GET_RANDOM)) == 0


#: What `socat - UNIX-CONNECT:PATH` does: one connection for all commands of a process. tpm2-tss' TCTI for swtpm makes a
#: new connection for each.
BRIDGE = """
import os, select, socket, sys
tpm = socket.socket(socket.AF_UNIX)
tpm.connect(sys.argv[1])
while True:
    ready, _, _ = select.select([0, tpm], [], [])
    for one in ready:
        data = os.read(0, 4096) if one == 0 else tpm.recv(4096)
        if not data:
            sys.exit()
        tpm.sendall(data) if one == 0 else os.write(1, data)
"""


@pytest.mark.needs("tpm2-tools")
def test_tpm2_tools_in_processes_of_their_own(service, tmp_path):
    """What a host's user types first, and again."""
    bridge, folder = tmp_path / "bridge.py", tmp_path / "work"
    bridge.write_text(BRIDGE)
    folder.mkdir()
    words = shlex.join([sys.executable, "-I", "-S", str(bridge), f"{service.path}.managed"])
    environment = {**os.environ, "TPM2TOOLS_TCTI": f"cmd:exec {words}"}

    def tool(*words):
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, (words, done.stderr)

    for _ in range(200):
        tool("tpm2_createprimary", "-Q", "-G", "ecc", "-c", "primary")
        tool("tpm2_create", "-Q", "-C", "primary", "-G", "ecc", "-u", "public", "-r", "private")
        tool("tpm2_load", "-Q", "-C", "primary", "-u", "public", "-r", "private", "-c", "loaded")
    wait_until_empty(service)
