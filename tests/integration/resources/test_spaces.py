"""The resource manager over libtpms: what tpm2-tools' tutorial does, in spaces that come and go."""

import hashlib

import pytest
from space_client import (
    AUDIT,
    CONTINUE,
    EXCLUSIVE,
    NULL,
    OWNER,
    HmacSession,
    Managed,
    authorized,
    command,
    sized,
    uint32,
)
from space_model import Refused
from tpm_commands import EMPTY_PASSWORD, GET_RANDOM, STARTUP_CLEAR, result_of

from swtpm_svc.errors import Code, VtpmError

h = bytes.fromhex

FIRST = 0x80FFFFFF
UNSEAL = 0x15E
SWAPS = (0x161, 0x162, 0x165)
POLICY = hashlib.sha256(bytes(32) + uint32(0x16C, UNSEAL)).digest()  # PolicyCommandCode(Unseal)


def test_the_tutorial_in_processes_of_their_own(managed):
    """createprimary, create, load, startauthsession, policycommandcode, unseal: each opens, loads what it needs from the
    files of the others, saves, closes."""

    def process(work, *files):
        client = Managed(managed.manager)
        try:
            return work(client, *files)
        finally:
            client.close()
            assert managed.bare.listed(0x80000000) == []

    def load(client, parent, sealed):
        return client.save(client.load(client.load_context(parent), sealed))

    def restrict(client, session):
        handle = client.load_context(session)
        client.only_for(handle, UNSEAL)
        return client.save(handle)

    def unseal(client, session, loaded):
        handle = client.load_context(session)
        return client.unseal(client.load_context(loaded), authorized(handle, goes_on=False))

    for _ in range(30):
        parent = process(lambda client: client.save(client.create_parent()))
        sealed = process(lambda client, file: client.seal(client.load_context(file), b"a secret", POLICY), parent)
        loaded = process(load, parent, sealed)
        session = process(lambda client: client.save(client.start()))
        session = process(restrict, session)
        assert process(unseal, session, loaded) == b"a secret"
        assert managed.left() == []


def test_keys_of_many_clients_at_a_time(managed):
    clients = [Managed(managed.manager, uid) for uid in range(5)]
    parents = [client.create_parent() for client in clients]
    assert parents == [FIRST] * 5
    sealed = [client.seal(parent, b"of %d" % n) for n, (client, parent) in enumerate(zip(clients, parents))]
    handles = [[client.load(FIRST, blob) for _ in range(4)] for client, blob in zip(clients, sealed)]
    assert handles == [[FIRST - 1, FIRST - 2, FIRST - 3, FIRST - 4]] * 5
    for place in range(4):
        for number, client in enumerate(clients):
            assert client.unseal(handles[number][place]) == b"of %d" % number
    for client in clients:
        client.close()
    assert managed.left() == []


def test_a_space_that_is_alone_never_swaps(managed):
    client = Managed(managed.manager)
    parent = client.create_parent()
    handle = client.load(parent, client.seal(parent, b"x"))
    session = client.start()
    for _ in range(20):
        client.unseal(handle)
        client.digest(session)
    assert not set(SWAPS) & set(managed.codes)


def test_the_hmac_of_a_command_holds_over_handles_and_swaps(managed):
    """An object's Name is in it, a session's handle too: what is rewritten changes neither."""
    one, two = Managed(managed.manager), Managed(managed.manager)
    parent = one.create_parent()
    handle = one.load(parent, one.seal(parent, b"audited"))
    body = one(0x173, handle)
    public = body[2 : 2 + int.from_bytes(body[:2], "big")]
    name = sized(h("000b") + hashlib.sha256(public).digest())[2:]
    audit = HmacSession(one)
    policy = one.start()
    for _ in range(3):
        for _ in range(3):
            two.start(0)
            two.load_external(7)
        assert audit(UNSEAL, [handle], [name], attributes=CONTINUE | AUDIT, first=True)[2:] == b"audited"
        assert audit(0x189, [policy], [uint32(policy)], attributes=CONTINUE | AUDIT)[2:] == bytes(32)


def test_swaps_leave_an_audit_session_exclusive(managed):
    one = Managed(managed.manager)
    audit = HmacSession(one)
    audit(0x17B, parameters=h("0008"), attributes=CONTINUE | AUDIT)
    manager = managed.manager
    for _ in range(3):
        manager.put_away()
        audit(0x17B, parameters=h("0008"), attributes=CONTINUE | AUDIT | EXCLUSIVE)
    assert one.listed(0x02000000) == [int.from_bytes(audit.handle, "big")]
    audit(0x17B, parameters=h("0008"), attributes=CONTINUE | AUDIT | EXCLUSIVE)
    Managed(manager).execute(GET_RANDOM)
    with pytest.raises(Refused, match="289"):  # TPM_RC_EXCLUSIVE: somebody came between
        audit(0x17B, parameters=h("0008"), attributes=CONTINUE | AUDIT | EXCLUSIVE)


