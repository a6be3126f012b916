"""Spaces over a TPM that is played: who sees what, and what the TPM is sent for it."""

import pytest
from played_clients import CREATE, Managed, start_session
from played_tpm import (
    CERTIFY,
    CLEAR,
    CONTEXT_LOAD,
    CONTEXT_SAVE,
    CREATE_PRIMARY,
    EVICT_CONTROL,
    FLUSH_CONTEXT,
    GET_CAPABILITY,
    GET_RANDOM,
    HASH_SEQUENCE_START,
    HMAC,
    OWNER,
    PASSWORD,
    POLICY,
    SEQUENCE_COMPLETE,
    SEQUENCE_UPDATE,
    SHUTDOWN,
    STARTUP,
    TRANSIENT,
    VENDOR,
    PlayedTpm,
    command,
    handles_in,
    list_handles,
    number_in,
    result,
    uint32,
)

from swtpm_svc.resources import limits
from swtpm_svc.resources.manager import ResourceManager

FIRST = 0x80FFFFFF
H1_MISSING, S1_MISSING = 0x910, 0x918


@pytest.fixture
def tpm():
    return PlayedTpm()


@pytest.fixture
def manager(tpm):
    return ResourceManager(tpm)


@pytest.fixture
def one(manager):
    return Managed(manager)


@pytest.fixture
def two(manager):
    return Managed(manager)


# --- objects ---------------------------------------------------------------------------------------------------------


def test_handles_are_those_of_the_kernel_s_node(one):
    assert [one.create()[0] for _ in range(3)] == [FIRST, FIRST - 1, FIRST - 2]
    assert one.flush(FIRST - 1) == 0
    assert one.create()[0] == FIRST - 1, "the first that is free"


def test_a_space_that_is_alone_never_swaps(tpm, one):
    handles = [one.create()[0] for _ in range(3)]
    sessions = [one.start()[0] for _ in range(3)]
    for handle in handles:
        one.read(handle)
    for session in sessions:
        one.digest(session)
    assert tpm.swaps == 0


def test_more_objects_than_the_tpm_holds(tpm, one):
    made = dict(one.create() for _ in range(10))
    for handle, number in made.items():
        assert number_in(one.read(handle)) == number
    assert {handle & 0xFF000000 for handle in made} == {TRANSIENT}


def test_an_object_that_is_not_touched_is_not_moved(tpm, one):
    handles = [one.create()[0] for _ in range(4)]  # the first had to go
    del tpm.log[:]
    one.read(handles[1])
    one.read(handles[3])
    assert tpm.swaps == 0
    one.read(handles[0])
    assert tpm.count(CONTEXT_SAVE) == 1, "the third, used least recently, and nothing else"
    assert tpm.count(CONTEXT_LOAD) == 2, "one try without room"
    assert tpm.count(FLUSH_CONTEXT) == 1
    del tpm.log[:]
    one.read(handles[1])
    one.read(handles[3])
    assert tpm.swaps == 0


def test_an_object_is_saved_once(tpm, one):
    handles = [one.create()[0] for _ in range(4)]
    for handle in handles * 2:
        one.read(handle)
    del tpm.log[:]
    for handle in handles * 3:
        one.read(handle)
    assert tpm.count(CONTEXT_SAVE) == 0
    assert tpm.count(FLUSH_CONTEXT) == 12


def test_what_a_command_needs_stays_while_it_is_made_ready(one):
    made = [one.create() for _ in range(6)]
    for (one_handle, one_number), (other_handle, other_number) in zip(made, reversed(made)):
        response = one(command(CERTIFY, one_handle, other_handle, sessions=[PASSWORD]))
        assert (number_in(response), number_in(response, 1)) == (one_number, other_number)


def test_a_command_does_not_make_room_of_what_it_needs():
    client = Managed(ResourceManager(PlayedTpm(objects=2)))
    made = [client.create()[0] for _ in range(3)]
    assert result(client(command(VENDOR, made[0], made[1]))) == 0x902
    assert result(client(command(VENDOR, made[0], OWNER))) == 0


