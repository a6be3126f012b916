"""Clients of a resource manager over a TPM that is played."""

from played_tpm import (
    CONTEXT_LOAD,
    CONTEXT_SAVE,
    CREATE_PRIMARY,
    FLUSH_CONTEXT,
    NULL,
    OWNER,
    PASSWORD,
    POLICY_GET_DIGEST,
    READ_PUBLIC,
    START_AUTH_SESSION,
    command,
    number_in,
    result,
    uint32,
)

from swtpm_svc.wire.caller import Caller

CREATE = command(CREATE_PRIMARY, OWNER, sessions=[PASSWORD])


def start_session(kind=0):
    return command(START_AUTH_SESSION, NULL, NULL, parameters=bytes([kind]))


class Client:
    """What a client says, by whichever way."""

    def __call__(self, whole):
        raise NotImplementedError

    def create(self):
        """The handle and the number of a new object."""
        response = self(CREATE)
        return number_in(response), number_in(response, 1)

    def read(self, handle):
        return self(command(READ_PUBLIC, handle))

    def start(self, kind=0):
        response = self(start_session(kind))
        return number_in(response), number_in(response, 1)

    def digest(self, session):
        return self(command(POLICY_GET_DIGEST, session))

    def save(self, handle):
        response = self(command(CONTEXT_SAVE, handle))
        assert result(response) == 0
        return response[10:]

    def load(self, context):
        return self(command(CONTEXT_LOAD, parameters=context))

    def flush(self, handle):
        return result(self(command(FLUSH_CONTEXT, parameters=uint32(handle))))


class Managed(Client):
    """One of the managed node, in a space of its own."""

    def __init__(self, manager, uid=1000):
        self.manager = manager
        self.space = manager.open(Caller(uid, uid, 1))

    def __call__(self, whole):
        return self.manager.execute(self.space, bytearray(whole))

    def close(self):
        self.manager.close(self.space)


class Raw(Client):
    """One of the raw node."""

    def __init__(self, manager, tpm):
        self.manager, self.tpm = manager, tpm

    def __call__(self, whole):
        if not self.manager.is_idle:
            self.manager.give_way(bytearray(whole))
        return self.tpm(bytearray(whole))
