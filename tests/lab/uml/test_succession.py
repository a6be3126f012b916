"""Restart, stop and SIGKILL with clients at work, over the real kernel: what they see, and what is on disk
afterwards."""

import errno
import os
import select
import signal
import socket
import threading
import time

import pytest
from device_clients import Client, Load, wait_for
from manager import run
from tpm_commands import (
    CREATE_RSA,
    GET_RANDOM,
    NV_DEFINE_COUNTER,
    NV_INCREMENT,
    NV_READ_COUNTER,
    PCR_EXTEND_16,
    PCR_READ_16,
    TPM12_PCR_EXTEND_10,
    TPM12_PCR_READ_10,
    counter_of,
)

pytestmark = pytest.mark.needs("cuse", "root", "udev", "accounts", "binding")


def counter(client):
    return counter_of(client(NV_READ_COUNTER))


def test_a_client_in_a_loop_notices_nothing_of_restarts(tpm2):
    client = Client(tpm2.device)
    client(PCR_EXTEND_16)
    extended = client(PCR_READ_16)
    load = Load(tpm2.device, GET_RANDOM)
    load.start()
    for _ in range(10):
        load.proceeds()
        assert tpm2.restart() == 0
    load.proceeds()
    load.finish()
    assert (load.errors, load.wrong) == ([], [])
    assert client(PCR_READ_16) == extended
    assert tpm2.status()["restarts"] == 10
    client.close()


def test_unread_responses_locality_and_polls_survive_a_restart(tpm2):
    client, other = Client(tpm2.device), Client(tpm2.device, os.O_NONBLOCK)
    os.write(client.fd, GET_RANDOM)
    begun = os.read(client.fd, 7)
    import subprocess

    subprocess.run(["swtpm_ioctl", "-l", "2", tpm2.device], check=True)
    tpm2.restart()
    assert len(begun + os.read(client.fd, 4096)) == 20
    assert tpm2.status()["tpm"]["locality"] == 2
    assert select.select([other.fd], [other.fd], [], 0) == ([], [other.fd], [])
    assert len(other(GET_RANDOM)) == 20


def test_a_key_generation_at_the_time_of_a_restart_is_finished_and_answered(tpm2):
    client = Client(tpm2.device)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(client(CREATE_RSA)), daemon=True)
    thread.start()
    time.sleep(0.05)
    tpm2.restart()
    thread.join(60)
    assert answers[0][6:10] == bytes(4)


def test_random_bytes_do_not_repeat_over_restarts(tpm2):
    client, seen = Client(tpm2.device), set()
    for _ in range(6):
        seen.add(client(GET_RANDOM))
        tpm2.restart()
    seen.add(client(GET_RANDOM))
    assert len(seen) == 7


def test_a_stopped_tpm_stays_stopped_over_a_restart(tpm2):
    import subprocess

    subprocess.run(["swtpm_ioctl", "--stop", tpm2.device], check=True)
    tpm2.restart()
    assert tpm2.status()["tpm"]["power"] == "stopped"
    assert Client(tpm2.device)(GET_RANDOM) == bytes.fromhex("80010000000a00000101")


def test_tpm_1_2_over_a_restart(instance):
    one = instance(version="1.2").start()
    client = Client(one.device)
    assert client(TPM12_PCR_EXTEND_10)[6:10] == bytes(4)
    extended = client(TPM12_PCR_READ_10)
    one.restart()
    assert client(TPM12_PCR_READ_10) == extended


@pytest.mark.parametrize("version", ["1.2", "2.0"])
def test_stop_takes_the_device_away_and_pcrs_with_it(instance, version):
    one = instance(version=version).start()
    client = Client(one.device)
    assert one.stop() == 0
    wait_for(lambda: not os.path.exists(one.device), "the node to go")
    with pytest.raises(OSError, match=r".") as caught:
        client(GET_RANDOM)
    assert caught.value.errno in (errno.ENODEV, errno.ECONNABORTED, errno.ENOTCONN, errno.EIO)
    assert not os.path.exists(f"{one.runtime}/status")
    assert {name for name in os.listdir(one.state) if name.endswith(("volatilestate", "savestate"))} == set()


def test_nv_survives_a_stop_and_pcrs_only_with_stored_volatile_state(tpm2):
    import subprocess

    client = Client(tpm2.device)
    fresh = client(PCR_READ_16)
    assert client(NV_DEFINE_COUNTER)[6:10] == bytes(4)
    assert client(NV_INCREMENT)[6:10] == bytes(4)
    value = counter(client)
    client(PCR_EXTEND_16)
    extended = client(PCR_READ_16)
    client.close()
    tpm2.stop()
    tpm2.start()
    client = Client(tpm2.device)
    assert counter(client) == value
    assert client(PCR_READ_16)[-32:] == fresh[-32:]
    client(PCR_EXTEND_16)
    subprocess.run(["swtpm_ioctl", "-v", tpm2.device], check=True)
    client.close()
    tpm2.configure('[tpm]\nversion = "2.0"\nstartup = "none"\n')
    tpm2.stop()
    tpm2.start()
    assert Client(tpm2.device)(PCR_READ_16)[-32:] == extended[-32:]


