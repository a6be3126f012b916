"""As whom the files of a state are written again: root becomes their owner, before it reads a word of them."""

import os
from types import SimpleNamespace

import pytest

from swtpm_svc.cli.vtpmctl import key_places, rekey
from swtpm_svc.errors import Code, VtpmError


@pytest.fixture
def steps(monkeypatch):
    """What was called, in order."""
    found = []
    for name in ("setgroups", "setresgid", "setresuid"):
        monkeypatch.setattr(os, name, lambda *values, name=name: found.append((name, *values)))
    return found


@pytest.mark.parametrize("owner", [1, 990])
def test_root_becomes_the_owner_with_no_group_left_and_no_way_back(steps, monkeypatch, owner):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    rekey._become(SimpleNamespace(st_uid=owner, st_gid=77))
    # the user last: who is not root any more can change neither groups nor group
    assert steps == [("setgroups", []), ("setresgid", 77, 77, 77), ("setresuid", owner, owner, owner)]


@pytest.mark.parametrize(("user", "owner"), [(0, 0), (990, 990)])
def test_who_is_the_owner_stays_what_it_is(steps, monkeypatch, user, owner):
    monkeypatch.setattr(os, "geteuid", lambda: user)
    rekey._become(SimpleNamespace(st_uid=owner, st_gid=77))
    assert steps == []


@pytest.mark.parametrize("user", [0, "owner", "another"])
def test_only_root_and_the_owner_may(tmp_path, monkeypatch, user):
    owner = os.stat(tmp_path).st_uid
    number = {"owner": owner, "another": owner + 1}.get(user, user)
    monkeypatch.setattr(os, "geteuid", lambda: number)
    if user == "another":
        with pytest.raises(VtpmError) as caught:
            key_places.owner_of(str(tmp_path))
        assert caught.value.code is Code.NOT_PERMITTED
        assert caught.value.message == f"{tmp_path} belongs to user {owner}"
        assert caught.value.remedy
    else:
        assert key_places.owner_of(str(tmp_path)).st_uid == owner


def test_a_state_that_is_not_there(tmp_path):
    with pytest.raises(VtpmError, match="there is no") as caught:
        key_places.owner_of(str(tmp_path / "none"))
    assert caught.value.code is Code.STATE_MISSING