def test_sequences_go_on_after_swaps(managed):
    clients = [Managed(managed.manager) for _ in range(3)]
    sequences = [[client.start_sequence() for _ in range(2)] for client in clients]
    for step in range(4):
        for number, client in enumerate(clients):
            for place, sequence in enumerate(sequences[number]):
                client.update_sequence(sequence, b"%d %d %d" % (number, place, step))
    for number, client in enumerate(clients):
        for place, sequence in enumerate(sequences[number]):
            text = b"".join(b"%d %d %d" % (number, place, step) for step in range(4))
            assert client.complete_sequence(sequence) == hashlib.sha256(text).digest()
            assert client.flush(sequence) == 0x1CB
    assert managed.left() == []


def test_a_persistent_object_finds_room(managed):
    client = Managed(managed.manager)
    parent = client.handle(0x131, OWNER, parameters=h("0004 0000 0000 001a 0023 000b 00030472 0000 0006 0080 0043 0010 0003 0010 0000 0000 0000 00000000"), auth=EMPTY_PASSWORD)  # fmt: skip
    client(0x120, OWNER, parent, parameters=uint32(0x81000001), auth=EMPTY_PASSWORD)
    sealed = client.seal(0x81000001, b"below it")
    handles = [client.load(0x81000001, sealed) for _ in range(5)]
    assert [client.unseal(handle) for handle in handles] == [b"below it"] * 5
    raw = managed.raw
    assert raw.refusal(0x173, 0x81000001) == 0, "the raw node finds it, too"
    client(0x120, OWNER, 0x81000001, parameters=uint32(0x81000001), auth=EMPTY_PASSWORD)
    assert client.refusal(0x173, 0x81000001) != 0


def test_clear_takes_the_objects_of_the_hierarchies(managed):
    one, two = Managed(managed.manager), Managed(managed.manager)
    template = h("0004 0000 0000 001a 0023 000b 00030472 0000 0006 0080 0043 0010 0003 0010 0000 0000 0000 00000000")
    mine = [one.handle(0x131, OWNER, parameters=template, auth=EMPTY_PASSWORD) for _ in range(2)]
    theirs = [two.handle(0x131, OWNER, parameters=template, auth=EMPTY_PASSWORD) for _ in range(2)]
    null = two.load_external(5)
    two(0x126, 0x4000000A, auth=EMPTY_PASSWORD)
    assert [one.refusal(0x173, handle) for handle in mine] == [0x910] * 2
    assert [two.refusal(0x173, handle) for handle in theirs] == [0x910] * 2
    assert two.unique(null) == 5
    one.close()
    two.close()
    assert managed.left() == []


def test_64_sessions_of_all_and_not_one_more(managed):
    clients = [Managed(managed.manager, uid) for uid in range(8)]
    started = [[client.start() for _ in range(8)] for client in clients]
    assert clients[0].refusal(0x176, NULL, NULL, parameters=sized(bytes(16)) + sized(b"") + h("01 0010 000b")) == 0x905
    for number, client in enumerate(clients):
        for place, session in enumerate(started[number]):
            client.only_for(session, 0x147 + place)
    for number, client in enumerate(clients):
        for place, session in enumerate(started[number]):
            assert client.digest(session) == hashlib.sha256(bytes(32) + uint32(0x16C, 0x147 + place)).digest()
        client.close()
    assert managed.left() == []


