"""Which systemd unit a process belongs to, from lines of /proc/PID/cgroup as machines have them."""

import pytest

from swtpm_svc.state.lock import _unit


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