def test_an_object_whose_handle_the_tpm_gives_to_another_one_is_gone(tpm, one, two):
    one.create()
    tpm.slots = [None] * 3
    two.create()
    assert result(one.read(FIRST)) == H1_MISSING
    assert number_in(two.read(FIRST)) == 2


def test_a_session_whose_handle_the_tpm_gives_to_another_one_is_gone(tpm, one, two):
    handle, _number = one.start()
    tpm.sessions.clear()
    assert two.start() == (handle, 2)
    assert result(one.digest(handle)) == H1_MISSING
    one.close()
    assert number_in(two.digest(handle)) == 2


def test_a_command_is_sent_again_as_the_client_has_sent_it(tpm, one):
    """What a TPM has written to it, as when it decrypts parameters, is gone."""
    for _ in range(3):
        one.create()
    assert one.create()[0] == FIRST - 3  # PlayedTpm spoils what it is given


def test_spaces_do_not_see_each_other(one, two):
    handle, number = one.create()
    assert result(two.read(handle)) == H1_MISSING
    assert two.flush(handle) == 0x1CB
    assert result(two(command(CONTEXT_SAVE, handle))) == H1_MISSING
    other, other_number = two.create()
    assert other == handle, "each space begins anew"
    assert number_in(two.read(other)) == other_number
    assert number_in(one.read(handle)) == number
    for client in (one, two):
        assert handles_in(client(list_handles(TRANSIENT))) == ([handle], False)


def test_the_tpm_s_own_handles_are_nobody_s(tpm, one):
    one.create()
    for handle in (0x80000000, 0x80000001, 0x80FFFFFE, 0x80000000 | 0x7FFFFF):
        assert result(one.read(handle)) == H1_MISSING
        assert one.flush(handle) == 0x1CB
    assert tpm.numbers == [1]


def test_the_return_code_says_which_handle(one):
    handle, _number = one.create()
    assert result(one(command(CERTIFY, handle, 0x80000000, sessions=[PASSWORD]))) == 0x911
    assert result(one(command(CERTIFY, 0x80000000, handle, sessions=[PASSWORD]))) == 0x910
    assert result(one(command(CERTIFY, handle, handle, sessions=[PASSWORD, HMAC]))) == 0x919
    assert result(one(command(CERTIFY, handle, handle, sessions=[POLICY | 9]))) == 0x918


def test_commands_are_known_by_their_attributes(one):
    """A vendor's one with two handles and a response that begins with one."""
    handle, _number = one.create()
    response = one(command(VENDOR, handle, handle))
    assert number_in(response) == FIRST - 1
    assert number_in(one.read(FIRST - 1)) == number_in(response, 1)
    assert result(one(command(VENDOR, handle, 0x80000000))) == 0x911


def test_the_attributes_are_learned_in_pieces():
    tpm = PlayedTpm(listed=2)
    client = Managed(ResourceManager(tpm))
    assert number_in(client.read(client.create()[0])) == 1


def test_an_object_that_is_evicted_to_nv_stays(one):
    handle, number = one.create()
    assert (
        number_in(one(command(EVICT_CONTROL, OWNER, handle, sessions=[PASSWORD], parameters=uint32(0x81000001))))
        == number
    )
    assert number_in(one.read(handle)) == number


def test_a_sequence_object_is_saved_as_it_is_now(one, two):
    sequence = number_in(one(command(HASH_SEQUENCE_START)))
    for count in range(1, 4):
        assert result(one(command(SEQUENCE_UPDATE, sequence, sessions=[PASSWORD]))) == 0
        for _ in range(3):
            two.create()  # takes all the room
        if count == 2:
            one.read(one.create()[0])
    response = one(command(SEQUENCE_COMPLETE, sequence, sessions=[PASSWORD]))
    assert number_in(response, 1) == 3
    assert result(one.read(sequence)) == H1_MISSING, "it is flushed with the result"
    assert sequence not in handles_in(one(list_handles(TRANSIENT)))[0]


