"""vtpmctl's control operations against the real front end and the real libtpms.

Only the kernel between them is played: an ioctl of vtpmctl becomes the request that /dev/cuse would give to the daemon.
The same operations on a real device are in tests/lab.
"""

import fcntl
import json
import os
import stat
from pathlib import Path

import pytest
from cuse_service import OPERATOR, STRANGER, CuseService

from swtpm_svc.cli import tpm_control
from swtpm_svc.cli.vtpmctl import entry
from swtpm_svc.tpm import libtpms
from swtpm_svc.tpm.power import Power
from swtpm_svc.wire import fuse, ptm, ptm_ioctl

#: Some character device that vtpmctl can open in place of the one that is not there.
DEVICE = "/dev/null"


class Client:
    """vtpmctl as user `uid`, its ioctls served by `service`."""

    def __init__(self, service, capsys):
        self.service = service
        self.handle = service.kernel.open()
        self.uid = 0
        self.requests = []
        self._capsys = capsys

    def ioctl(self, descriptor, number, buffer, mutate):
        assert stat.S_ISCHR(os.fstat(descriptor).st_mode)
        assert mutate
        kernel = self.service.kernel
        data = bytes(buffer) if number >> 30 & 1 else b""
        self.requests.append(ptm_ioctl.decode(number, data))
        unique = kernel.send(fuse.Opcode.IOCTL, kernel.ioctl_body(self.handle, number, data, len(buffer)), uid=self.uid)
        self.service.finish_work()
        error, answer = kernel.replies[unique]
        if error:
            raise OSError(error, os.strerror(error))
        buffer[:] = answer[16:]
        return 0

    def run(self, command, *arguments):
        """The exit status, standard output and standard error of `vtpmctl COMMAND DEVICE ARGUMENTS`."""
        self.requests.clear()
        status = entry.main([*command.split(), DEVICE, *map(str, arguments)])
        return (status, *self._capsys.readouterr())

    def json(self, command, *arguments):
        status, out, err = self.run(command, *arguments, "--json")
        assert (status, err) == (0, "")
        return json.loads(out)


@pytest.fixture
def service():
    service = CuseService().start()
    yield service
    service.close()


@pytest.fixture
def client(service, monkeypatch, capsys):
    client = Client(service, capsys)
    monkeypatch.setattr(fcntl, "ioctl", client.ioctl)
    monkeypatch.setattr(tpm_control, "is_root", lambda: client.uid == 0)
    return client


def test_capabilities(client):
    status, out, err = client.run("capabilities")
    assert (status, err) == (0, "")
    *names, number = out.split()
    assert names[:3] == ["init", "shutdown", "get-tpmestablished"]
    assert int(number, 16) == ptm.Capability.ALL & ~ptm.Capability.SET_DATAFD
    assert client.json("capabilities")["capabilities"] == names


def test_power(client, service):
    assert client.run("power off")[:2] == (
        0,
        f"{DEVICE}: the TPM is powered off; on again with: vtpmctl power on {DEVICE}\n",
    )
    assert service.tpm.power is Power.STOPPED
    assert client.run("init")[:2] == (0, f"{DEVICE}: the TPM is powered on\n")
    assert client.requests == [ptm.Init(ptm.INIT_FLAG_DELETE_VOLATILE)]
    assert service.tpm.power is Power.RUNNING
    assert client.json("init", "--keep-volatile") == {"device": DEVICE, "operation": "init", "keep_volatile": True}
    assert client.requests == [ptm.Init(0)]
    assert client.run("reset")[:2] == (0, f"{DEVICE}: the TPM was reset\n")
    assert client.requests == [ptm.Init(ptm.INIT_FLAG_DELETE_VOLATILE)]
    for word, more in (("power on", {"keep_volatile": False}), ("power off", {}), ("power reset", {})):
        assert client.json(word) == {"device": DEVICE, "operation": word, **more}
        assert service.tpm.power is (Power.STOPPED if word == "power off" else Power.RUNNING)
    for word in ("init", "reset", "power on", "power reset"):
        client.run(word, "--no-startup")
        assert client.requests == [ptm.Init(ptm.INIT_FLAG_DELETE_VOLATILE | ptm.INIT_FLAG_NO_STARTUP)]
    assert client.run("shutdown")[0] == 0
    assert service.shutdowns == [1]