def test_the_context_gap_of_65535_savings(managed):
    """A session that its client does not use, and one that it has saved, while others are swapped with each command."""
    idle, busy = Managed(managed.manager), Managed(managed.manager)
    unused, saved = idle.start(), idle.start()
    idle.only_for(unused, 0x120)
    idle.only_for(saved, 0x121)
    context = idle.save(saved)
    sessions = [busy.start() for _ in range(4)]
    asked = [bytearray(command(0x189, session)) for session in sessions]
    execute, space = managed.manager.execute, busy.space
    for _ in range(70_000 // len(asked)):
        for whole in asked:
            assert execute(space, whole[:])[6:10] == bytes(4)
    assert managed.codes.count(0x162) > 65_535
    assert idle.digest(unused) == hashlib.sha256(bytes(32) + uint32(0x16C, 0x120)).digest()
    assert idle.load_context(context) == saved
    assert idle.digest(saved) == hashlib.sha256(bytes(32) + uint32(0x16C, 0x121)).digest()
    idle.close()
    busy.close()
    assert managed.left() == []


def test_the_raw_node_beside(managed):
    client, raw = Managed(managed.manager), managed.raw
    left = [raw.load_external(number) for number in range(3)]
    sessions = [raw.start() for _ in range(3)]
    assert left == [0x80000000, 0x80000001, 0x80000002]
    mine = [client.load_external(100 + number) for number in range(5)]
    own = [client.start() for _ in range(5)]
    assert [client.unique(handle) for handle in mine] == [100, 101, 102, 103, 104]
    assert {client.digest(session) for session in own} == {bytes(32)}
    assert [raw.unique(handle) for handle in left] == [0, 1, 2]
    assert {raw.digest(session) for session in sessions} == {bytes(32)}
    assert raw.listed(0x80000000) == left
    assert raw.listed(0x02000000) == sessions
    assert raw.flush(left[1]) == 0
    assert [client.unique(handle) for handle in mine] == [100, 101, 102, 103, 104]
    assert raw.listed(0x80000000) == [left[0], left[2]]
    assert [raw.unique(handle) for handle in (left[0], left[2])] == [0, 2]
    sequence = raw.start_sequence()
    raw.update_sequence(sequence, b"raw")
    [client.unique(handle) for handle in mine]
    raw.update_sequence(sequence, b" and not")
    assert raw.complete_sequence(sequence) == hashlib.sha256(b"raw and not").digest()


#: What libtpms 0.9.2 itself answers to handles that it does not have is what a space answers.
@pytest.mark.parametrize("code", [0x162, 0x173, 0x15E, 0x189])
@pytest.mark.parametrize("handle", [0x80000002, 0x02000009, 0x03000009])
def test_missing_handles_are_refused_as_by_the_tpm(managed, code, handle):
    client = Managed(managed.manager)
    auth = EMPTY_PASSWORD if code == 0x15E else None
    found, bare = client.refusal(code, handle, auth=auth), managed.bare.refusal(code, handle, auth=auth)
    assert found == (0x910 if bare == 0x184 else bare)


def test_missing_handles_in_parameters_and_authorizations(managed):
    client = Managed(managed.manager)
    for handle in (0x80000002, 0x02000009, 0x03000009, 0x40000001, 0x81000001, 0x00000001):
        assert client.flush(handle) == managed.bare.flush(handle) != 0
    for session in (0x02000009, 0x03000009, 0x80000000, 0x40000001, 0x00000000):
        auth = authorized(session)
        asked = {"parameters": h("00000001 000b") + bytes(32), "auth": auth}
        assert client.refusal(0x182, 16, **asked) == managed.bare.refusal(0x182, 16, **asked) != 0


def test_commands_with_sessions_that_take_none(managed):
    client = Managed(managed.manager)
    handle, session = client.load_external(1), client.start()
    context = managed.bare.save(managed.bare.load_external(2))
    for code, handles, parameters in (
        (0x165, (), uint32(handle)),
        (0x161, (), context),
        (0x162, (handle,), b""),
        (0x145, (), h("0000")),
    ):
        found = client.refusal(code, *handles, parameters=parameters, auth=authorized(session))
        assert found == 0x145, hex(code)
        if code != 0x145:  # which takes an audit session
            bare = {0x165: uint32(0x80000000)}.get(code, parameters)
            places = [0x80000000 for _ in handles]
            assert managed.bare.refusal(code, *places, parameters=bare, auth=EMPTY_PASSWORD) == 0x145


def test_startup_and_shutdown(managed):
    client = Managed(managed.manager)
    handle = client.load_external(1)
    assert result_of(client.execute(STARTUP_CLEAR)) == 0x100
    assert client(0x145, parameters=h("0001")) == b""
    assert 0x145 not in managed.codes
    assert client.unique(handle) == 1


def test_every_command_that_is_cut_is_refused(managed):
    """At each of its bytes, with the size that it has then; as by the TPM itself."""
    client = Managed(managed.manager)
    handle, session = client.load_external(1), client.start()
    theirs = managed.bare.load_external(1)
    for code, handles, bare, rest in (
        (0x15E, (handle,), (theirs,), {"auth": authorized(session)}),
        (0x189, (session,), (session,), {}),
        (0x173, (handle,), (theirs,), {}),
        (0x162, (handle,), (theirs,), {}),
        (0x176, (NULL, handle), (NULL, theirs), {"parameters": sized(bytes(16)) + sized(b"") + h("01 0010 000b")}),
    ):
        whole, of_tpm = command(code, *handles, **rest), command(code, *bare, **rest)
        for size in range(10, len(whole)):
            cut, cut_of_tpm = (of[:2] + uint32(size) + of[6:size] for of in (whole, of_tpm))
            found = result_of(client.execute(cut))
            assert found, (hex(code), size)
            assert found == result_of(managed.bare.execute(cut_of_tpm)), (hex(code), size)


def test_a_command_that_could_not_be_stored_has_ended_no_session(managed):
    """As a front end does it: it is executed, and stored later, in vain."""
    service, manager, client = managed.service, managed.manager, Managed(managed.manager)
    session = HmacSession(client)
    service.storage.failure = VtpmError(Code.STATE_FULL, "the disk is full")
    managed.stores = False
    define = h("0000 000e 01500000 000b 00020012 0000 0008")
    session(0x12A, [OWNER], [uint32(OWNER)], define, attributes=0)
    assert result_of(service.tpm.finish(b"")) == 0x101
    manager.take_back()
    service.storage.failure, managed.stores = None, True
    session.nonce_tpm = session.nonce_before
    session(0x12A, [OWNER], [uint32(OWNER)], define, attributes=0)
    assert client.listed(0x02000000) == []
    assert managed.left() == []
    service.events.failures.clear()