def test_sigkill_leaves_nobody_hanging_and_nothing_acknowledged_is_lost(tpm2):
    setup = Client(tpm2.device)
    assert setup(NV_DEFINE_COUNTER)[6:10] == bytes(4)
    assert setup(NV_INCREMENT)[6:10] == bytes(4)
    first = counter(setup)
    load = Load(tpm2.device, NV_INCREMENT)
    idle = Client(tpm2.device)
    load.start()
    kills = 10
    for _ in range(kills):
        load.proceeds()
        tpm2.kill()
        tpm2.start()
    load.proceeds()
    load.finish()
    assert set(load.errors) <= {errno.EIO}
    assert len(load.errors) <= kills
    assert load.wrong == []
    value = counter(setup)
    assert load.answered <= value - first <= load.answered + len(load.errors)
    assert len(idle(GET_RANDOM)) == 20
    assert "its predecessor was killed" in tpm2.log()


def test_sigkill_while_a_reader_waits_for_a_key(tpm2):
    client = Client(tpm2.device)
    outcome = []

    def work():
        try:
            outcome.append(client(CREATE_RSA)[6:10])
        except OSError as error:
            outcome.append(error.errno)

    for _ in range(3):
        outcome.clear()
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        time.sleep(0.1)
        tpm2.kill()
        tpm2.start()
        thread.join(30)
        assert not thread.is_alive()
        assert outcome[0] in (errno.EIO, bytes(4))
        assert len(client(GET_RANDOM)) == 20


def test_another_device_name_after_a_restart_makes_another_device(tpm2):
    client = Client(tpm2.device)
    tpm2.configure('[device]\nname = "vtpm7"\n')
    tpm2.restart()
    wait_for(lambda: not os.path.exists("/dev/vtpm0"), "the old node to go")
    assert os.path.exists("/dev/vtpm7")
    with pytest.raises(OSError, match=r"."):
        client(GET_RANDOM)
    assert len(Client("/dev/vtpm7")(GET_RANDOM)) in (10, 20)


def test_reload(tpm2):
    tpm2.configure('[tpm]\nversion = "1.2"\n[log]\nlevel = "debug"\n[control]\ngroup = "lab-outsider"\n')
    os.kill(tpm2.pid, signal.SIGHUP)
    wait_for(lambda: "configuration reloaded" in tpm2.log(), "the reload")
    log = tpm2.log()
    assert "[tpm] version has changed: not before a restart of the service" in log
    assert "[log] level has changed: now in force" in log
    wait_for(lambda: [m for m in tpm2.messages if "RELOADING" in m], "systemd to be told")
    Client(tpm2.device)(GET_RANDOM)
    assert "TPM2_GetRandom: success TPM_CC=0x17b TPM_RC=0x0" in tpm2.log()
    tpm2.configure("[nonsense]\n")
    os.kill(tpm2.pid, signal.SIGHUP)
    wait_for(lambda: "nonsense" in tpm2.log(), "the refusal")
    assert len(Client(tpm2.device)(GET_RANDOM)) == 20


def test_a_device_that_is_taken_away_is_made_again_by_the_next_start(tpm2):
    with open("/sys/class/cuse/vtpm0/abort", "w", encoding="ascii") as file:
        file.write("1")
    assert tpm2.wait() == 75  # an end that nobody asked for: systemd restarts the service
    wait_for(lambda: set(tpm2.store) == {"socket-control"}, "the descriptors of the device to leave the store")
    tpm2.start()
    assert len(Client(tpm2.device)(GET_RANDOM)) == 20


def test_a_dead_device_in_the_store_is_not_adopted(tpm2):
    tpm2.kill()
    with open("/sys/class/cuse/vtpm0/abort", "w", encoding="ascii") as file:
        file.write("1")
    tpm2.start()
    assert len(Client(tpm2.device)(GET_RANDOM)) == 20


def test_half_of_a_park_is_given_up(tpm2):
    tpm2.kill()
    os.close(tpm2.store.pop("journal"))
    tpm2.start()
    assert len(Client(tpm2.device)(GET_RANDOM)) == 20


def test_who_asks_for_status_cannot_end_the_daemon(tpm2):
    """Nor is a disk asked for it, which may not answer."""
    before = tpm2.status()["state"]
    os.chmod(tpm2.state, 0)
    try:
        assert tpm2.status()["state"] == before
    finally:
        os.chmod(tpm2.state, 0o700)
    for _ in range(100):  # who does not wait for the answer
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{tpm2.runtime}/status")
    assert tpm2.status()["instance"] == "vtpm0"
    assert tpm2.is_alive()


def test_the_control_socket_serves_the_same_tpm_and_survives_restarts(tpm2):
    path = f"{tpm2.runtime}/ctrl.sock"
    client = Client(tpm2.device)
    for _ in range(2):
        done = run("swtpm_ioctl", "--unix", path, "-l", "3")
        assert done.returncode == 0, done.stderr
        assert tpm2.status()["tpm"]["locality"] == 3
        assert run("swtpm_ioctl", "--unix", path, "-l", "1", user="lab-operator").returncode == 0
        assert run("swtpm_ioctl", "--unix", path, "-c", user="lab-outsider").returncode != 0
        tpm2.restart()
    assert len(client(GET_RANDOM)) == 20
