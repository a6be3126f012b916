"""What the tests of the resource manager share: one over a TPM in this process."""

import pytest
from space_client import SpaceClient
from tpm_service import Service

from swtpm_svc.resources.manager import ResourceManager


class ManagedTpm:
    """A TPM, its resource manager and how many commands it was sent."""

    def __init__(self):
        self.service = Service("2.0", post=None)
        self.service.start()
        self.codes = []
        #: Does a command wait until what it has changed is stored?
        self.stores = True
        self.manager = ResourceManager(self.execute)
        #: The raw TPM, without anybody's giving way.
        self.bare = SpaceClient(self.service.execute)
        self.raw = SpaceClient(self.execute_raw)

    def execute(self, whole):
        code = int.from_bytes(whole[6:10], "big")
        self.codes.append(code)
        if self.stores:
            return self.service.tpm.execute(memoryview(whole), code)
        return self.service.tpm.begin(memoryview(whole), code)

    def execute_raw(self, whole):
        if not self.manager.is_idle:
            self.manager.give_way(whole)
        return self.service.execute(whole)

    def left(self):
        """What the TPM has of objects and sessions."""
        return [handle for first in (0x80000000, 0x02000000, 0x03000000) for handle in self.bare.listed(first)]

    def close(self):
        self.service.close()
        assert self.service.events.failures == []


def _made():
    made = ManagedTpm()
    yield made
    made.close()


managed = pytest.fixture(_made)
#: For all examples of a property.
shared = pytest.fixture(_made, scope="module")
