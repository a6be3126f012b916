"""What is kept for a successor of each way in, what of a predecessor is gone on with, and what is given back."""

import os
import socket
from types import SimpleNamespace

import pytest

from swtpm_svc.config import loading
from swtpm_svc.errors import Code
from swtpm_svc.frontends.kernel.vtpmx import KernelTpm
from swtpm_svc.frontends.sockets import socket_frontend
from swtpm_svc.service.kernel_tpm import kernel_tpm
from swtpm_svc.service.loop import Loop
from swtpm_svc.service.ways_in import WaysIn
from swtpm_svc.wire.dialect import DIALECTS


@pytest.fixture
def opened(tmp_path):
    """Opens the ways in of a configuration; `told` hears of the descriptor store and of faults."""
    told, made = [], []
    notifier = SimpleNamespace(
        park=lambda name, fd: told.append(("park", name, os.path.realpath(f"/proc/self/fd/{fd}"))),
        unpark=lambda name: told.append(("unpark", name)),
    )
    dispatcher = SimpleNamespace(
        tpm=SimpleNamespace(version="2.0", dialect=DIALECTS["2.0"]),
        events=SimpleNamespace(failed=lambda error: told.append(("failed", error.code))),
    )
    journal = SimpleNamespace(
        log=lambda level, words: told.append((level, words)),
        error=lambda error, level: told.append((level, error.code)),
    )
    with Loop() as loop:

        def end(error):
            told.append(("end", error.code))
            loop.stop()

        def open_ways(text="", passed=None, kernel=None):
            config = loading.parse(text, str(tmp_path / "vtpm0.toml"), "vtpm0")
            ways = WaysIn(config, loop, dispatcher, notifier, journal, end)
            ways.open(passed if passed is not None else {}, kernel, dict)
            made.append(ways)
            return ways

        yield SimpleNamespace(open=open_ways, told=told, loop=loop)
        for ways in made:
            ways.close(has_successor=False)


SERVICES = ("control", "data", "managed", "mssim", "mssim-platform")


def parked(told):
    return [entry[1] for entry in told if entry[0] == "park"]


def unparked(told):
    return [entry[1] for entry in told if entry[0] == "unpark"]


def listening_at(path):
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen()
    return listener.detach()


def test_a_new_socket_is_kept_for_a_successor(opened, tmp_path):
    ways = opened.open(f'[socket]\ncontrol = "{tmp_path}/c"\ndata = "{tmp_path}/d"\n')
    assert parked(opened.told) == ["socket-control", "socket-data"]
    # what a predecessor of another configuration had is dropped first: it has the same name
    assert unparked(opened.told) == [f"socket-{name}" for name in SERVICES]
    assert opened.told.index(("unpark", "socket-data")) < [entry[:2] for entry in opened.told].index(
        ("park", "socket-data")
    )
    assert ways.places == [f"{tmp_path}/c", f"{tmp_path}/d"]


def test_the_simulator_s_two_ports_are_kept_too(opened, tmp_path, monkeypatch):
    bound = []

    def bind(address, _mode, _gid):  # no port, which another test may have
        bound.append(str(address))
        return socket.socket(fileno=listening_at(tmp_path / str(len(bound))))

    monkeypatch.setattr(socket_frontend, "_bind", bind)
    opened.open('[socket]\nmssim = "tcp:2321"\n')
    assert bound == ["tcp:127.0.0.1:2321", "tcp:127.0.0.1:2322"]
    assert parked(opened.told) == ["socket-mssim", "socket-mssim-platform"]


def test_a_socket_of_a_predecessor_is_gone_on_with(opened, tmp_path):
    fd = listening_at(tmp_path / "c")
    ways = opened.open(f'[socket]\ncontrol = "{tmp_path}/c"\n', {"socket-control": [fd]})
    assert parked(opened.told) == []
    assert unparked(opened.told) == [f"socket-{name}" for name in SERVICES[1:]]
    assert ways.places == [f"{tmp_path}/c"]


@pytest.mark.parametrize("text", ["", '[socket]\ncontrol = "{}/new"\n'], ids=["none", "another"])
def test_a_socket_that_is_not_wanted_any_more_is_dropped(opened, tmp_path, text):
    fd = listening_at(tmp_path / "old")
    ways = opened.open(text.format(tmp_path), {"socket-control": [fd]})
    assert unparked(opened.told) == [f"socket-{name}" for name in SERVICES]
    assert parked(opened.told) == (["socket-control"] if text else [])
    assert ways.places == ([f"{tmp_path}/new"] if text else [])
    with pytest.raises(OSError, match="refused"), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "old"))


def test_nothing_is_left_to_a_successor_where_there_is_to_be_none(opened):
    ways = opened.open()
    opened.told.clear()
    ways.unpark()
    assert unparked(opened.told) == [*(f"socket-{name}" for name in SERVICES), "kernel-tpm"]


@pytest.fixture
def kernel():
    """The descriptor of a TPM of the kernel, and the driver's end of it."""
    driver, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    driver.settimeout(5)
    yield KernelTpm(ours.detach(), 7), driver
    driver.close()


@pytest.fixture
def forgotten(monkeypatch):
    names = []
    monkeypatch.setattr(kernel_tpm, "forget", names.append)
    return names


def test_a_kernel_s_tpm_of_another_configuration_is_given_back(opened, kernel, forgotten):
    tpm, driver = kernel
    opened.open(passed={"kernel-tpm": [tpm.fd]})
    assert unparked(opened.told)[0] == "kernel-tpm"
    assert forgotten == ["vtpm0"]
    assert driver.recv(1) == b""  # closed


def test_where_there_was_none_none_is_given_back(opened, forgotten):
    opened.open()
    assert "kernel-tpm" not in unparked(opened.told)
    assert forgotten == []


def test_a_kernel_s_tpm_is_shown_and_its_end_is_the_service_s(opened, kernel, forgotten):
    tpm, driver = kernel
    ways = opened.open(kernel=tpm)
    assert (ways.places, ways.describe()["kernel_tpm"]) == (["/dev/tpm7"], "/dev/tpm7")
    assert driver.recv(100) == DIALECTS["2.0"].fatal  # to what a killed predecessor had taken
    driver.close()
    opened.loop.after(5, opened.loop.stop)
    opened.loop.run()
    assert opened.told[-2:] == [("unpark", "kernel-tpm"), ("end", Code.DEVICE_NOT_READY)]
    assert forgotten == ["vtpm0"]


@pytest.mark.parametrize("is_made", [True, False])
def test_clients_find_the_kernel_s_nodes_or_what_failed_is_told(opened, kernel, forgotten, monkeypatch, is_made):
    def wait(tpm, version):
        assert (tpm.number, version) == (7, "2.0")
        if not is_made:
            raise kernel_tpm.gone()

    monkeypatch.setattr(kernel_tpm, "wait_until_made", wait)
    found = []
    ways = opened.open(kernel=kernel[0])
    ways.when_ready(lambda failure: (found.append(failure), opened.loop.stop()))
    opened.loop.run()
    assert [failure and failure.code for failure in found] == [None if is_made else Code.DEVICE_NOT_READY]
    assert forgotten == ([] if is_made else ["vtpm0"])


def test_without_a_kernel_s_tpm_all_is_there_at_once(opened):
    found = []
    opened.open().when_ready(found.append)
    assert found == [None]
