"""The patterns of words beside the regular expressions that say the same."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swtpm_svc.config import schema, word_patterns

SAME = {
    "NAME_PATTERN": rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{schema.NAME_MAX - 1}}}",
    "CREDENTIAL_PATTERN": r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}",
    "PROFILE_PATTERN": r"[A-Za-z0-9][A-Za-z0-9:._-]{0,63}",
    "PRINTABLE_PATTERN": r"[ -~]{1,128}",
    "SERIAL_PATTERN": r"[A-Za-z0-9 '()+,./:=?-]{0,64}",
}
LONG = [character * length for length in (1, 32, 63, 64, 65, 127, 128, 129, 254, 255, 256) for character in "aZ0~ -"]


def check(text):
    for name, expression in SAME.items():
        assert getattr(schema, name).fullmatch(text) == bool(re.fullmatch(expression, text)), (name, text)
    key = re.fullmatch(r"(?:0x)?(?:[0-9A-Fa-f]{32}|[0-9A-Fa-f]{64})", text)
    assert word_patterns.looks_like_key(text) == bool(key), text
    try:
        mode = schema.MODE.read(text)
    except ValueError:
        mode = None
    assert mode == (int(text, 8) if re.fullmatch(r"0?[0-7]{3}", text) else None), text


@given(st.text(max_size=70) | st.text("aZ09_.:- '~0x\n\0é٣", max_size=12) | st.text("01289", max_size=5))
def test_any_text(text):
    check(text)


@given(st.text("0123456789abcdefABCDEFxg", min_size=30, max_size=34) | st.text("0x1f", min_size=62, max_size=66))
def test_what_may_be_a_key(text):
    check(text)
    check("0x" + text)


@pytest.mark.parametrize("text", ["", "x", "0x", "a" * schema.NAME_MAX, "a" * (schema.NAME_MAX + 1), *LONG])
def test_lengths(text):
    check(text)
