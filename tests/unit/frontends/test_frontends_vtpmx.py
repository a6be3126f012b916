"""How a TPM of the kernel is asked for, with a file for /dev/vtpmx: what is asked, what is kept, and why there is none.

The driver itself is in tests/lab/vm/test_kernel_tpm.py.
"""

import errno
import os
import struct

import pytest

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.frontends.kernel import vtpmx


@pytest.fixture
def control(tmp_path, monkeypatch):
    """A file for /dev/vtpmx; `answer` is what its ioctl does with the request."""
    path = tmp_path / "vtpmx"
    path.touch()
    monkeypatch.setattr(vtpmx, "VTPMX_PATH", str(path))

    def answer(ioctl):
        monkeypatch.setattr(vtpmx.fcntl, "ioctl", ioctl)

    return path, answer


def is_open(path):
    own = "/proc/self/fd"
    return any(os.path.realpath(f"{own}/{name}") == str(path) for name in os.listdir(own))


@pytest.mark.parametrize(("version", "flags"), [("1.2", 0), ("2.0", 1)])
def test_the_kernel_s_answer_is_a_number_and_a_descriptor(control, version, flags):
    path, answer = control
    reader, writer = os.pipe()
    os.set_inheritable(reader, True)

    def ioctl(fd, number, request, mutate):
        assert os.path.realpath(f"/proc/self/fd/{fd}") == str(path)
        assert not os.get_inheritable(fd)
        assert (number, bytes(request), mutate) == (0xC014A100, struct.pack("=5I", flags, 0, 0, 0, 0), True)
        struct.pack_into("=5I", request, 0, flags, 7, reader, 10, 224)

    answer(ioctl)
    tpm = vtpmx.create(version)
    assert (tpm.fd, tpm.path, tpm.resource_manager) == (reader, "/dev/tpm7", "/dev/tpmrm7")
    assert not os.get_inheritable(reader)
    assert not is_open(path)
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENODEV, errno.ENXIO])
def test_a_kernel_that_makes_none_is_told_and_nothing_stays_open(control, number):
    path, answer = control

    def ioctl(*_arguments):
        raise OSError(number, os.strerror(number))

    answer(ioctl)
    with pytest.raises(VtpmError) as caught:
        vtpmx.create("2.0")
    assert caught.value.code is Code.KERNEL_TPM_UNAVAILABLE
    assert caught.value.message == f"{path}: {os.strerror(number)}"
    assert caught.value.remedy.startswith("it takes root" if number == errno.EPERM else "modprobe tpm_vtpm_proxy")
    assert not is_open(path)


def test_no_driver(control):
    path, _answer = control
    path.unlink()
    with pytest.raises(VtpmError) as caught:
        vtpmx.create("2.0")
    assert caught.value.code is Code.KERNEL_TPM_UNAVAILABLE
    assert caught.value.remedy.startswith("modprobe tpm_vtpm_proxy")
