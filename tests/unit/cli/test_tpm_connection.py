"""What vtpmctl says when the system refuses a TPM command: the device that is busy, denied or gone."""

import errno

import pytest

from swtpm_svc.cli import tpm_connection
from swtpm_svc.cli.tpm_control import Target
from swtpm_svc.errors import Code, VtpmError

TARGET = Target("vm1", "/dev/vm1", "vm1")
AVC = "see what denies it to root: ausearch -m avc -ts recent"


@pytest.mark.parametrize(
    ("number", "root", "code", "remedy"),
    [
        (errno.EBUSY, True, Code.BUSY, "try again when no other program uses the TPM"),
        (errno.EPERM, False, Code.NOT_PERMITTED, "run this as root"),
        (errno.EACCES, False, Code.NOT_PERMITTED, "run this as root"),
        (errno.EACCES, True, Code.NOT_PERMITTED, AVC),
        (errno.ENODEV, True, Code.DAEMON_UNREACHABLE, TARGET.start),
        (errno.ENOTCONN, True, Code.DAEMON_UNREACHABLE, TARGET.start),
        (errno.ECONNRESET, True, Code.DAEMON_UNREACHABLE, TARGET.start),
        (errno.EPIPE, True, Code.DAEMON_UNREACHABLE, TARGET.start),
        (errno.EIO, True, Code.LIBTPMS, f"see what the service says: {TARGET.journal}"),
    ],
)
def test_a_command_that_the_system_refuses(monkeypatch, number, root, code, remedy):
    monkeypatch.setattr(tpm_connection, "is_root", lambda: root)
    with pytest.raises(VtpmError) as refused:
        tpm_connection._refuse_exchange(TARGET, OSError(number, "in the system's words"))
    assert (refused.value.code, refused.value.remedy) == (code, remedy)
    assert refused.value.message == "vm1: the command was not answered (in the system's words)"