def test_what_needs_power_says_so(client):
    client.run("power off")
    for command, *arguments in (["established"], ["store-volatile"], ["cancel"], ["hash", "/dev/null"]):
        status, out, err = client.run(command, *arguments)
        assert (status, out) == (69, "")
        assert "gave TPM result 0xa (TPM_BAD_ORDINAL: " in err
        assert f"\n  remedy: power it on first: vtpmctl power on {DEVICE}\n" in err


def test_what_needs_no_power_says_so(client, tmp_path):
    blob = tmp_path / "blob"
    blob.write_bytes(b"x")
    for command, *arguments in (["load", "permanent", blob], ["buffer-size", "4096"]):
        status, out, err = client.run(command, *arguments)
        assert (status, out) == (69, "")
        assert f"\n  remedy: power it off first: vtpmctl power off {DEVICE}\n" in err


def test_established(client):
    client.run("reset")
    assert client.run("established")[1] == "tpmEstablished is 0\n"
    assert client.run("hash", "/dev/null")[0] == 0
    assert client.json("established")["established"] is True
    assert client.run("established", "--reset", "--locality", "4")[0] == 0
    assert client.requests == [ptm.ResetTpmEstablished(4)]
    assert client.run("established")[1] == "tpmEstablished is 0\n"


def test_locality(client, service):
    assert client.run("locality", "2")[:2] == (0, f"{DEVICE}: commands are now sent as locality 2\n")
    assert service.tpm.locality == 2


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, 10000])
def test_hash_sends_all_of_a_file(client, tmp_path, size):
    file = tmp_path / "data"
    file.write_bytes(os.urandom(size))
    assert client.run("hash", file)[:2] == (0, f"{DEVICE}: {size} bytes were measured\n")
    first, *pieces, last = client.requests
    assert (first, last) == (ptm.HashStart(), ptm.HashEnd())
    assert b"".join(piece.data for piece in pieces) == file.read_bytes()
    assert all(len(piece.data) <= 4096 for piece in pieces)


def test_hash_of_a_missing_file_does_not_begin(client, tmp_path):
    status, _, err = client.run("hash", tmp_path / "none")
    assert status == 66
    assert err.startswith(f"vtpmctl: {tmp_path}/none cannot be read (No such file or directory)\n")
    assert client.requests == []


def test_save_and_load_give_the_same_tpm(client, service, tmp_path):
    permanent, volatile = tmp_path / "permanent", tmp_path / "volatile"
    for kind, file in (("permanent", permanent), ("volatile", volatile)):
        saved = client.json("save", kind, file)
        assert saved["bytes"] == file.stat().st_size > 1000
        assert saved["encrypted"] is False
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert all(request.state_flags == ptm.STATE_FLAG_DECRYPTED for request in client.requests)
    before = service.tpm.blobs.get("permall")
    assert client.run("power off")[0] == 0
    for kind, file in (("permanent", permanent), ("volatile", volatile)):
        status, out, err = client.run("load", kind, file)
        assert (status, err) == (0, "")
        assert f"the {kind} state is loaded: {file.stat().st_size} bytes" in out
        assert len(client.requests[-1].data) < ptm.STATE_BLOB_CHUNK
    assert client.run("init")[0] == 0
    assert service.tpm.blobs.get("permall") == before
    assert service.events.failures == []


def test_a_savestate_that_is_not_there(client, tmp_path):
    status, _, err = client.run("save", "savestate", tmp_path / "file")
    assert status == 66
    assert err.startswith(f"vtpmctl: {DEVICE}: the TPM has no savestate state\n")
    assert list(tmp_path.iterdir()) == []


