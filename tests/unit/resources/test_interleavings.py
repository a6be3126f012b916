"""Any order of what clients do in up to five spaces and on the raw node: each sees what it would see alone."""

import played_clients
from hypothesis import given, settings
from hypothesis import strategies as st
from played_tpm import (
    HASH_SEQUENCE_START,
    PASSWORD,
    SEQUENCE_COMPLETE,
    SEQUENCE_UPDATE,
    PlayedTpm,
    command,
    handles_in,
    list_handles,
    number_in,
    result,
)
from space_model import ACTIONS, SPACES, Model, Refused

from swtpm_svc.resources.manager import ResourceManager

STEPS = st.lists(
    st.tuples(st.integers(0, SPACES), st.sampled_from(ACTIONS), st.integers(0, 1000)), min_size=100, max_size=250
)


def asked(response):
    if result(response):
        raise Refused(result(response))
    return response


class Asking:
    """A client as the model wants it."""

    def __init__(self, client):
        self.client = client
        self.close = getattr(client, "close", None)
        self.create = client.create

    def start(self, choice):
        return self.client.start(choice % 2)

    def read(self, handle):
        return number_in(asked(self.client.read(handle)))

    def digest(self, session):
        return number_in(asked(self.client.digest(session)))

    def save(self, handle):
        return asked(self.client(command(0x162, handle)))[10:]

    def load_context(self, context):
        return number_in(asked(self.client.load(context)))

    def flush(self, handle):
        rc = self.client.flush(handle)
        if rc:
            raise Refused(rc)

    def listed(self, first):
        return handles_in(self.client(list_handles(first)))[0]

    def start_sequence(self):
        return number_in(self.client(command(HASH_SEQUENCE_START)))

    def update_sequence(self, handle, _data):
        asked(self.client(command(SEQUENCE_UPDATE, handle, sessions=[PASSWORD])))

    def complete_sequence(self, handle):
        return number_in(self.client(command(SEQUENCE_COMPLETE, handle, sessions=[PASSWORD])), 1)

    digest_of = len


@settings(max_examples=150)
@given(STEPS, st.integers(3, 4), st.integers(3, 4), st.sampled_from([40, 200, 0xFFFF]))
def test_each_sees_what_it_would_see_alone(steps, objects, sessions, gap):
    tpm = PlayedTpm(objects=objects, sessions=sessions, gap=gap)
    manager = ResourceManager(tpm)
    model = Model(lambda uid: Asking(played_clients.Managed(manager, uid)), Asking(played_clients.Raw(manager, tpm)))
    for step in steps:
        model.do(*step)
    model.finish()
    assert tpm.numbers == []
    assert manager.is_idle
