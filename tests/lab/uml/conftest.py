"""What the tests in User-Mode Linux share: an instance for a test, and the helper modules on the import path."""

import os
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../integration"))
sys.path.insert(0, os.path.dirname(__file__))

from manager import Instance


@pytest.fixture
def instance(request):
    """Makes instances, and removes what they were."""
    made = []

    def make(name="vtpm0", **kw):
        made.append(Instance(name, **kw))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def tpm2(instance):
    """A TPM 2.0 that is started, at /dev/vtpm0."""
    return instance().start()
