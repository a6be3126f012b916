"""Numbers as strtoull() reads them; each was asked of the C library."""

import ctypes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swtpm_svc.cli.classic.c_numbers import LARGEST, number32, unsigned

LIBC = ctypes.CDLL(None)
LIBC.strtoull.restype = ctypes.c_ulonglong


def of_the_c_library(text, base):
    buffer = ctypes.create_string_buffer(text.encode())
    end = ctypes.c_char_p()
    number = LIBC.strtoull(buffer, ctypes.byref(end), base)
    return number, (end.value or b"").decode()


TEXT = st.text("0123456789xXabcfF+- \tg", max_size=12) | st.integers(-(1 << 66), 1 << 66).map(str)


@pytest.mark.parametrize(
    "text", ["", "0", "0x", "0xg", "08", "0x1F", "-1", " +7z", "--1", "18446744073709551616", "１"]
)
@pytest.mark.parametrize("base", [0, 10])
def test_it_is_the_c_library_s_number(text, base):
    number, rest = unsigned(text, base)
    assert (min(number, LARGEST), rest) == of_the_c_library(text, base)


@given(TEXT, st.sampled_from([0, 10]))
def test_any_text_is_read_as_the_c_library_does(text, base):
    number, rest = unsigned(text, base)
    assert (min(number, LARGEST), rest) == of_the_c_library(text, base)


def test_what_is_too_large_can_be_told():
    assert unsigned("18446744073709551615") == (LARGEST, "")
    assert unsigned("18446744073709551616")[0] > LARGEST


def test_thirty_two_bits_of_it():
    assert [number32(text) for text in ("4294967297", "-1", "5x", "x", "")] == [1, 0xFFFFFFFF, 5, None, None]
