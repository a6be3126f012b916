"""Any order of what clients do in up to five spaces and on the raw node, over libtpms."""

import hashlib
from itertools import count

import space_client
from hypothesis import given, settings
from hypothesis import strategies as st
from space_client import uint32
from space_model import ACTIONS, SPACES, Model, Refused

from swtpm_svc.resources.manager import ResourceManager

STEPS = st.lists(
    st.tuples(st.integers(0, SPACES), st.sampled_from(ACTIONS), st.integers(0, 1000)), min_size=100, max_size=250
)
#: What a policy session can be restricted to, so that its digest is its own.
CODES = range(0x147, 0x150)


class Asking:
    """A client as the model wants it."""

    numbers = count(1)

    def __init__(self, client):
        self.client = client
        self.close = getattr(client, "close", None)
        self.read, self.digest, self.save = client.unique, client.digest, client.save
        self.load_context, self.listed = client.load_context, client.listed
        self.start_sequence, self.update_sequence = client.start_sequence, client.update_sequence
        self.complete_sequence = client.complete_sequence

    def create(self):
        number = next(self.numbers)
        return self.client.load_external(number), number

    def start(self, choice):
        session = self.client.start(1)
        code = CODES[choice % len(CODES)]
        self.client.only_for(session, code)
        return session, hashlib.sha256(bytes(32) + uint32(0x16C, code)).digest()

    def flush(self, handle):
        rc = self.client.flush(handle)
        if rc:
            raise Refused(rc)

    @staticmethod
    def digest_of(data):
        return hashlib.sha256(data).digest()


@settings(max_examples=100)
@given(STEPS)
def test_each_sees_what_it_would_see_alone_over_libtpms(shared, steps):
    shared.manager = manager = ResourceManager(shared.execute)
    model = Model(lambda uid: Asking(space_client.Managed(manager, uid)), Asking(shared.raw))
    for step in steps:
        model.do(*step)
    model.finish()
    assert shared.left() == []
    assert manager.is_idle
