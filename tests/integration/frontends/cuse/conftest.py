"""The front end on a running TPM 2.0, and the kernel that talks to it."""

import pytest
from cuse_service import CuseService


@pytest.fixture
def service():
    service = CuseService().start()
    yield service
    service.close()


@pytest.fixture
def kernel(service):
    return service.kernel
