"""The raw node beside spaces: its users find the TPM as if there were none."""

import pytest
from played_clients import CREATE, Managed, Raw, start_session
from played_tpm import (
    CLEAR,
    EVICT_CONTROL,
    FLUSH_CONTEXT,
    GET_RANDOM,
    HMAC,
    OWNER,
    PASSWORD,
    TRANSIENT,
    PlayedTpm,
    command,
    handles_in,
    list_handles,
    number_in,
    result,
)

from swtpm_svc.resources.manager import ResourceManager


@pytest.fixture
def tpm():
    return PlayedTpm()


@pytest.fixture
def manager(tpm):
    return ResourceManager(tpm)


@pytest.fixture
def raw(manager, tpm):
    return Raw(manager, tpm)


@pytest.fixture
def one(manager):
    return Managed(manager)


def test_the_raw_node_has_the_whole_tpm(raw, one):
    mine = [one.create() for _ in range(3)]
    sessions = [one.start() for _ in range(3)]
    assert handles_in(raw(list_handles(TRANSIENT))) == ([], False)
    made = [raw.create() for _ in range(3)]
    assert [handle for handle, _number in made] == [TRANSIENT, TRANSIENT + 1, TRANSIENT + 2]
    assert result(raw(CREATE)) == 0x902, "as ever"
    started = [raw.start() for _ in range(3)]
    assert result(raw(start_session())) == 0x903
    assert [handle for handle, _number in started] == [HMAC + 3, HMAC + 4, HMAC + 5], "those of spaces are active"
    for handle, number in mine:
        assert number_in(one.read(handle)) == number
    for handle, number in sessions:
        assert number_in(one.digest(handle)) == number
    for handle, number in made:
        assert number_in(raw.read(handle)) == number
    for handle, number in started:
        assert number_in(raw.digest(handle)) == number


def test_what_the_raw_node_has_left_behind_is_in_nobody_s_way(raw, one):
    made = [raw.create() for _ in range(3)]
    started = [raw.start() for _ in range(3)]
    mine = [one.create() for _ in range(4)]
    sessions = [one.start() for _ in range(4)]
    assert [number_in(one.read(handle)) for handle, _number in mine] == [number for _handle, number in mine]
    assert [number_in(one.digest(handle)) for handle, _number in sessions] == [number for _handle, number in sessions]
    assert handles_in(raw(list_handles(TRANSIENT))) == ([handle for handle, _number in made], False)
    assert [number_in(raw.read(handle)) for handle, _number in made] == [number for _handle, number in made]
    assert [number_in(raw.digest(handle)) for handle, _number in started] == [number for _handle, number in started]


@pytest.mark.parametrize("gaps", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), ()])
def test_its_objects_have_their_handles_again(tpm, raw, one, gaps):
    made = [raw.create() for _ in range(3)]
    for gap in gaps:
        raw.flush(made[gap][0])
    mine = [one.create() for _ in range(3)]
    for handle, number in mine:
        assert number_in(one.read(handle)) == number
    assert tpm.swaps == 2 * (3 - len(gaps)) + len(gaps), "there is room for three again"
    for place, (handle, number) in enumerate(made):
        if place in gaps:
            assert result(raw.read(handle)) == 0x910
        else:
            assert number_in(raw.read(handle)) == number
    assert handles_in(raw(list_handles(TRANSIENT)))[0] == [made[n][0] for n in range(3) if n not in gaps]
    assert len(tpm.numbers) == 3 - len(gaps)


def test_what_comes_to_the_raw_node_later_is_found(raw, one):
    mine = [one.create() for _ in range(4)]  # there is nothing else
    left = [raw.create() for _ in range(3)]
    for handle, number in mine:
        assert number_in(one.read(handle)) == number
    assert [one.flush(handle) for handle, _number in mine] == [0] * 4
    assert [number_in(raw.read(handle)) for handle, _number in left] == [number for _handle, number in left]
    assert raw.flush(left[0][0]) == 0
    one.create()
    again = raw.create()
    assert number_in(one.read(one.create()[0])) == number_in(one.read(0x80FFFFFE))
    assert number_in(raw.read(again[0])) == again[1]


def test_what_makes_no_difference_to_it_moves_nothing(tpm, raw, one):
    one.create()
    one.start()
    del tpm.log[:]
    for whole in (
        command(GET_RANDOM),
        command(EVICT_CONTROL, OWNER, 0x01000000, sessions=[PASSWORD]),
        command(0x17A, parameters=b"\0\0\0\6\0\0\1\x11\0\0\0\1"),
        command(0x777),
        b"\x80\1",
    ):
        raw(whole)
    assert tpm.swaps == 0
    raw(command(EVICT_CONTROL, OWNER, 0x81000000, sessions=[PASSWORD]))
    assert tpm.swaps == 3, "a persistent object is loaded while it is used"


def test_nothing_is_moved_twice(tpm, raw, one):
    one.create()
    raw.create()
    del tpm.log[:]
    raw.create()
    raw.read(TRANSIENT)
    assert tpm.swaps == 0


def test_a_session_of_a_space_that_the_raw_node_flushes_is_gone(tpm, raw, one):
    handle, _number = one.start()
    saved = one.save(one.start()[0])
    assert raw.flush(handle) == 0
    again, number = raw.start()
    assert again == handle
    assert handles_in(one(list_handles(HMAC))) == ([], False)
    one.close()
    assert number_in(raw.digest(again)) == number, "and is not flushed with the space"
    assert result(raw.load(saved)) == 0


def test_a_session_that_was_saved_in_a_space_can_be_loaded_on_the_raw_node(tpm, manager, raw, one):
    handle, number = one.start()
    context = one.save(handle)
    assert number_in(raw.load(context)) == handle
    assert number_in(raw.digest(handle)) == number
    assert one.flush(handle) == 0x1CB
    one.close()
    assert number_in(raw.digest(handle)) == number
    assert manager.is_idle


def test_one_that_was_saved_on_the_raw_node_can_be_loaded_in_a_space(tpm, raw, one):
    handle, number = raw.start()
    context = raw.save(handle)
    assert number_in(one.load(context)) == handle
    assert number_in(one.digest(handle)) == number
    assert handles_in(one(list_handles(HMAC))) == ([handle], False)
    one.close()
    assert tpm.sessions == {}


def test_a_clear_on_the_raw_node_takes_what_was_put_away(raw, one):
    made = [one.create()[0] for _ in range(4)]
    raw.create()
    one.read(made[0])
    assert result(raw(command(CLEAR, OWNER, sessions=[PASSWORD]))) == 0
    assert [result(one.read(handle)) for handle in made] == [0x910] * 4
    assert result(raw.read(TRANSIENT)) == 0x910


def test_a_refused_flush_of_an_object_takes_none(tpm, raw, one):
    handle, number = one.create()
    assert raw.flush(TRANSIENT) == 0x1CB
    assert result(raw(command(FLUSH_CONTEXT))) == 0x095
    assert number_in(one.read(handle)) == number
