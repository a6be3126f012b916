"""Shares: no user, nor all others together, can take what another may have."""

from hypothesis import given
from hypothesis import strategies as st

from swtpm_svc.frontends.shares import Shares, too_many


def fill(shares, uid):
    while shares.has_room(uid):
        shares.add(uid)
    return shares.of(uid)


def test_a_user_has_his_share_and_root_always_has_his():
    shares = Shares(16, 4)
    assert [fill(shares, uid) for uid in (1, 2, 3)] == [4, 4, 4]
    assert fill(shares, 4) == 0  # the others' part is taken
    assert fill(shares, 0) == 4
    assert len(shares) == 16
    shares.remove(2)
    assert fill(shares, 4) == 1


def test_what_a_predecessor_gave_stays_and_is_counted():
    shares = Shares(8, 2)
    for _ in range(5):
        shares.add(7)
    assert not shares.has_room(7)
    assert "5 open files of user 7, 5 in all" in str(too_many("open files", shares, 7))
    for _ in range(4):
        shares.remove(7)
    assert shares.has_room(7)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=200))
def test_whatever_comes_and_goes_nobody_exceeds_his_share(steps):
    shares, taken = Shares(12, 4), dict.fromkeys(range(6), 0)
    for uid, comes in steps:
        if comes and shares.has_room(uid):
            shares.add(uid)
            taken[uid] += 1
        elif not comes and taken[uid]:
            shares.remove(uid)
            taken[uid] -= 1
        assert max(taken.values()) <= 4
        assert sum(taken.values()) - taken[0] <= 8
        assert taken[0] == 4 or shares.has_room(0)
        assert len(shares) == sum(taken.values())
