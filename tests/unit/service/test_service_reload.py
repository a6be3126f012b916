"""What SIGHUP puts into force: what the schema says (`reloads`) is what is applied."""

import threading
from types import SimpleNamespace

import pytest
from device_clients import wait_for

from swtpm_svc.config import loading
from swtpm_svc.errors import Code
from swtpm_svc.service import reload as reloading
from swtpm_svc.service.reload import APPLIERS, Found, Reload, Subjects

RELOADED = {(table.name, key.name) for table in loading.SCHEMA for key in table.keys if key.reloads}
#: Of each key that reloads, another value than the default, and what is then told to whom.
NEW = {
    ("control", "group"): ('"12345"', {"authorization": "12345", "ways_in": ("12345", 12345)}),
    ("log", "level"): ('"debug"', {"level": 7, "trace": True}),
}


def config_of(text=""):
    return loading.parse(text, "/etc/vtpm.d/vtpm0.toml", "vtpm0")


@pytest.fixture
def told():
    """Who is told of new values, and what they were told."""
    heard = {}
    journal, dispatcher = SimpleNamespace(level=6), SimpleNamespace(trace=False)
    journal.log = lambda level, words, **_fields: heard.setdefault("log", []).append(words)
    journal.error = lambda error: heard.setdefault("log", []).append(error.message)
    authorization = SimpleNamespace(change_group=lambda group: heard.update(authorization=group))
    ways_in = SimpleNamespace(set_control_group=lambda control, number: heard.update(ways_in=(control.group, number)))

    def all_of_it():
        return {**heard, "level": journal.level, "trace": dispatcher.trace}

    return Subjects(journal, dispatcher, authorization, ways_in), all_of_it


def test_a_key_that_reloads_has_something_that_applies_it_and_no_other_key_has():
    assert set(APPLIERS) == RELOADED


def test_each_key_that_reloads_is_tried_here():
    assert set(NEW) == RELOADED


@pytest.mark.parametrize("key", sorted(NEW), ids=".".join)
def test_what_applies_a_key_tells_its_value_and_no_other(key, told):
    subjects, all_of_it = told
    before = all_of_it()
    value, expected = NEW[key]
    config = config_of(f"[{key[0]}]\n{key[1]} = {value}\n")
    APPLIERS[key](subjects, Found(config, 12345))
    assert all_of_it() == {**before, **expected}


def test_what_is_in_force_is_new_for_the_keys_that_reload_and_old_for_all_others():
    old = config_of('[control]\ngroup = "adm"\n')
    new = config_of('[tpm]\nversion = "1.2"\n[control]\ngroup = "mail"\n[log]\nlevel = "debug"\n')
    in_force = loading.reloaded(old, new)
    assert in_force == old._replace(control=new.control, log=new.log)
    assert {change[:2] for change in loading.changes(in_force, new)} == {("tpm", "version")}
    assert {change[:2] for change in loading.changes(old, in_force)} == RELOADED


@pytest.fixture
def reload(told, tmp_path):
    """A reload whose loop is the test: `run` carries out what was posted; what the file says; what was done."""
    path = tmp_path / "vtpm0.toml"
    path.write_text("")
    posted, done, faults = [], [], []
    arrived = threading.Semaphore(0)

    def post(callback):
        posted.append(callback)
        arrived.release()

    config = loading.load(str(path), "vtpm0")
    made = Reload(config, told[0], post, lambda: done.append(True), faults.append)

    def run():
        assert arrived.acquire(timeout=10)
        posted.pop(0)()

    return SimpleNamespace(begin=made.begin, run=run, posted=posted, path=path, done=done, faults=faults)


def test_of_two_readings_the_second_counts(reload, told):
    reload.path.write_text('[log]\nlevel = "debug"\n')
    reload.begin()
    wait_for(lambda: reload.posted, "the first reading")
    reload.begin()
    reload.run()
    assert reload.done == []
    reload.run()
    assert reload.done == [True]
    assert told[1]()["level"] == 7
    assert told[1]()["log"] == ["[log] level has changed: now in force", "configuration reloaded"]


def test_what_was_reloaded_has_not_changed_at_the_next_reload_and_what_was_not_has(reload, told):
    reload.path.write_text('[log]\nlevel = "debug"\n[device]\nname = "other"\n')
    for _ in range(2):
        reload.begin()
        reload.run()
    waits = "[device] name has changed: not before a restart of the service"
    done = "configuration reloaded"
    assert told[1]()["log"] == [waits, "[log] level has changed: now in force", done, waits, done]


@pytest.mark.parametrize("text", ["[log]\nlevel = 7\n", "["], ids=["a wrong value", "no TOML"])
def test_a_file_that_is_wrong_changes_nothing_and_the_reload_ends(reload, told, text):
    reload.path.write_text(text)
    reload.begin()
    reload.run()
    assert reload.done == [True]
    assert (told[1]()["level"], "ways_in" in told[1]()) == (6, False)
    assert "configuration reloaded" not in told[1]()["log"]


def test_a_fault_while_reading_is_told_and_the_reload_ends(reload, monkeypatch):
    def no_such_luck(*_args):
        raise RuntimeError("a database of accounts that is broken")

    monkeypatch.setattr(reloading.loading, "group_id", no_such_luck)
    reload.begin()
    reload.run()
    assert [fault.code for fault in reload.faults] == [Code.INTERNAL]
    assert reload.done == [True]


def test_without_a_thread_it_is_done_all_the_same(reload, told, monkeypatch):
    def no_thread(**_kw):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread", no_thread)
    reload.path.write_text('[log]\nlevel = "debug"\n')
    reload.begin()
    reload.run()
    assert told[1]()["level"] == 7