def test_contexts_of_objects_are_for_everybody(one, two):
    handle, number = one.create()
    context = one.save(handle)
    loaded = [number_in(two.load(context)) for _ in range(5)]
    assert loaded == [FIRST - n for n in range(5)]
    assert {number_in(two.read(handle)) for handle in loaded} == {number}
    one.close()
    assert number_in(two.load(context)) == FIRST - 5


def test_an_object_that_came_from_a_context_is_never_saved(tpm, one, two):
    context = one.save(one.create()[0])
    one.close()
    for _ in range(8):
        two.load(context)
    assert tpm.count(CONTEXT_SAVE) == 1


def test_flushing_what_is_put_away_takes_no_command(tpm, one):
    handles = [one.create()[0] for _ in range(4)]
    del tpm.log[:]
    assert one.flush(handles[0]) == 0
    assert tpm.log == []
    assert one.flush(handles[0]) == 0x1CB


def test_clear_takes_the_objects_of_all(tpm, one, two):
    handles = [one.create()[0] for _ in range(4)]
    two.create()
    assert result(one(command(CLEAR, OWNER, sessions=[PASSWORD]))) == 0
    for handle in handles:
        assert result(one.read(handle)) == H1_MISSING
    assert result(two.read(FIRST)) == H1_MISSING
    assert handles_in(two(list_handles(TRANSIENT))) == ([], False)
    assert one.create()[0] == FIRST
    one.close()
    two.close()
    assert tpm.numbers == []


# --- sessions --------------------------------------------------------------------------------------------------------


def test_a_session_keeps_its_handle(tpm, one, two):
    mine = [one.start(number % 2) for number in range(5)]
    theirs = [two.start() for _ in range(3)]
    for client, started in ((one, mine), (two, theirs), (one, mine)):
        for handle, number in started:
            assert number_in(client.digest(handle)) == number
    assert sorted(tpm.sessions) == sorted(handle for handle, _number in mine + theirs)


def test_sessions_are_the_space_s_own(one, two):
    handle, _number = one.start()
    assert result(two.digest(handle)) == H1_MISSING
    assert result(two(command(CREATE_PRIMARY, OWNER, sessions=[handle]))) == S1_MISSING
    assert two.flush(handle) == 0x1CB
    assert result(two(command(CONTEXT_SAVE, handle))) == H1_MISSING
    assert handles_in(two(list_handles(HMAC))) == ([], False)
    assert handles_in(one(list_handles(HMAC))) == ([handle], False)
    assert handles_in(one(list_handles(POLICY))) == ([], False), "none is saved, as far as its client knows"


def test_a_session_that_is_not_continued_is_gone(tpm, one):
    handle, _number = one.start()
    assert result(one(command(CREATE_PRIMARY, OWNER, sessions=[handle]))) == 0
    assert handles_in(one(list_handles(HMAC))) == ([handle], False)
    assert result(one(command(CREATE_PRIMARY, OWNER, sessions=[-handle]))) == 0
    assert handles_in(one(list_handles(HMAC))) == ([], False)
    assert result(one.digest(handle)) == H1_MISSING
    assert tpm.sessions == {}


def test_a_refused_command_ends_no_session(tpm, one):
    handle, number = one.start()
    tpm.answers[CREATE_PRIMARY] = [0x98E]
    assert result(one(command(CREATE_PRIMARY, OWNER, sessions=[-handle]))) == 0x98E
    assert number_in(one.digest(handle)) == number


def test_a_saved_session_goes_to_who_has_its_context(tpm, one, two):
    handle, number = one.start(1)
    context = one.save(handle)
    assert handles_in(one(list_handles(HMAC))) == ([], False)
    assert handles_in(one(list_handles(POLICY))) == ([HMAC | handle & 0xFFFFFF], False)
    assert handles_in(two(list_handles(POLICY))) == ([], False)
    assert result(one.digest(handle)) == H1_MISSING
    one.close()
    assert list(tpm.sessions) == [handle], "its client may load it in another process"
    assert number_in(two.load(context)) == handle
    assert number_in(two.digest(handle)) == number
    assert result(two.load(context)) == 0x1CB, "once"
    two.close()
    assert tpm.sessions == {}, "and it is flushed with the space that has it"


