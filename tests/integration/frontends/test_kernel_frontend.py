"""The front end for the kernel with a real TPM. The kernel's end of the descriptor is played by a socket that keeps
messages apart, as the driver does; the driver itself is in tests/lab/vm/test_kernel_tpm.py."""

import fcntl
import socket
import struct
import termios
import threading

import pytest
from tpm_commands import CREATE_RSA, GET_RANDOM, NV_DEFINE_COUNTER, PCR_READ_16, STARTUP_CLEAR, result_of, with_session
from tpm_service import ThreadedService

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.frontends.kernel import vtpmx
from swtpm_svc.frontends.kernel.kernel_frontend import KernelFrontend
from swtpm_svc.frontends.kernel.vtpmx import KernelTpm

h = bytes.fromhex
SUCCESS = h("8001 0000000a 00000000")
TPM_RC_LOCALITY = 0x907


def set_locality(locality):
    """What the driver sends before a command (vtpmx.h: TPM2_CC_SET_LOCALITY)."""
    return h("8002 0000000b 20001000") + bytes([locality])


#: TPM2_PCR_Extend of PCR 17, which is for localities 2 to 4 (PC Client Platform TPM Profile, "PCR Attributes").
PCR_EXTEND_17 = with_session(0x182, h("00000011"), h("00000001 000b") + bytes(range(32)))


class Kernel(ThreadedService):
    """`ask` as the driver: one command, one response."""

    def __init__(self):
        super().__init__()
        ours, self.end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.end.settimeout(30)
        self.gone = []
        self.start(startup=None)
        self.frontend = KernelFrontend(
            self.loop, self.dispatcher, KernelTpm(ours.detach(), 7), lambda: self.gone.append(1)
        )
        self.serve()

    def ask(self, command):
        self.end.sendall(command)
        return self.end.recv(4096)

    def close(self):
        super().close()
        self.end.close()


@pytest.fixture
def kernel():
    kernel = Kernel()
    yield kernel
    kernel.close()


def test_commands_and_responses(kernel):
    assert (kernel.frontend.tpm.path, kernel.frontend.tpm.resource_manager) == ("/dev/tpm7", "/dev/tpmrm7")
    assert kernel.ask(STARTUP_CLEAR) == SUCCESS
    assert result_of(kernel.ask(GET_RANDOM)) == 0
    assert result_of(kernel.ask(CREATE_RSA)) == 0, "on the worker"
    assert result_of(kernel.ask(PCR_READ_16)) == 0


def test_the_next_command_is_read_when_the_one_before_is_answered(kernel, monkeypatch):
    """The driver gives a command up in time, and takes a late answer for that of the next one once that has been
    read."""
    kernel.ask(STARTUP_CLEAR)
    stalled = threading.Event()
    monkeypatch.setattr(kernel.tpm._storage, "commit", lambda: stalled.wait(30))
    kernel.end.sendall(NV_DEFINE_COUNTER)
    while not kernel.executor.busy:
        threading.Event().wait(0.01)
    kernel.end.sendall(PCR_READ_16)
    threading.Event().wait(0.2)
    unread = struct.unpack("i", fcntl.ioctl(kernel.frontend.tpm.fd, termios.FIONREAD, bytes(4)))
    assert unread == (len(PCR_READ_16),)
    stalled.set()
    assert [len(kernel.end.recv(4096)) for _ in range(2)] == [19, 62]


def test_the_driver_says_at_which_locality_its_commands_are(kernel):
    kernel.ask(STARTUP_CLEAR)
    assert result_of(kernel.ask(PCR_EXTEND_17)) == TPM_RC_LOCALITY
    assert kernel.ask(set_locality(3)) == SUCCESS
    assert result_of(kernel.ask(PCR_EXTEND_17)) == 0
    assert kernel.tpm.locality == 0, "that of other clients is another"
    assert result_of(kernel.ask(set_locality(5))) == TPM_RC_LOCALITY
    assert kernel.ask(set_locality(0)) == SUCCESS
    assert result_of(kernel.ask(PCR_EXTEND_17)) == TPM_RC_LOCALITY


@pytest.mark.parametrize(
    "command", [h("8001"), h("8001 00000006"), h("ffff ffffffff ffffffff"), bytes(4096), h("8001 0000000a 20001000")]
)
def test_nonsense_is_answered(kernel, command):
    """A program that has /dev/tpmN open decides over everything but the first six bytes."""
    assert len(kernel.ask(command)) >= 10
    assert kernel.ask(STARTUP_CLEAR) == SUCCESS
    assert kernel.events.failures == []


def test_what_a_predecessor_had_taken_is_answered(kernel):
    kernel.frontend.give_up()
    assert result_of(kernel.end.recv(4096)) == 0x101


def test_the_end_of_the_descriptor_is_told_once(kernel):
    kernel.end.close()
    for _ in range(100):
        if kernel.gone:
            break
        threading.Event().wait(0.05)
    assert kernel.gone == [1]


def test_no_vtpmx_is_an_error_with_a_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(vtpmx, "VTPMX_PATH", str(tmp_path / "vtpmx"))
    with pytest.raises(VtpmError) as caught:
        vtpmx.create("2.0")
    assert caught.value.code is Code.KERNEL_TPM_UNAVAILABLE
    assert caught.value.message == f"{tmp_path}/vtpmx: No such file or directory"
    assert caught.value.remedy == (
        "modprobe tpm_vtpm_proxy; some kernels have it in a package of extra modules, some not at all"
    )
    (tmp_path / "vtpmx").touch()
    with pytest.raises(VtpmError) as caught:
        vtpmx.create("2.0")
    assert "takes root" in caught.value.remedy
