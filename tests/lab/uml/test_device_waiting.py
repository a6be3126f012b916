"""A daemon that waits in a read() of the real /dev/cuse, since nobody but its clients has anything to say: what else it
serves then, and what a kill leaves."""

import errno
import os
import signal
import subprocess

import pytest
from device_clients import Client, Load, wait_for
from tpm_commands import GET_RANDOM, PCR_EXTEND_16, PCR_READ_16, STARTUP_CLEAR

pytestmark = pytest.mark.needs("cuse", "root", "udev", "accounts", "binding")

#: Commands after which it waits so.
ENOUGH = 40


def settle(client):
    for _ in range(ENOUGH):
        assert len(client(GET_RANDOM)) == 20


def threads(instance):
    return len(os.listdir(f"/proc/{instance.pid}/task"))


def test_everything_else_is_served_and_the_next_request_too(tpm2):
    client = Client(tpm2.device)
    wait_for(lambda: threads(tpm2) == 1, "the end of what a start does beside")
    settle(client)
    assert threads(tpm2) == 2
    for number in range(10):
        settle(client)
        assert tpm2.status()["commands"] >= ENOUGH * number
        settle(client)
        other = Client(tpm2.device, os.O_NONBLOCK)
        assert len(other(GET_RANDOM)) == 20
        other.close()
        settle(client)
        assert subprocess.run(["swtpm_ioctl", "-l", str(number % 5), tpm2.device], timeout=30).returncode == 0
        settle(client)
        path = f"{tpm2.runtime}/ctrl.sock"
        told = subprocess.run(["swtpm_ioctl", "--unix", path, "-c"], capture_output=True, timeout=30)
        assert told.returncode == 0
    settle(client)
    os.kill(tpm2.pid, signal.SIGHUP)
    wait_for(lambda: "configuration reloaded" in tpm2.log(), "the reload")
    assert len(client(GET_RANDOM)) == 20
    client.close()
    wait_for(lambda: tpm2.status()["opener_count"] == 0, "the release")


@pytest.mark.parametrize("end", ["restart", "kill"])
def test_a_successor_of_who_waited_so(tpm2, end):
    """A kill leaves the device such that a read() of it waits, which is not how a successor begins."""
    client = Client(tpm2.device)
    client(PCR_EXTEND_16)
    extended = client(PCR_READ_16)
    for _ in range(3):
        settle(client)
        if end == "kill":
            tpm2.kill()
            tpm2.start()
            assert len(Client(tpm2.device)(GET_RANDOM)) == 20
            with pytest.raises(OSError, match=r".") as caught:
                client.read()
            assert caught.value.errno == errno.EIO
        else:
            assert tpm2.restart() == 0
            assert client(PCR_READ_16) == extended
        wait_for(lambda: threads(tpm2) == 1, "the end of what a start does beside")
        assert tpm2.status()["instance"] == "vtpm0"
    settle(client)
    client.close()


def test_a_stop_ends_the_wait(tpm2):
    client = Client(tpm2.device)
    settle(client)
    assert tpm2.stop() == 0
    client.close()


def test_a_device_that_is_taken_away_meanwhile(tpm2):
    client = Client(tpm2.device)
    settle(client)
    with open("/sys/class/cuse/vtpm0/abort", "w", encoding="ascii") as file:
        file.write("1")
    assert tpm2.wait() == 75
    client.close()


def test_two_clients_and_one_that_comes_and_goes(tpm2):
    loads = [Load(tpm2.device, command) for command in (GET_RANDOM, PCR_EXTEND_16)]
    for load in loads:
        load.start()
    for _ in range(20):
        client = Client(tpm2.device)
        assert len(client(PCR_READ_16)) > 32
        client.close()
        for load in loads:
            load.proceeds()
    for load in loads:
        load.finish()
        assert (load.errors, load.wrong) == ([], [])


def test_a_client_with_a_signal_handler_loses_nothing(tpm2):
    """A signal for a client that waits is an INTERRUPT, which is in no hurry where a command takes microseconds."""
    client, alarms = Client(tpm2.device), []
    signal.signal(signal.SIGALRM, lambda *_: alarms.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
    try:
        for _ in range(500):
            assert len(client(GET_RANDOM)) == 20
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    assert alarms
    client.close()


@pytest.mark.needs("strace")
def test_a_request_takes_two_system_calls(tpm2, tmp_path):
    client, count = Client(tpm2.device), 100
    settle(client)
    trace = tmp_path / "trace"
    # libtpms asks for the time, which elsewhere is not a system call
    words = ["strace", "-e", "trace=!clock_gettime", "-o", trace, "-p", str(tpm2.pid)]
    strace = subprocess.Popen(words, stderr=subprocess.PIPE)
    try:
        assert b"attached" in strace.stderr.readline()
        settle(client)
        begun = trace.read_text().count("\n")
        for _ in range(count):
            client(PCR_READ_16)
        wait_for(lambda: trace.read_text().count("\n") >= begun + 4 * count, "the trace")
        calls = [line.partition("(")[0] for line in trace.read_text().splitlines()[begun:]]
    finally:
        strace.terminate()
        strace.communicate(timeout=30)
    assert set(calls) == {"read", "write"}
    assert len(calls) <= 4 * count + 2
    client.close()


def test_the_server_that_the_benchmark_compares_with(tmp_path):
    """It is compiled and answers, or the benchmark would be found broken when it is needed."""
    source = os.path.join(os.path.dirname(__file__), "../../../benchmarks/cuse_server.c")
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "fuse3"], capture_output=True, text=True, check=True)
    words = ["cc", "-Wall", "-Wextra", "-Werror", "-o", tmp_path / "server", source, *flags.stdout.split(), "-ltpms"]
    subprocess.run(words, check=True, timeout=60)
    with subprocess.Popen([tmp_path / "server", "vtpm-plain"]) as server:
        try:
            wait_for(lambda: os.path.exists("/dev/vtpm-plain"), "the device")
            clients = [Client("/dev/vtpm-plain") for _ in range(2)]
            answers = [client(STARTUP_CLEAR) for client in clients]
            assert [answer[6:10].hex() for answer in answers] == ["00000000", "00000100"]
            for client in clients:
                assert len(client(GET_RANDOM)) == 20
                client.close()
        finally:
            server.kill()