def test_a_saved_session_can_be_flushed_by_its_handle_where_it_was_saved(tpm, one, two):
    handle, _number = one.start()
    context = one.save(handle)
    assert two.flush(handle) == 0x1CB
    assert one.flush(handle) == 0
    assert tpm.sessions == {}
    assert result(two.load(context)) == 0x1CB


def test_an_old_context_gives_nobody_a_session(one, two):
    handle, number = one.start()
    context = one.save(handle)
    one.load(context)
    for _ in range(4):
        two.start()  # puts it away
    assert result(two.load(context)) == 0x1CB
    assert number_in(one.digest(handle)) == number


def test_all_the_tpm_s_sessions_and_not_one_more(tpm, manager):
    """Eight users."""
    tpm.active = 24
    clients = [Managed(manager, uid) for uid in range(8)]
    started = [[client.start() for _ in range(3)] for client in clients]
    assert result(clients[0](start_session())) == 0x905
    for client, sessions in zip(clients, started):
        for handle, number in sessions:
            assert number_in(client.digest(handle)) == number
    clients[1].close()
    assert result(clients[0](start_session())) == 0


def test_one_space_or_user_does_not_get_all_sessions(tpm, manager):
    one = Managed(manager)
    for _ in range(limits.SESSIONS_OF_SPACE):
        one.start()
    assert result(one(start_session())) == 0x905
    assert len(tpm.sessions) == limits.SESSIONS_OF_SPACE, "what was refused is not left behind"
    more = [Managed(manager) for _ in range(4)]
    got = [result(client(start_session())) for client in more for _ in range(limits.SESSIONS_OF_SPACE)]
    assert got.count(0) == 48 - limits.SESSIONS_OF_SPACE
    other = [Managed(manager, 2000) for _ in range(4)]
    got = [result(client(start_session())) for client in other for _ in range(limits.SESSIONS_OF_SPACE)]
    assert got.count(0) == 56 - 48
    root = Managed(manager, 0)
    assert [result(root(start_session())) for _ in range(9)] == [0] * 8 + [0x905]


def test_sessions_that_were_left_alone_make_room(tpm, manager):
    tpm.active = 8
    left = []
    for _ in range(6):
        client = Managed(manager)
        handle, number = client.start()
        left.append((client.save(handle), number))
        client.close()
    client = Managed(manager)
    for _ in range(3):
        client.start()
    assert len(tpm.sessions) <= 8
    assert result(client.load(left[0][0])) == 0x1CB, "the oldest was taken"
    handle = number_in(client.load(left[-1][0]))
    assert number_in(client.digest(handle)) == left[-1][1]


def test_a_user_leaves_a_number_of_sessions_alone_at_most(tpm, manager):
    for _ in range(limits.LEFT_ALONE_OF_USER + 5):
        client = Managed(manager)
        client.save(client.start()[0])
        client.close()
    assert len(tpm.sessions) == limits.LEFT_ALONE_OF_USER


def test_the_context_gap_reaches_nobody(tpm, manager, one, two):
    tpm.gap = 15
    old_handle, old_number = one.start()
    context = one.save(old_handle)  # a client keeps it
    idle_handle, idle_number = one.start()  # a client does not use it
    working = [two.start() for _ in range(5)]
    for _ in range(40):
        for handle, number in working:
            assert number_in(two.digest(handle)) == number
    assert tpm.sequence > 100
    assert number_in(one.digest(idle_handle)) == idle_number
    assert number_in(one.load(context)) == old_handle
    assert number_in(one.digest(old_handle)) == old_number


def test_a_context_gap_of_somebody_else_s_session_is_closed(tpm, manager, one):
    """One of the raw node that was saved, and forgotten."""
    stranger = number_in(tpm(bytearray(start_session(1))))
    tpm(bytearray(command(CONTEXT_SAVE, stranger)))
    tpm.gap = 15
    working = [one.start() for _ in range(5)]
    for _ in range(20):
        for handle, number in working:
            assert number_in(one.digest(handle)) == number
    assert stranger not in tpm.sessions


