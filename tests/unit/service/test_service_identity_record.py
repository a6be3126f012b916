"""The record of a TPM's keys: where it is kept, and that no descriptor stays of that."""

import json
import os
from types import SimpleNamespace

import pytest

from swtpm_svc.service.identity.identity_record import FORMAT, Record, RecordFile, decode, encode
from swtpm_svc.state.state_directory import IDENTITY

RECORD = Record({"rsa2048": "0123456789abcdef" * 4}, "0123456789abcdef")
CHANGE = {"time": 1, "was": {"rsa2048": "0" * 64}, "is": RECORD.keys}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The state, as far as a record knows it; the directory that systemd made for the record; what was told."""
    state = SimpleNamespace(path=str(tmp_path / "state"), kept=None)
    state.load_identity = lambda: state.kept
    state.store_identity = lambda data: setattr(state, "kept", data)
    state.remove_identity = lambda: setattr(state, "kept", None)
    own = tmp_path / "vtpm-identity/vtpm0"
    own.mkdir(parents=True)
    monkeypatch.setenv("STATE_DIRECTORY", f"{state.path}:{own}")
    told = []
    journal = SimpleNamespace(
        error=lambda error, level: told.append((level, error.message)),
        log=lambda level, words: told.append((level, words)),
    )
    return state, own, journal, told


def is_open(path):
    own = "/proc/self/fd"
    return any(os.path.realpath(f"{own}/{name}") == str(path) for name in os.listdir(own))


def test_it_is_kept_where_systemd_says(place):
    state, own, journal, told = place
    with RecordFile.open(state, journal) as file:
        assert is_open(own)
        assert file.load() == Record({})
        file.save(RECORD)
        assert file.load() == RECORD
        assert (file.path, file.state_directory) == (f"{own}/{IDENTITY}", state.path)
    assert not is_open(own)
    assert decode((own / IDENTITY).read_bytes()) == RECORD
    assert (state.kept, told) == (None, [])


def test_without_such_a_directory_it_is_kept_beside_the_state(place, monkeypatch):
    state, own, journal, told = place
    monkeypatch.setenv("STATE_DIRECTORY", state.path)
    with RecordFile.open(state, journal) as file:
        assert file.load() == Record({})
        file.save(RECORD)
        assert file.load() == RECORD
        assert file.path == f"{state.path}/{IDENTITY}"
    assert decode(state.kept) == RECORD
    assert (list(own.iterdir()), told) == ([], [])


def test_a_directory_that_cannot_be_had_is_told_and_the_record_kept_beside_the_state(place):
    state, own, journal, told = place
    own.rmdir()
    with RecordFile.open(state, journal) as file:
        file.save(RECORD)
    assert decode(state.kept) == RECORD
    assert told == [
        ("warning", f"the directory {own} does not exist"),
        ("warning", f"the record of the TPM's keys is kept in {state.path}, and is lost with it"),
    ]


@pytest.mark.parametrize("is_there", [False, True], ids=["taken over", "what the service has known goes first"])
def test_a_record_beside_the_state_goes_when_there_is_a_directory(place, is_there):
    state, own, journal, told = place
    state.kept = encode(RECORD)
    known = Record({"rsa2048": "f" * 64})
    if is_there:
        (own / IDENTITY).write_bytes(encode(known))
    with RecordFile.open(state, journal) as file:
        assert file.load() == (known if is_there else RECORD)
    assert state.kept is None
    assert sorted(os.listdir(own)) == [IDENTITY]
    assert told == []


@pytest.mark.parametrize(
    "record", [Record({}), RECORD, RECORD._replace(change=CHANGE)], ids=["empty", "keys", "change"]
)
def test_what_is_written_is_read_again(record):
    assert decode(encode(record)) == record


@pytest.mark.parametrize(
    "values",
    [
        {"format": FORMAT + 1},
        {"keys": {"rsa2048": None}},
        {"keys": {"rsa2048": "0" * 63}},
        {"keys": {"rsa2048": "G" * 64}},
        {"keys": []},
        {"storage": 7},
        {"change": {**CHANGE, "was": {"rsa2048": "no"}}},
        {"change": {**CHANGE, "is": {"storage": 1}}},
        {"change": {**CHANGE, "time": "soon"}},
        {"change": {"time": 1}},
    ],
    ids=str,
)
def test_what_is_not_a_record_is_refused(values):
    data = {**json.loads(encode(RECORD)), **values}
    with pytest.raises(ValueError, match=r"format|fingerprints|not a record|invalid literal"):
        decode(json.dumps(data).encode())
