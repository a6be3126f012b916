"""The codecs against programs that others wrote: the distribution's swtpm and swtpm_ioctl, over UNIX sockets."""

import socket
import subprocess
import threading
import time

import pytest

from swtpm_svc.wire import command_codes, ptm, ptm_socket, return_codes, tpm_header

VENDOR_BIT = 0x20000000  # TPMA_CC: a vendor's command
STARTUP_CLEAR = tpm_header.encode_command(tpm_header.ST_NO_SESSIONS, 0x144, bytes.fromhex("0000"))


class Peer:
    """swtpm's two sockets."""

    def __init__(self, folder):
        self.control, self.data = (socket.socket(socket.AF_UNIX) for _ in range(2))
        for channel, path in ((self.control, "control"), (self.data, "data")):
            channel.settimeout(20)
            connect(channel, str(folder / path))

    def ask(self, request):
        self.control.sendall(ptm_socket.pack(request))
        data = b""
        while (reply := ptm_socket.unpack(request, data)) is None:
            data += self.control.recv(65536)
        return reply

    def execute(self, command):
        self.data.sendall(command)
        response = self.data.recv(4096)
        return tpm_header.decode_header(response), response[tpm_header.HEADER_SIZE :]


def connect(channel, path):
    """A socket's file is there before anybody listens on it."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return channel.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            assert time.monotonic() < deadline, f"nobody listens at {path}"
            time.sleep(0.01)


@pytest.fixture
def swtpm(tmp_path):
    (tmp_path / "state").mkdir()
    options = ["--tpm2", "--tpmstate", f"dir={tmp_path}/state", "--flags", "not-need-init"]
    sockets = ["--ctrl", f"type=unixio,path={tmp_path}/control", "--server", f"type=unixio,path={tmp_path}/data"]
    process = subprocess.Popen(
        ["swtpm", "socket", *options, *sockets], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield Peer(tmp_path)
    finally:
        process.kill()
        process.wait()


@pytest.mark.needs("swtpm")
def test_every_command_is_understood_by_swtpm(swtpm):
    ok = ptm.Result(0)
    needed = ptm.Capability.INIT | ptm.Capability.HASHING | ptm.Capability.GET_INFO
    assert swtpm.ask(ptm.GetCapability()).capabilities & needed == needed
    header, _ = swtpm.execute(STARTUP_CLEAR)
    assert header == tpm_header.Header(tpm_header.ST_NO_SESSIONS, 10, 0)
    header, _ = swtpm.execute(STARTUP_CLEAR)
    assert return_codes.describe("2.0", header.code).startswith("TPM_RC_INITIALIZE: ")
    assert swtpm.ask(ptm.GetTpmEstablished()) == ptm.EstablishedReply(0, 0)
    for request in (ptm.HashStart(), ptm.HashData(b"abc"), ptm.HashData(b""), ptm.HashEnd()):
        assert swtpm.ask(request) == ok
    assert swtpm.ask(ptm.SetLocality(2)) == ok
    assert return_codes.describe("1.2", swtpm.ask(ptm.SetLocality(9)).tpm_result).startswith("TPM_BAD_LOCALITY: ")
    assert swtpm.ask(ptm.ResetTpmEstablished(3)) == ok
    assert swtpm.ask(ptm.CancelTpmCommand()) == ok
    assert swtpm.ask(ptm.GetConfig()) == ptm.ConfigReply(0, 0)
    sizes = swtpm.ask(ptm.SetBufferSize(0))  # which ones is its libtpms' affair
    assert sizes.tpm_result == 0
    assert 1024 < sizes.minimum < sizes.size == sizes.maximum <= 65536
    assert swtpm.ask(ptm.StoreVolatile()) == ok
    info = swtpm.ask(ptm.GetInfo(ptm.InfoFlag.SPECIFICATION))
    assert info.data.startswith(b'{"TPMSpecification":{"family":"2.0"')
    assert info.data.endswith(b"}\0")
    assert info.total_length == len(info.data)
    volatile = swtpm.ask(ptm.GetStateBlob(0, ptm.BlobType.VOLATILE))
    rest = swtpm.ask(ptm.GetStateBlob(0, ptm.BlobType.VOLATILE, 100))
    assert (
        len(rest.data) == len(volatile.data) - 100
    )  # the bytes are made anew for each request, and have a clock in them
    assert (volatile.total_length, rest.total_length) == (len(volatile.data), len(volatile.data) - 100)
    assert swtpm.ask(ptm.Stop()) == ok
    assert swtpm.ask(ptm.SetStateBlob(0, ptm.BlobType.VOLATILE, volatile.data)) == ok
    assert swtpm.ask(ptm.Init()) == ok
    assert swtpm.ask(ptm.SetDataFd()).tpm_result != 0  # there was no descriptor
    assert swtpm.ask(ptm.Shutdown()) == ok


@pytest.mark.needs("swtpm")
def test_every_command_that_the_tpm_lists_has_a_name(swtpm):
    swtpm.execute(STARTUP_CLEAR)
    all_commands = bytes.fromhex("00000002 0000011f 00000200")  # TPM_CAP_COMMANDS, from the first, at most 512
    header, body = swtpm.execute(tpm_header.encode_command(tpm_header.ST_NO_SESSIONS, 0x17A, all_commands))
    assert header.code == 0
    attributes = [int.from_bytes(body[at : at + 4], "big") for at in range(9, len(body), 4)]
    codes = [value & 0xFFFF for value in attributes if not value & VENDOR_BIT]
    assert len(codes) > 90
    assert [code for code in codes if code not in command_codes.COMMAND_CODES_20] == []


@pytest.fixture
def answering_socket(tmp_path):
    """A control socket with one controller behind it that only notes what it is asked: (path, notes)."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "control"))
    listener.listen()
    blob = bytes(range(256)) * 40
    notes = []
    replies = {
        ptm.GetCapability: ptm.CapabilityReply(ptm.Capability.ALL),
        ptm.GetTpmEstablished: ptm.EstablishedReply(0, 1),
        ptm.GetConfig: ptm.ConfigReply(0, ptm.CONFIG_FLAG_FILE_KEY),
        ptm.SetBufferSize: ptm.BufferSizeReply(0, 3000, 2808, 4096),
        ptm.GetInfo: ptm.InfoReply(0, 8, b'{"a":1}\0'),
        ptm.GetStateBlob: ptm.StateBlobReply(0, 0, len(blob), blob),
    }

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            decoder = ptm_socket.Decoder()
            with connection:
                while data := connection.recv(4096):
                    for request in decoder.receive(data):
                        notes.append(request)
                        connection.sendall(ptm_socket.encode(replies.get(type(request), ptm.Result(0))))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield tmp_path / "control", notes, blob
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(20)


