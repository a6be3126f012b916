"""Which of the kernel's TPMs an instance goes on with after a restart, and what becomes of one that it does not."""

import os
import select
import socket
from types import SimpleNamespace

import pytest

from swtpm_svc.config import loading
from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.frontends.kernel.vtpmx import KernelTpm
from swtpm_svc.service.kernel_tpm import kernel_tpm, kernel_tpm_record
from swtpm_svc.service.kernel_tpm.kernel_tpm_record import KernelTpmRecord

ENABLED = loading.parse("[vtpm-proxy]\nenabled = true\n", "/etc/vtpm.d/vm1.toml", "vm1")


@pytest.fixture
def run(tmp_path, monkeypatch):
    (tmp_path / "vm1").mkdir()
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "vm1"))
    return str(tmp_path)


@pytest.fixture
def ends():
    """Our descriptor of a TPM of the kernel, and the driver's."""
    driver, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    driver.settimeout(5)
    yield ours.detach(), driver
    driver.close()


@pytest.fixture
def notifier():
    told = []
    return SimpleNamespace(
        told=told,
        park=lambda name, fd: told.append(("park", name, fd)),
        unpark=lambda name: told.append(("unpark", name)),
    )


def test_the_one_that_was_parked_is_gone_on_with(run, ends, notifier):
    fd, _driver = ends
    kernel_tpm_record.write("vm1", KernelTpmRecord(7, "2.0"), run)
    passed = {"kernel-tpm": [fd]}
    assert kernel_tpm.obtain(ENABLED, passed, notifier) == KernelTpm(fd, 7)
    assert (passed, notifier.told) == ({}, [])
    assert kernel_tpm_record.read("vm1", run) is not None
    os.close(fd)


@pytest.mark.parametrize("why", ["no record", "another version", "the driver has gone", "two"])
def test_one_that_cannot_be_gone_on_with_is_given_back(run, ends, notifier, why):
    fd, driver = ends
    if why != "no record":
        kernel_tpm_record.write("vm1", KernelTpmRecord(7, "1.2" if why == "another version" else "2.0"), run)
    if why == "the driver has gone":
        driver.close()
    fds = [fd, os.dup(fd)] if why == "two" else [fd]
    with pytest.raises(VtpmError) as caught:
        kernel_tpm.obtain(ENABLED, {"kernel-tpm": fds}, notifier)
    assert caught.value.code is Code.DEVICE_NOT_READY
    assert notifier.told == [("unpark", "kernel-tpm")]
    assert kernel_tpm_record.read("vm1", run) is None
    if why != "the driver has gone":
        assert driver.recv(1) == b""  # all of them are closed


def test_where_none_is_wanted_none_is_made(run, ends, notifier, monkeypatch):
    monkeypatch.setattr(kernel_tpm, "create", lambda _version: pytest.fail("made one"))
    passed = {"kernel-tpm": [ends[0]]}
    config = loading.parse("", "/etc/vtpm.d/vm1.toml", "vm1")
    assert kernel_tpm.obtain(config, passed, notifier) is None
    assert passed == {"kernel-tpm": [ends[0]]}  # who serves gives it back
    os.close(ends[0])


@pytest.mark.parametrize("is_by_hand", [False, True])
def test_a_new_one_is_kept_and_noted_where_systemd_made_the_directory(run, ends, notifier, monkeypatch, is_by_hand):
    if is_by_hand:
        os.rmdir(f"{run}/vm1")
    monkeypatch.setattr(kernel_tpm, "create", lambda version: KernelTpm(ends[0], 7 if version == "2.0" else -1))
    assert kernel_tpm.obtain(ENABLED, {}, notifier) == KernelTpm(ends[0], 7)
    assert notifier.told == [("park", "kernel-tpm", ends[0])]
    if is_by_hand:
        assert os.listdir(run) == []
    else:
        assert kernel_tpm_record.read("vm1", run) == KernelTpmRecord(7, "2.0")
    os.close(ends[0])


def test_one_from_before_a_restart_is_one_of_this_version_that_the_kernel_has(run, monkeypatch):
    there = set()
    monkeypatch.setattr(kernel_tpm.os.path, "exists", lambda path: path in there)
    assert not kernel_tpm.has_one("vm1", "2.0")
    kernel_tpm_record.write("vm1", KernelTpmRecord(7, "2.0"), run)
    assert not kernel_tpm.has_one("vm1", "2.0")
    there.add("/sys/class/tpm/tpm7")
    assert kernel_tpm.has_one("vm1", "2.0")
    assert not kernel_tpm.has_one("vm1", "1.2")


@pytest.mark.parametrize(("version", "nodes"), [("1.2", ["tpm7"]), ("2.0", ["tpm7", "tpmrm7"])])
def test_all_nodes_are_waited_for(monkeypatch, version, nodes):
    finished = set()
    monkeypatch.setattr(kernel_tpm, "_is_finished", lambda path: path in finished)
    for count in range(len(nodes)):
        finished = {f"/dev/{name}" for name in nodes[:count]}
        with pytest.raises(VtpmError) as caught:
            kernel_tpm.wait_until_made(KernelTpm(-1, 7), version, timeout_s=0)
        assert caught.value.code is Code.DEVICE_NOT_READY
        assert caught.value.message == f"the kernel did not make {' and '.join(f'/dev/{name}' for name in nodes)}"
    finished = {f"/dev/{name}" for name in nodes}
    kernel_tpm.wait_until_made(KernelTpm(-1, 7), version, timeout_s=0)


@pytest.mark.parametrize(
    ("path", "runs", "is_done", "expected"),
    [
        ("/dev/null", False, False, True),  # no udev: the kernel's node is all there will be
        ("/dev/null", True, False, False),
        ("/dev/null", True, True, True),
        ("/dev", False, True, False),
        ("/dev/none-such", False, True, False),
    ],
)
def test_a_node_is_finished_when_udev_says_so(monkeypatch, path, runs, is_done, expected):
    monkeypatch.setattr(kernel_tpm.udev, "is_running", lambda: runs)
    monkeypatch.setattr(kernel_tpm.udev, "has_finished", lambda _status: is_done)
    assert kernel_tpm._is_finished(path) is expected


def test_a_tpm_with_a_command_in_it_is_alive(ends):
    fd, driver = ends
    driver.send(b"command")
    assert kernel_tpm._is_alive(fd)
    driver.close()
    assert select.select([fd], [], [], 5)[0]
    assert not kernel_tpm._is_alive(fd)
    os.close(fd)
    assert not kernel_tpm._is_alive(fd)
