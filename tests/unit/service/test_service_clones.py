"""By what the TPMs of a host are known: what one instance shows, what all see, and what a hostile one can do about
it."""

import os

import pytest

from swtpm_svc.service import status_socket
from swtpm_svc.service.identity import clones

A, B, C, MARK = "a" * 64, "b" * 64, "c" * 64, "0123456789abcdef"


@pytest.fixture
def host(tmp_path, monkeypatch):
    """Makes the directories of instances, as systemd does, and shows what they are known by."""
    directory = tmp_path / "vtpmkeys"
    directory.mkdir()
    monkeypatch.setattr(clones, "DIRECTORY", str(directory))

    def make(**instances):
        for name, words in instances.items():
            (directory / name).mkdir(exist_ok=True)
            clones.show(str(directory / name), words)
        return directory

    return make


def test_who_has_a_key_is_who_shows_it_now(host):
    host(vm1={A, MARK}, vm2={B}, vm3={A})
    assert clones.who_has({A, B, C}) == {A: ["vm1", "vm3"], B: ["vm2"]}
    host(vm3={C})  # its key is another one now
    assert clones.who_has({A, C}) == {A: ["vm1"], C: ["vm3"]}
    host(vm1=set())
    assert clones.who_has({A, MARK}) == {}


def test_each_group_of_copies_is_told_once(host):
    host(vm1={A, MARK}, vm2={A, MARK}, vm3={B}, vm4={B}, vm5={C})
    assert clones.shared() == [["vm1", "vm2"], ["vm3", "vm4"]]


def test_a_host_without_the_directory_has_no_copies(host):
    host().rmdir()
    assert (clones.who_has({A}), clones.shared()) == ({}, [])


def test_what_is_no_word_is_not_looked_at(host):
    directory = host(vm1={A}, vm2=set())
    for number in range(500):
        (directory / "vm2" / f"{number}").touch()
    (directory / "vm2" / "../vm1/x").symlink_to("/dev/zero")
    (directory / "file").touch()
    assert clones.shared() == []


def test_an_instance_shows_nothing_through_a_link(host, tmp_path):
    """Its own directory is its own, and what it makes there is an empty file."""
    directory = host(vm1=set())
    (directory / "vm1" / A).symlink_to(tmp_path / "elsewhere")
    clones.show(str(directory / "vm1"), {A, B})
    assert not (tmp_path / "elsewhere").exists()
    assert sorted(os.listdir(directory / "vm1")) == [A, B]


@pytest.mark.parametrize("order", [("/run/vtpm/vm1", "/run/vtpmkeys/vm1"), ("/run/vtpmkeys/vm1", "/run/vtpm/vm1")])
def test_systemd_may_name_the_directories_in_any_order(monkeypatch, order):
    monkeypatch.setenv("RUNTIME_DIRECTORY", ":".join(order))
    assert clones.own_directory() == "/run/vtpmkeys/vm1"
    assert status_socket.runtime_path("vm1", "status") == "/run/vtpm/vm1/status"


@pytest.mark.parametrize(("value", "expected"), [("", "/run/vtpm/vm1/status"), ("/tmp/x", "/tmp/x/status")])
def test_a_daemon_that_systemd_did_not_start_shows_nothing(monkeypatch, value, expected):
    monkeypatch.setenv("RUNTIME_DIRECTORY", value)
    assert clones.own_directory() is None
    assert status_socket.runtime_path("vm1", "status") == expected