@pytest.mark.needs("swtpm_ioctl")
def test_swtpm_ioctl_understands_our_replies(answering_socket, tmp_path):
    path, notes, blob = answering_socket
    saved = tmp_path / "saved"

    def run(*options):
        notes.clear()
        command = ["swtpm_ioctl", "--unix", str(path), *options]
        result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        assert (result.returncode, result.stderr) == (0, "")
        return result.stdout, list(notes)

    assert run("-c") == ("ptm capability is 0x17fff\n", [ptm.GetCapability()])
    assert run("-i") == ("", [ptm.Init(ptm.INIT_FLAG_DELETE_VOLATILE)])
    assert run("-e") == ("tpmEstablished is 1\n", [ptm.GetTpmEstablished()])
    assert run("-r", "3") == ("", [ptm.ResetTpmEstablished(3)])
    assert run("-l", "4") == ("", [ptm.SetLocality(4)])
    assert run("-h", "abcd") == ("", [ptm.HashStart(), ptm.HashData(b"abcd"), ptm.HashEnd()])
    assert run("-C") == ("", [ptm.CancelTpmCommand()])
    assert run("-v") == ("", [ptm.StoreVolatile()])
    assert run("-g") == ("ptm configuration flags: 0x1\n", [ptm.GetConfig()])
    assert run("-b", "3000")[0] == "TPM buffersize: 3000\nminimum size  : 2808\nmaximum size  : 4096\n"
    assert run("--info", "1") == ('{"a":1}\n', [ptm.GetInfo(1, 0)])
    assert run("--save", "permanent", str(saved))[1][0] == ptm.GetStateBlob(
        ptm.STATE_FLAG_DECRYPTED, ptm.BlobType.PERMANENT, 0
    )
    assert saved.read_bytes() == blob
    assert run("--load", "savestate", str(saved)) == ("", [ptm.SetStateBlob(0, ptm.BlobType.SAVESTATE, blob)])
    assert run("--stop") == ("", [ptm.Stop()])
    assert run("-s") == ("", [ptm.Shutdown()])
