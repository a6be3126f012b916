"""A TPM in this process, as `execute(command) -> response`: what provisioning talks to when there is no daemon yet."""

from contextlib import contextmanager

from memory_storage import MemoryStorage

from swtpm_svc.tpm.tpm import Tpm
from swtpm_svc.wire.tpm_header import HEADER


@contextmanager
def tpm_in_process(version, *, storage=None, startup="clear"):
    failures = []
    tpm = Tpm(version, storage or MemoryStorage(), failures.append)
    tpm.power_on(delete_volatile=True)
    if startup:
        assert tpm.startup(startup)[6:10] == bytes(4)
    try:
        yield lambda command: tpm.execute(memoryview(bytearray(command)), HEADER.unpack_from(command)[2])
    finally:
        tpm.shut_down()
    assert failures == []
