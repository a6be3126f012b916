"""The comma lists of swtpm's options."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swtpm_svc.cli.classic.comma_list import CommaListError, boolean, mode, number, parse

NAMES = ("dir", "mode", "lock", "profile")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("dir=/tmp", {"dir": "/tmp"}),
        ("lock", {"lock": "true"}),
        ("dir=a=b,lock=false", {"dir": "a=b", "lock": "false"}),
        ("mode=1,mode=2", {"mode": "1"}),
        ('profile={"a":{"b":1,"c":2}},lock', {"profile": '{"a":{"b":1,"c":2}}', "lock": "true"}),
        ("profile={}", {"profile": "{}"}),
    ],
)
def test_lists(text, values):
    assert parse(text, "tpmstate", NAMES) == values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Error parsing tpmstate options: Unknown option ''"),
        ("dir=/tmp,", "Error parsing tpmstate options: Unknown option ''"),
        ("dir=", "Error parsing tpmstate options: Unknown option 'dir='"),
        ("di=/tmp", "Error parsing tpmstate options: Unknown option 'di=/tmp'"),
        ("Dir=/tmp", "Error parsing tpmstate options: Unknown option 'Dir=/tmp'"),
        ('profile={"a":1', "Unterminated JSON map."),
        ("profile={}x", "Unexpected character following JSON map."),
        ("dir=/a,,lock", "Error parsing tpmstate options: Unknown option ''"),
    ],
)
def test_wrong_lists(text, message):
    with pytest.raises(CommaListError) as caught:
        parse(text, "tpmstate", NAMES)
    assert str(caught.value) == message


def test_booleans():
    values = {"a": "true", "b": "TRUE", "c": "1", "d": "yes", "e": "2", "f": "false"}
    assert [boolean(values, name) for name in values] == [True, True, True, False, False, False]
    assert not boolean(values, "g")
    assert boolean(values, "g", default=True)


@pytest.mark.parametrize("text", ["", "x", "1x", "0x10", "٣", "--3", "9" * 5000])
def test_what_is_not_a_number(text):
    with pytest.raises(CommaListError) as caught:
        number(text)
    assert str(caught.value) == f"invalid number '{text}'"


def test_numbers():
    assert (number("17"), number("-3"), mode("0640"), mode("7")) == (17, -3, 0o640, 7)


@pytest.mark.parametrize(
    ("text", "message"),
    [("rw", "invalid mode type 'rw'"), ("8", "invalid mode type '8'"), ("1000", "mode 1000 is invalid")],
)
def test_wrong_modes(text, message):
    with pytest.raises(CommaListError) as caught:
        mode(text)
    assert str(caught.value) == message


@given(st.text(alphabet='dirmode=,{}"lock', max_size=30))
def test_any_list(text):
    try:
        values = parse(text, "tpmstate", NAMES)
    except CommaListError:
        return
    assert set(values) <= set(NAMES)
    assert all(values.values())