def test_more_sessions_than_fit_at_a_time_are_refused(tpm, manager, one):
    tpm.loaded_max = 2
    sessions = [one.start()[0] for _ in range(3)]
    assert result(one(command(CREATE_PRIMARY, OWNER, sessions=sessions))) == 0x903
    assert result(one(command(CREATE_PRIMARY, OWNER, sessions=sessions[:2]))) == 0


# --- lists -----------------------------------------------------------------------------------------------------------


def test_lists_of_handles_go_on_where_they_ended(tpm, one):
    made = sorted(one.create()[0] for _ in range(5))
    del tpm.log[:]
    assert handles_in(one(list_handles(TRANSIENT, 2))) == (made[:2], True)
    assert handles_in(one(list_handles(made[2], 3))) == (made[2:], False)
    assert handles_in(one(list_handles(TRANSIENT, 0))) == ([], True)
    sessions = [one.start(kind)[0] for kind in (1, 0, 1)]
    assert handles_in(one(list_handles(HMAC))) == (sessions, False)
    assert handles_in(one(list_handles(HMAC | 1, 1))) == (sessions[1:2], True)
    assert tpm.count(GET_CAPABILITY) == 0


def test_a_list_with_an_audit_session_is_refused(one):
    handle, _number = one.start()
    asked = command(GET_CAPABILITY, sessions=[handle], parameters=uint32(1, TRANSIENT, 8))
    assert result(one(asked)) == 0x145
    other = command(GET_CAPABILITY, sessions=[handle], parameters=uint32(6, 0x111, 1))
    assert result(one(other)) == 0


def test_other_capabilities_are_the_tpm_s(one):
    response = one(command(GET_CAPABILITY, parameters=uint32(6, 0x111, 1)))
    assert response[-4:] == uint32(64)


# --- the TPM is everybody's ------------------------------------------------------------------------------------------


def test_shutdown_is_answered_only(tpm, one):
    one.create()
    for kind in (b"\0\0", b"\0\1"):
        assert result(one(command(SHUTDOWN, parameters=kind))) == 0
    assert tpm.count(SHUTDOWN) == 0
    assert result(one(command(SHUTDOWN, parameters=b"\0\7"))) == 0x1C4
    assert result(one(command(SHUTDOWN, sessions=[one.start()[0]], parameters=b"\0\0"))) == 0x145
    assert tpm.count(SHUTDOWN) == 1


def test_a_tpm_that_was_not_started_says_so_until_it_is(tpm, one):
    tpm.is_started = False
    assert result(one(CREATE)) == 0x100
    assert result(one(command(GET_RANDOM))) == 0x100
    assert result(one(command(STARTUP, parameters=b"\0\0"))) == 0
    assert one.create()[0] == FIRST
    assert result(one(command(STARTUP, parameters=b"\0\0"))) == 0x100


def test_a_tpm_that_does_not_say_what_it_is_gets_no_command(tpm, one):
    tpm.answers[GET_CAPABILITY] = [0x90A]
    assert result(one(command(FLUSH_CONTEXT, parameters=uint32(0x80000000)))) == 0x90A
    assert tpm.log == [GET_CAPABILITY]
    assert one.create()[0] == FIRST


def test_an_unknown_command_is_refused_as_by_the_kernel(tpm, one):
    one.create()
    for code in (0x11E, 0x777, 0x20000002, 0xFFFFFFFF):
        assert result(one(command(code))) == 0xB0143
        assert code not in tpm.log


def test_a_plain_command_takes_its_own_way(tpm, one):
    one.create()
    del tpm.log[:]
    assert result(one(command(GET_RANDOM))) == 0
    assert tpm.log == [GET_RANDOM]


def test_power_that_goes_takes_everything(tpm, manager, one):
    handles = [one.create()[0] for _ in range(4)]
    session, _number = one.start()
    context = one.save(one.start()[0])
    tpm.reset()
    manager.reset()
    for handle in handles:
        assert result(one.read(handle)) == H1_MISSING
    assert result(one.digest(session)) == H1_MISSING
    assert result(one.load(context)) == 0x1DF
    assert one.create()[0] == FIRST
    one.close()
    assert tpm.numbers == []


