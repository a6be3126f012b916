"""The fuzz targets on their seeds: a run of atheris (make fuzz) begins with what works."""

import os
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), os.pardir, os.pardir, "fuzz"))

import targets


@pytest.mark.parametrize("target", sorted(targets.TARGETS))
def test_the_seeds(target):
    runner = targets.TARGETS[target]()
    for seed in targets.seeds(target):
        for cut in (seed, seed[:-1], seed + seed, seed[:5]):
            getattr(runner, target)(cut)
    runner.service.tpm.shut_down()
