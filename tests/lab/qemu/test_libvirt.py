"""libvirt's external backend: a domain of QEMU's own emulation that uses a vtpmd as it serves."""

import grp
import os
import stat

import pytest
from dialects import Tpm20
from memory import OUR_PCR, Memory

pytestmark = pytest.mark.needs("root", "libvirt", "qemu", "busybox", "binding")

#: Not libvirt's own user: the service's, who may have the state. In this lab that is root.
AS_THE_SERVICE = "<seclabel type='static' model='dac' relabel='yes'><label>+0:+0</label></seclabel>"


@pytest.fixture(scope="module")
def libvirt(lab):
    return lab.libvirt()


def test_libvirts_user_needs_the_control_group_and_no_more_for_a_guest(lab, libvirt):
    group = grp.getgrnam("libvirt-qemu").gr_gid
    service = lab.service("member", group=group)
    guest = libvirt.create(service, "tpm-crb")
    guest.wait_until_booted()
    tpm = Tpm20(guest.execute)
    assert bytes(32) not in [tpm.read_pcr(number) for number in range(8)]
    tpm.extend_pcr(OUR_PCR, bytes(range(32)))
    guest.reboot()
    assert tpm.read_pcr(OUR_PCR) == bytes(32)

    # the state in clear is not the group's: libvirt says so, and the guest goes on
    tpm.extend_pcr(OUR_PCR, bytes(range(32)))
    extended = tpm.read_pcr(OUR_PCR)
    assert "Failed to save domain" in libvirt.refuses("save", "guest", libvirt.image)
    assert tpm.read_pcr(OUR_PCR) == extended

    # libvirt gives and takes the files of a domain to and from its user, but not this socket
    socket_file = os.stat(service.control)
    assert (socket_file.st_uid, socket_file.st_gid, stat.S_IMODE(socket_file.st_mode)) == (0, group, 0o660)
    libvirt.virsh("destroy", "guest")
    assert service.wait() == 0


def test_libvirt_without_the_control_group_does_not_start(lab, libvirt):
    service = lab.service("outsider")
    with pytest.raises(AssertionError, match="Permission denied"):
        libvirt.create(service, "tpm-crb")


def test_a_saved_domain_is_restored_with_its_tpm(lab, libvirt):
    service = lab.service("saved")
    guest = libvirt.create(service, "tpm-crb", AS_THE_SERVICE)
    guest.wait_until_booted()
    memory = Memory(guest)
    libvirt.save()
    assert service.wait() == 0
    service.start()
    libvirt.restore()
    memory.check(guest)