def test_a_command_that_has_not_happened_has_ended_no_session(tpm, manager, one):
    """What it stored could not be stored, and the TPM is the one before it again."""
    handle, number = one.start()
    before = dict(tpm.sessions)
    assert result(one(command(EVICT_CONTROL, OWNER, OWNER, sessions=[-handle]))) == 0
    tpm.sessions = before
    manager.take_back()
    assert number_in(one.digest(handle)) == number
    one.close()
    assert tpm.sessions == {}


def test_nothing_is_left_of_what_was_closed(tpm, manager):
    clients = [Managed(manager) for _ in range(4)]
    for client in clients:
        for _ in range(3):
            client.create()
            client.start()
    for client in clients:
        client.close()
    assert tpm.numbers == []
    assert manager.is_idle
    assert manager.spaces == []


def test_an_object_without_room_for_it_is_not_left_behind(tpm, manager, one):
    for _ in range(limits.OBJECTS_OF_SPACE):
        one.create()
    assert result(one(CREATE)) == 0x902
    assert len(handles_in(one(list_handles(TRANSIENT)))[0]) == limits.OBJECTS_OF_SPACE
    one.close()
    assert tpm.numbers == []


def test_users_have_their_shares_of_objects(manager):
    of_one = [Managed(manager) for _ in range(9)]
    made = [result(client(CREATE)) for client in of_one for _ in range(limits.OBJECTS_OF_SPACE)]
    assert made.count(0) == limits.OBJECTS_OF_USER
    assert result(Managed(manager, 2000)(CREATE)) == 0


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", range(10))
def test_a_piece_of_a_header(one, size):
    assert result(one(CREATE[:size])) == 0x142


def test_a_command_that_is_cut_is_the_tpm_s_to_refuse(tpm, one):
    handle, _number = one.create()
    session, _number = one.start()
    whole = command(CERTIFY, handle, handle, sessions=[session, -session])
    for size in range(10, len(whole)):
        cut = whole[:2] + uint32(size) + whole[6:size]
        assert result(one(cut)) not in (0, 0x984, 0x184)
        assert result(one(whole[:size])) == 0x142
    assert handles_in(one(list_handles(HMAC))) == ([session], False)


def test_a_command_with_a_wrong_size_does_nothing(one):
    handle, number = one.create()
    whole = command(FLUSH_CONTEXT, parameters=uint32(handle))
    for size in (0, 10, 13, 15, 0xFFFFFFFF):
        assert result(one(whole[:2] + uint32(size) + whole[6:])) == 0x142
    assert number_in(one.read(handle)) == number


def test_handles_of_every_type_in_every_place(tpm, one, two):
    two.create()
    two.start()
    for place in range(2):
        for kind in range(256):
            for number in (0, 1, 0xFFFFFF):
                handles = [OWNER, OWNER]
                handles[place] = kind << 24 | number
                response = one(command(CERTIFY, *handles, sessions=[PASSWORD]))
                if kind in (0x02, 0x03, 0x80):
                    assert result(response) == 0x910 + place
    assert len(tpm.numbers) == 2


def test_responses_that_are_not_as_they_should_be(tpm, one):
    """A handle of another type, or none, where one is expected."""
    one.create()
    original = tpm.execute
    for body in (b"", b"\x80", uint32(0x81000001), uint32(0xFFFFFFFF)):
        tpm.execute = lambda whole, code, body=body: tpm.answer(0, body)
        assert one(CREATE)[10:] == body
    tpm.execute = original
    assert handles_in(one(list_handles(TRANSIENT))) == ([FIRST], False)


def test_a_tpm_that_never_finds_room_is_believed(tpm, one):
    tpm.answers[CREATE_PRIMARY] = [0x902] * 1000
    assert result(one(CREATE)) == 0x902
    for rc in (0x901, 0x903, 0x904, 0x905):
        tpm.answers[CREATE_PRIMARY] = [rc] * 1000
        one.start()
        assert result(one(CREATE)) == rc
