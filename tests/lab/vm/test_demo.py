"""What `make run` does where systemd is process 1 and there is a /dev/cuse, once the package is installed."""

import pytest
from services import run, show

pytestmark = pytest.mark.needs("systemd", "root", "cuse", "tpm2-tools", "swtpm_ioctl")


def test_two_tpms_come_up_are_talked_to_and_stop():
    told = run("tools/demo.sh", "unit", "no", timeout=180).stdout
    assert "a TPM 1.2, as it says itself" in told
    assert told.endswith("both are gone, their state is in /var/lib/vtpm\n")
    assert [show(name, "ActiveState") for name in ("vtpm0", "vtpm1")] == ["inactive"] * 2
