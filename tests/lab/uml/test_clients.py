"""Clients of the real device that take more than their share, or leave things behind: other users, and the service, go
on."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from device_clients import Client, wait_for
from manager import run
from tpm_commands import CREATE_CHILD, CREATE_PARENT, GET_RANDOM, PCR_READ_16

pytestmark = pytest.mark.needs("cuse", "root", "udev", "accounts", "binding")

PTM_INIT = 0xC0045001  # swtpm_ioctls(3)


def program(text, user, *arguments):
    """Start a Python program as another user; it tells with a line that it has done what it is for, and then waits."""
    python = os.path.realpath(sys.executable)  # not that of .venv, which may be where only root can read it
    command = ["runuser", "-u", user, "--", python, "-I", "-c", textwrap.dedent(text), *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def end(process):
    process.stdin.close()
    assert process.wait(60) == 0


FLOOD = """
    import os, sys
    device, count, command = sys.argv[1], int(sys.argv[2]), bytes.fromhex(sys.argv[3])
    for _ in range(count):
        fd = os.open(device, os.O_RDWR | os.O_NONBLOCK)
        os.write(fd, command)
        os.close(fd)
    print("done", flush=True)
    sys.stdin.read()
"""

HOLD = """
    import os, sys
    held = 0
    try:
        while held < 2000:
            os.open(sys.argv[1], os.O_RDWR)
            held += 1
    except OSError as error:
        print(held, error.errno, flush=True)
    sys.stdin.read()
"""

RESET = """
    import fcntl, os, struct, sys
    fd = os.open(sys.argv[1], os.O_RDWR)
    refused = set()
    for _ in range(int(sys.argv[2])):
        try:
            fcntl.ioctl(fd, int(sys.argv[3]), bytearray(4))
        except OSError as error:
            refused.add(error.errno)
    print(sorted(refused), flush=True)
    sys.stdin.read()
"""


def test_what_a_member_leaves_behind_is_forgotten(tpm2):
    """400 key generations on files that are closed at once: others are served, and the service can be stopped."""
    client = Client(tpm2.device)
    assert client(CREATE_PARENT)[6:10] == bytes(4)
    flood = program(FLOOD, "lab-member", tpm2.device, 400, CREATE_CHILD.hex())
    assert flood.stdout.readline() == "done\n"
    begin = time.monotonic()
    assert client(GET_RANDOM)[6:10] == bytes(4)
    assert time.monotonic() - begin < 30  # a key at the most, on a slow machine
    client.close()
    end(flood)
    begin = time.monotonic()
    assert tpm2.stop() == 0
    assert time.monotonic() - begin < 30


def test_a_stop_does_not_wait_for_commands_that_wait(tpm2):
    clients = [Client(tpm2.device, os.O_NONBLOCK) for _ in range(60)]
    blocked, errors = Client(tpm2.device), []
    assert blocked(CREATE_PARENT)[6:10] == bytes(4)
    for client in clients:
        os.write(client.fd, CREATE_CHILD)

    def wait():
        try:
            blocked(GET_RANDOM)
        except OSError as error:
            errors.append(error.errno)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.2)
    begin = time.monotonic()
    assert tpm2.stop() == 0
    assert time.monotonic() - begin < 40  # one key of sixty
    thread.join(10)
    assert not thread.is_alive()
    assert errors  # who waited got an error
    for client in (*clients, blocked):
        client.close()


def test_what_waits_at_a_restart_is_carried_out_after_it(tpm2):
    clients = [Client(tpm2.device) for _ in range(3)]
    answers = [None] * 3

    def ask(number):
        answers[number] = clients[number](CREATE_CHILD)

    assert clients[0](CREATE_PARENT)[6:10] == bytes(4)
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    wait_for(lambda: sum(opener["pending"] for opener in tpm2.status()["openers"]) == 3, "three commands to wait")
    assert tpm2.restart() == 0
    for thread in threads:
        thread.join(120)
    assert [answer[6:10] for answer in answers] == [bytes(4)] * 3
    for client in clients:
        assert client(GET_RANDOM)[6:10] == bytes(4)
        client.close()


def test_a_member_cannot_take_all_open_files(tpm2):
    holders = [program(HOLD, user, tpm2.device) for user in ("lab-member", "lab-operator")]
    for holder in holders:
        assert holder.stdout.readline() == f"256 {errno.EMFILE}\n"
    clients = [Client(tpm2.device) for _ in range(256)]
    assert clients[-1](GET_RANDOM)[6:10] == bytes(4)
    for client in clients:
        client.close()
    assert tpm2.log().count("256 open files of user 9001") == 1
    for holder in holders:
        end(holder)
    wait_for(lambda: tpm2.status()["opener_count"] == 0, "files to be closed")
    assert run("tpm2_getrandom", "--hex", "8", "-T", f"device:{tpm2.device}", user="lab-member").returncode == 0


def test_refusals_are_logged_once_and_counted(tpm2):
    members = program(RESET, "lab-member", tpm2.device, 1273, PTM_INIT)
    assert members.stdout.readline() == f"[{errno.EPERM}]\n"
    end(members)
    assert tpm2.log().count("needs the rights of the control group") == 1
    assert tpm2.kill(signal.SIGTERM) == 0
    assert "1272 more times within a minute: user 9001: INIT needs the rights of the control group" in tpm2.log()


@pytest.mark.parametrize("flags", [0, os.O_NONBLOCK])
def test_a_command_after_a_piece_of_the_response_was_read_is_the_next_one(tpm2, flags):
    """As on the kernel's own /dev/tpm0 (tools/testing/selftests/tpm2, test_read_partial_overwrite)."""
    client = Client(tpm2.device, flags)
    os.write(client.fd, GET_RANDOM)
    assert len(client.read(4)) == 4
    os.write(client.fd, PCR_READ_16)
    response = client.read()
    assert len(response) == int.from_bytes(response[2:6], "big") > 32
    client.close()


def test_a_piece_that_was_read_before_a_restart_counts_after_it(tpm2):
    begun, untouched = Client(tpm2.device), Client(tpm2.device)
    for client in (begun, untouched):
        os.write(client.fd, GET_RANDOM)
    os.read(begun.fd, 4)
    tpm2.restart()
    assert len(begun(PCR_READ_16)) > 32
    with pytest.raises(OSError, match="busy"):
        os.write(untouched.fd, GET_RANDOM)
    assert len(os.read(untouched.fd, 4096)) == 20
    for client in (begun, untouched):
        client.close()
