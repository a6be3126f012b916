"""Instances as people name them, what was meant perhaps, and the order of names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swtpm_svc.config.name_order import natural


@pytest.mark.parametrize(
    "typed", ["vm7", "vtpm@vm7", "vtpm@vm7.service", "vtpm@vm7.socket", "/dev/seven", "/run/x/ctrl"]
)
@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["status"], id="status"),
        pytest.param(["doctor"], id="doctor", marks=pytest.mark.needs("root")),  # whose the files are to be
    ],
)
def test_each_way_is_the_same_instance(system, run, typed, words):
    system.configure("vm7", '[device]\nname = "seven"\ngroup = "root"\n[socket]\ncontrol = "/run/x/ctrl"\n')
    system.configure("vm70")
    shown = run(*words, typed)[1]
    assert "vm7" in shown
    assert "vm70" not in shown
    assert shown == run(*words, "vm7")[1]


def test_a_device_and_a_file_by_their_unit(system, run):
    system.configure("vm7", '[device]\nname = "vtpm-none"\n')
    assert "/dev/vtpm-none does not exist" in run("init", "vtpm@vm7.service")[2]
    assert "/dev/vtpm-none does not exist" in run("ek", "vtpm@vm7")[2]
    assert run("check", "vtpm@vm7.service")[2] == run("check", "vm7")[2]


def test_a_path_that_is_nobody_s(system, run):
    system.configure("vm7")
    status, out, err = run("rekey", "/dev/nonesuch")
    assert (status, out) == (64, "")
    assert err.startswith(f"vtpmctl: no configuration in {system.places.config} has /dev/nonesuch\n")


@pytest.mark.parametrize("command", ["status", "init", "ek", "rekey", "check"])
def test_who_mistypes_a_name_is_told_the_one_that_was_meant(system, run, command):
    system.configure("signer")
    for typed in ("singer", "vtpm@singer.service"):
        status, _out, err = run(command, typed)
        assert status == 78
        cause = err.splitlines()[0]
        assert cause == f"vtpmctl: {system.places.config}/singer.toml does not exist; did you mean signer?"
    assert "did you mean" not in run(command, "another")[2]


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (["statuz"], "argument COMMAND: invalid choice: 'statuz'; did you mean status? (choose from "),
        (["ca", "exprt"], "argument ACTION: invalid choice: 'exprt'; did you mean export? (choose from "),
        (["save", "x", "permanentt", "f"], "argument type: invalid choice: 'permanentt'; did you mean permanent? (choose from "),
        (["frobnicate"], "argument COMMAND: invalid choice: 'frobnicate' (choose from "),
    ],
)  # fmt: skip
def test_who_mistypes_a_word_too(run, words, cause):
    status, _out, err = run(*words)
    assert status == 64
    assert err.startswith(f"vtpmctl: {cause}")


def test_the_order_is_a_person_s(system, run):
    for name in ("vm10", "vm9", "vm1", "a", "vm1b", "vm01", "B2"):
        system.configure(name)
    lines = run("list")[1].splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["B2", "a", "vm01", "vm1", "vm1b", "vm9", "vm10"]


@given(st.lists(st.text(st.sampled_from("ab019.-_")), unique=True))
def test_any_names_have_an_order_of_their_own(names):
    ordered, other = sorted(names, key=natural), list(names)
    other.reverse()
    other.sort(key=natural)
    assert other == ordered
