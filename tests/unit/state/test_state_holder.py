"""Which systemd unit a process belongs to, from lines of /proc/PID/cgroup as machines have them."""

import errno
import os

import pytest

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.state.lock import Holder, StateLock, _unit, find_holder


@pytest.mark.parametrize(
    ("cgroups", "unit", "of_user"),
    [
        ("0::/system.slice/system-vtpm.slice/vtpm@old.service\n", "vtpm@old.service", False),
        ("12:pids:/x.service\n1:name=systemd:/system.slice/swtpm.service\n0::/\n", "swtpm.service", False),
        ("0::/system.slice/vtpm@a.service/payload\n", "vtpm@a.service", False),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/vm.service\n", "vm.service", True),
        ("0::/user.slice/user-1000.slice/user@1000.service/init.scope\n", None, False),
        ("0::/user.slice/user-0.slice/session-3.scope\n", None, False),
        ("0::/machine.slice/machine-qemu\\x2d1\\x2dvm.scope/libvirt/emulator\n", None, False),
        ("0::/system.slice/vtpm@\\x64 a:b.service\n", "vtpm@\\x64 a:b.service", False),
        ("0::/\n", None, False),
        ("", None, False),
        ("garbage\n", None, False),
    ],
)
def test_the_unit_to_stop(cgroups, unit, of_user):
    assert _unit(cgroups) == (unit, of_user)


@pytest.mark.parametrize("manager", ["user", "system"])
def test_who_signed_the_file_is_told_with_his_manager(tmp_path, manager):
    """A process that may not be seen: its own word, in the file, of a TPM's service alone."""
    file = tmp_path / "lock"
    for unit, told in (("vtpm@vm.service", "vtpm@vm.service"), ("sshd.service", None), ("", None)):
        file.write_text(f"812\nvtpmd\n{unit}\n{manager}\n")
        with open(file, "rb") as opened:
            assert find_holder(opened.fileno(), 0) == Holder(812, "vtpmd", told, manager == "user")


@pytest.mark.parametrize(
    "text", ["", "812", "812\nvtpmd\n\nuser", "x\nvtpmd\n\nuser\n", "-1\na\n\nuser\n", "\u00b2\n\n\n\n"]
)
def test_what_is_no_signature_names_nobody(tmp_path, text):
    (tmp_path / "lock").write_text(text)
    with open(tmp_path / "lock", "rb") as opened:
        assert find_holder(opened.fileno(), 0) is None


def test_a_full_disk_takes_nobody_the_lock(tmp_path, monkeypatch):
    """Only the signature is lost: a TPM that runs with an older state needs no room on the disk."""

    def full(*_args):
        raise OSError(errno.ENOSPC, "")

    monkeypatch.setattr(os, "pwrite", full)
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        with StateLock.acquire(directory, str(tmp_path)) as lock:
            assert lock.fd >= 0
            assert (tmp_path / ".lock").read_bytes() == b""
            with pytest.raises(VtpmError) as refused:
                StateLock.acquire(directory, str(tmp_path))
            assert refused.value.code is Code.STATE_LOCKED
    finally:
        os.close(directory)
