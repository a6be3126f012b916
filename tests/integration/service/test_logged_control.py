"""What swtpm_cuse logs of its control operations, beside a TPM in this process."""

import pytest
from memory_storage import MemoryStorage
from tpm_service import put_away

from swtpm_svc.errors import Code, VtpmError
from swtpm_svc.service.classic.logged_control import LoggedController
from swtpm_svc.tpm.tpm import Tpm
from swtpm_svc.wire import ptm

PERMANENT, VOLATILE = 1, 2


class Storage(MemoryStorage):
    fails = False

    def load(self, name):
        if self.fails:
            raise VtpmError(Code.STATE_UNREADABLE, "a reason", remedy="")
        return super().load(name)


@pytest.fixture
def make():
    tpms = []

    def make(lines, *, tells_blobs=True):
        storage = Storage()
        tpms.append(Tpm("2.0", storage, lambda error: lines.append(error.message)))
        controller = LoggedController(
            tpms[-1],
            log=lines.append,
            tells_blobs=tells_blobs,
            on_shutdown=lambda: None,
            on_error=lambda error: lines.append(error.message),
        )
        return controller, storage

    yield make
    for tpm in tpms:
        put_away(tpm)


def test_blobs_that_go_over_the_device(make):
    lines = []
    controller, _storage = make(lines)
    assert controller.handle(ptm.GetStateBlob(0, PERMANENT, 0)).tpm_result == 0x0A
    controller.handle(ptm.Init(0))
    whole = controller.handle(ptm.GetStateBlob(0, VOLATILE, 0)).data
    assert controller.handle(ptm.SetStateBlob(0, VOLATILE, whole)).tpm_result == 0x0A
    controller.handle(ptm.Stop())
    assert controller.handle(ptm.SetStateBlob(0, VOLATILE, whole)).tpm_result == 0
    assert controller.handle(ptm.Init(0)).tpm_result == 0
    size = len(whole)
    assert size > 8000
    assert lines == [
        "Serialized state type 1, length=0, totlength=0, res=10",
        f"Serialized state type 2, length={size}, totlength={size}, res=0",
        f"Deserialized state type 2 (volatilestate), length={size}, res=10",
        f"Deserialized state type 2 (volatilestate), length={size}, res=0",
    ]


def test_blobs_that_go_over_a_socket_are_not_told(make):
    lines = []
    controller, _storage = make(lines, tells_blobs=False)
    controller.handle(ptm.Init(0))
    assert controller.handle(ptm.GetStateBlob(0, VOLATILE, 0)).tpm_result == 0
    assert lines == []


def test_an_init_that_fails(make):
    lines = []
    controller, storage = make(lines)
    storage.fails = True
    assert controller.handle(ptm.Init(0)).tpm_result != 0
    assert lines == ["a reason", "Error: Could not initialize libtpms.", "Error: Could not initialize the TPM"]
    storage.fails = False
    assert controller.handle(ptm.Init(0)).tpm_result == 0
