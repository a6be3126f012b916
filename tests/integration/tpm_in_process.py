"""A TPM in this process, as `execute(command) -> response`: what provisioning talks to when there is no daemon yet."""

from contextlib import contextmanager

from tpm_service import Service


@contextmanager
def tpm_in_process(version, *, storage=None, startup="clear"):
    service = Service(version, post=None, storage=storage)  # nothing has to be posted: there is no front end
    try:
        yield service.start(startup).execute
    finally:
        service.close()
    assert service.events.failures == []
