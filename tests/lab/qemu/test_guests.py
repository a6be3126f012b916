"""Guests at the same time, each with a TPM of its own: firmware measures, kernels talk, a reboot resets what it is to
reset."""

from collections import namedtuple

import pytest
from dialects import DIALECTS, Tpm20
from lab import at_once
from memory import NV_TEXT, OUR_PCR

pytestmark = pytest.mark.needs("qemu", "ovmf", "busybox", "binding")


#: UEFI, where `firmware` names none it is QEMU's own SeaBIOS.
OVMF = "/usr/share/OVMF/OVMF_CODE_4M.fd"

Case = namedtuple("Case", "name version device firmware")
CASES = [
    Case("vtpm0", "1.2", "tpm-tis", None),
    Case("vtpm1", "2.0", "tpm-crb", OVMF),
    Case("vtpm2", "2.0", "tpm-tis", None),
]


@pytest.fixture(scope="module")
def machines(lab):
    """All machines, started at once; every TPM has an endorsement key."""
    found = {}
    for case in CASES:
        service = lab.service(case.name, case.version)
        found[case.name] = lab.machine(f"guest-{case.name}", service, case.device, firmware=case.firmware)
    at_once(*(machine.guest.wait_until_booted for machine in found.values()))
    tpm_of(found["vtpm0"]).make_endorsement_key()
    return found


def tpm_of(machine):
    return DIALECTS[machine.guest.version](machine.guest.execute)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.version}-{case.device}")
def test_a_reboot_resets_the_pcrs_and_keeps_the_rest(machines, case):
    machine = machines[case.name]
    tpm = tpm_of(machine)
    blank = bytes(tpm.digest_bytes)

    measured = [tpm.read_pcr(number) for number in range(8)]
    assert blank not in measured  # the firmware has extended each,
    assert len(set(measured)) > 1  # and not only with the separator, the same in all
    assert tpm.read_pcr(10) != blank  # the kernel's IMA
    assert tpm.read_pcr(OUR_PCR) == blank

    tpm.extend_pcr(OUR_PCR, bytes(range(tpm.digest_bytes)))
    assert tpm.read_pcr(OUR_PCR) != blank
    tpm.write_nv(NV_TEXT)
    key = tpm.endorsement_key()

    machine.guest.reboot()
    assert tpm.read_pcr(OUR_PCR) == blank
    assert [tpm.read_pcr(number) for number in range(8)] == measured
    assert tpm.read_nv(len(NV_TEXT)) == NV_TEXT
    assert tpm.endorsement_key() == key


def test_each_has_an_endorsement_key_of_its_own(machines):
    moduli = {tpm_of(machine).endorsement_key()[-256:] for machine in machines.values()}
    assert len(moduli) == len(CASES)


def test_a_guest_that_ends_ends_the_service(machines):
    """QEMU shuts the TPM down; the service's unit says what comes next."""
    machine = machines["vtpm1"]
    machine.guest.power_off()
    assert machine.wait() == 0
    assert machine.service.wait() == 0


def test_a_qemu_that_is_killed_leaves_the_tpm_to_the_next(lab, machines):
    killed = machines["vtpm2"]
    tpm = tpm_of(killed)
    key = tpm.endorsement_key()
    tpm.extend_pcr(OUR_PCR, bytes(range(32)))
    killed.close()

    successor = lab.machine("successor", killed.service, "tpm-crb")
    successor.guest.wait_until_booted()
    tpm = tpm_of(successor)
    assert tpm.read_pcr(OUR_PCR) == bytes(32)
    assert tpm.endorsement_key() == key


@pytest.mark.needs("fuse", "root")
def test_a_tpm_that_is_passed_through_goes_on_when_the_guest_reboots(lab):
    """As with a chip of the host: its power is not the guest's.

    The guest's firmware has to be the first to start it.
    """
    service = lab.service("files", fuse=True)
    guest = lab.machine("passthrough", service, "tpm-tis", passthrough=service.tpm).guest
    guest.wait_until_booted()
    tpm = Tpm20(guest.execute)
    measured = [tpm.read_pcr(number) for number in range(8)]
    assert bytes(32) not in measured
    tpm.extend_pcr(OUR_PCR, bytes(range(32)))
    extended = tpm.read_pcr(OUR_PCR)
    tpm.write_nv(NV_TEXT)
    guest.reboot()
    assert tpm.read_pcr(OUR_PCR) == extended
    assert tpm.read_nv(len(NV_TEXT)) == NV_TEXT
