"""Where we differ from the distribution's swtpm (0.7.1) on a control socket, byte by byte, and why.

What is the same is the table in test_sockets.py.
"""

import socket
import struct
import subprocess
import time
from contextlib import suppress

import pytest
from conversations import TPM2, TPM12
from socket_service import SocketService
from unix_listener import listens

from swtpm_svc.tpm import libtpms
from swtpm_svc.wire import ptm

h = bytes.fromhex
#: swtpm waits about half a second for the rest of a message.
PAUSE = "a pause"
PAUSE_S = 1.5
ANSWER = "the answer comes first"
#: The size of the TPM's buffer, its minimum and maximum: another version of libtpms has others.
SIZES = "{sizes}"


def bytewise(data):
    return [f"{byte:02x}" for byte in h(data)]


#: what it is, why: what is sent, in pieces; (what swtpm answers, is it still connected), (what we answer, likewise)
NEWER = "LOCK_STORAGE (0x10000) is newer than swtpm 0.7.1"
NO_FRAME = "where the next message begins is unknown, and swtpm throws away what else it has received; we disconnect"
PATIENCE = "swtpm gives up a message that pauses; for us it is whole when it is whole"
DIFFERENCES = {
    "GET_CAPABILITY: " + NEWER: (["00000001"], ("00000000 0000ffff", True), ("00000000 0001ffff", True)),
    "LOCK_STORAGE: " + NEWER: (["00000013 0000012c"], ("0000000a", True), ("00000000", True)),
    "an unknown command: " + NO_FRAME: (
        ["000000ff", ANSWER, "0000000f"],
        ("0000000a 0000000000000000", True),
        ("0000000a", False),
    ),
    "and one behind it: " + NO_FRAME: (["000000ff 0000000f"], ("0000000a", True), ("0000000a", False)),
    "half a number: " + PATIENCE: (["0000", PAUSE, "000f"], ("", False), ("00000000 00000000", True)),
    "no body: " + PATIENCE: (
        ["00000011", PAUSE, "00000000"],
        ("00000003 0000000a", True),
        ("00000000 " + SIZES, True),
    ),
    "half a body: " + PATIENCE: (
        ["00000011 0000", PAUSE, "0000"],
        ("00000003", False),
        ("00000000 " + SIZES, True),
    ),
    "no locality: " + PATIENCE: (["00000005", PAUSE, "00"], ("", False), ("00000000", True)),
    "half the data: " + PATIENCE: (["00000007 00000004 6162", PAUSE, "6364"], ("", False), ("0000000a", True)),
    "HASH_DATA announces 4 GiB: we say why we disconnect": (["00000007 ffffffff"], ("", False), ("00000003", False)),
    "SET_STATEBLOB announces 4 GiB: we say why we disconnect": (
        ["0000000d 00000000 00000001 ffffffff"],
        ("", False),
        ("00000003", False),
    ),
}
#: What arrives in pieces and is the same.
SAME_IN_PIECES = [
    (bytewise("0000000f"), "0000000000000000"),
    (["00000002 00000000"], "00000000"),
    (["00000006"], "00000000"),
    (["00000007 00001388" + "00" * 5000], "00000000"),
    (["00000008"], "00000000"),
]


def converse(path, pieces, size, *, connected):
    """What comes back in hexadecimal digits, and whether the connection is there at the end; so much is waited for."""
    received, still_there = b"", True
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)

        def listen(until, timeout_s):
            nonlocal received, still_there
            sock.settimeout(timeout_s)
            try:
                while still_there and len(received) < until:
                    data = sock.recv(65536)
                    received += data
                    still_there = bool(data)
            except ConnectionError:
                still_there = False
            except socket.timeout:
                pass

        for piece in pieces:
            if piece is PAUSE:
                time.sleep(PAUSE_S)
            elif piece is ANSWER:
                listen(len(received) + 4, 20)
            else:
                with suppress(ConnectionError):
                    sock.sendall(h(piece))
        listen(size if connected else 1 << 20, 20)
        listen(1 << 20, 0.2)  # nothing more comes
    return received.hex(), still_there


def answer(path, pieces, expected):
    return converse(path, pieces, len(h(expected[0])), connected=expected[1])


def squeezed(expected):
    sizes = struct.pack(">3I", *libtpms.set_buffer_size(0)).hex()
    return expected[0].format(sizes=sizes).replace(" ", ""), expected[1]


@pytest.fixture
def both(tmp_path):
    """The control sockets of swtpm and of ours, both before INIT: makes them for a TPM version."""
    made = []

    def make(version):
        state, theirs = tmp_path / "state", str(tmp_path / "theirs.ctrl")
        state.mkdir()
        words = ["swtpm", "socket", *(["--tpm2"] if version == "2.0" else []), "--tpmstate", f"dir={state}"]
        words += ["--ctrl", f"type=unixio,path={theirs}", "--server", f"type=unixio,path={tmp_path}/theirs"]
        process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
        ours = SocketService(str(tmp_path / "ours"), version=version, power=False)
        made.extend([process, ours])
        deadline = time.monotonic() + 10
        while not listens(theirs):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return theirs, ours.control_path

    yield make
    process, ours = made
    process.kill()
    process.wait()
    ours.close()
    assert ours.events.failures == []


@pytest.mark.needs("swtpm 0.7")
@pytest.mark.parametrize("what", DIFFERENCES)
def test_differences(both, what):
    theirs, ours = both("2.0")
    pieces, by_swtpm, by_us = DIFFERENCES[what]
    by_swtpm, by_us = squeezed(by_swtpm), squeezed(by_us)
    assert answer(theirs, pieces, by_swtpm) == by_swtpm
    assert answer(ours, pieces, by_us) == by_us


@pytest.mark.needs("swtpm 0.7")
def test_what_is_the_same_in_pieces(both):
    theirs, ours = both("2.0")
    for pieces, expected in SAME_IN_PIECES:
        assert answer(theirs, pieces, (expected, True)) == answer(ours, pieces, (expected, True)) == (expected, True)


@pytest.mark.needs("swtpm 0.7")
@pytest.mark.parametrize(("sent", "by_swtpm", "by_us"), [
    ("00000001", "0000000000007fff", "0000000000017fff"),  # without SEND_COMMAND_HEADER, both
    ("00000013 00000000", "0000000a", "00000000"),
])  # fmt: skip
def test_differences_of_a_tpm_12(both, sent, by_swtpm, by_us):
    theirs, ours = both("1.2")
    assert answer(theirs, [sent], (by_swtpm, True)) == (by_swtpm, True)
    assert answer(ours, [sent], (by_us, True)) == (by_us, True)


def test_both_tables_cover_every_control_command_and_are_long_enough():
    messages = [data for channel, data, _what in TPM2 + TPM12 if channel == "c"]
    messages += [pieces[0] for pieces, _theirs, _ours in DIFFERENCES.values()]
    known = {int(command) for command in ptm.Command}
    assert {int(data.replace(" ", "")[:8], 16) - 1 for data in messages} >= known
    assert len(TPM2) + len(TPM12) + len(DIFFERENCES) >= 60