def test_garbage_is_not_loaded(client, tmp_path):
    (tmp_path / "garbage").write_bytes(b"\xff" * 5000)
    client.run("power off")
    status, _, err = client.run("load", "permanent", tmp_path / "garbage")
    assert status != 0
    assert "PTM_SET_STATEBLOB gave TPM result 0x" in err
    assert client.run("init")[0] == 0


@pytest.mark.parametrize("extra", [0, 1, -1])
def test_the_last_chunk_is_never_a_full_one(client, tmp_path, extra):
    """swtpm/tpm_ioctl.h: the last packet is indicated by the length being smaller than PTM_STATE_BLOB_SIZE."""
    (tmp_path / "blob").write_bytes(bytes(2 * ptm.STATE_BLOB_CHUNK + extra))
    client.run("power off")
    client.run("load", "permanent", tmp_path / "blob")
    sizes = [len(request.data) for request in client.requests]
    assert sum(sizes) == 2 * ptm.STATE_BLOB_CHUNK + extra
    assert [size for size in sizes if size < ptm.STATE_BLOB_CHUNK] == sizes[-1:]


def test_store_volatile(client, service):
    assert client.run("store-volatile")[0] == 0
    assert "volatilestate" in service.storage.blobs


def test_info(client):
    info = client.json("info")["info"]
    assert info["TPMSpecification"]["family"] == "2.0"
    assert set(info) >= {"TPMSpecification", "TPMAttributes"}
    assert list(client.json("info", "--flags", "attributes")["info"]) == ["TPMAttributes"]
    assert client.requests[0] == ptm.GetInfo(2)
    assert json.loads(client.run("info", "--flags", "1")[1])["TPMSpecification"]["family"] == "2.0"


def test_config(client):
    assert client.run("config")[1] == "state-key: none\nmigration-key: none\n"
    assert client.json("config") == {"device": DEVICE, "operation": "config", "keys": [], "flags": 0}


def test_buffer_size(client):
    _size, least, most = libtpms.set_buffer_size(0)  # each version of it has its own
    assert client.run("buffer-size")[1] == f"the TPM's buffer has {most} bytes (from {least} to {most} are possible)\n"
    client.run("power off")
    smallest = client.json("buffer-size", "1")
    assert (smallest["size"], smallest["minimum"], smallest["maximum"]) == (least, least, most)


def test_cancel(client):
    assert client.run("cancel")[0] == 0
    assert client.requests == [ptm.CancelTpmCommand()]


def test_others_may_look_and_no_more(client, service, tmp_path):
    client.uid = STRANGER
    for command in ("capabilities", "info", "config", "established", "buffer-size"):
        assert client.run(command)[0] == 0, command
    for command, *arguments in (
        ["init"],
        ["power off"],
        ["power reset"],
        ["shutdown"],
        ["locality", "3"],
        ["hash", "/dev/null"],
        ["store-volatile"],
    ):
        status, out, err = client.run(command, *arguments)
        assert (status, out) == (77, "")
        assert err.endswith(
            "is not permitted to you\n  remedy: run this as root, or join the [control] group of the instance "
            "(vtpm.d(5))\n"
        )
    assert service.tpm.power is Power.RUNNING


def test_to_root_it_is_not_said_to_be_root(client, monkeypatch):
    """That of a container is somebody else to the service."""
    client.uid = STRANGER
    monkeypatch.setattr(tpm_control, "is_root", lambda: True)
    status, _, err = client.run("power off")
    assert (status, "run this as root" in err) == (77, False)
    assert "a container's root is another user to the service" in err


def test_secrets_are_not_for_the_control_group(client, tmp_path):
    client.uid = OPERATOR
    file = tmp_path / "file"
    file.write_text("before")
    status, _, err = client.run("save", "permanent", file)
    assert status == 77
    assert err == (
        f"vtpmctl: {DEVICE}: PTM_GET_STATEBLOB is not permitted to you\n"
        "  remedy: run this as root: state in clear holds every secret of the TPM\n"
    )
    assert Path(file).read_text() == "before"
    assert client.run("power off")[0] == 0
