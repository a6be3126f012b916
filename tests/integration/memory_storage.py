"""A TPM's storage for tests that are about the TPM, not about files."""

from swtpm_svc.errors import Code, VtpmError


class MemoryStorage:
    """Storage that a test can look into, and make fail."""

    def __init__(self):
        self.blobs = {}
        self.stores = []
        self.failure = None

    is_locked = True
    #: Whether somebody else has it.
    is_taken = False

    def lock(self):
        if self.is_taken:
            raise VtpmError(Code.STATE_LOCKED, "another one has it")
        self.is_locked = True

    def unlock(self):
        self.is_locked = False

    def load(self, name):
        return self.blobs.get(name)

    def store(self, name, payload):
        if self.failure is not None:
            raise self.failure
        self.stores.append(name)
        self.blobs[name] = payload

    def delete(self, name, *, must_exist):
        self.blobs.pop(name, None)

    def probe(self):
        if self.failure is not None:
            raise self.failure

    def damaged(self, name, reason):
        return VtpmError(Code.STATE_CORRUPT, f"{name}: {reason}")
