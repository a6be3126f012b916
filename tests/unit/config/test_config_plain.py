"""The plain part of TOML: what is read without the parser is what the parser reads."""

import re
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from swtpm_svc.config import plain_toml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[3]
PIECES = ["[", "]", "a", "b-c", "_", "é", "=", " ", "\t", "\n", "\r\n", "#", '"', '""', '"""', "'", "\\", "\\n", ".", ",", "{",
          "}", "0", "1", "10", "01", "-1", "+1", "1_0", "0x1", "1e3", "inf", "true", "false", "True", "1979-05-27", "[a]\n",
          "[b]\n", 'k = "v"\n', 'k="#"#\n', "l = 7 # x\n", "m = true\n", "\x7f", "\x00", "\u2028", "²", "٣"]  # fmt: skip


@pytest.mark.parametrize("name", ["vtpm0", "vtpm1"])
def test_the_examples_are_plain(name):
    text = (ROOT / f"etc/vtpm.d/{name}.toml").read_text()
    assert plain_toml.read(text) == tomllib.loads(text)
    text = re.sub(r"^#([a-z-]+ = )", r"\1", text, flags=re.MULTILINE)  # with every key that is there as a comment
    assert plain_toml.read(text) == tomllib.loads(text)
    assert sum(map(len, tomllib.loads(text).values())) > 30


@pytest.mark.parametrize("text", ["", "# only this", '[a]\nb = "x" # y\n', "[a]\n[b]\nc=0", '[a]\nb = "é ü"'])
def test_what_is_plain(text):
    assert plain_toml.read(text) == tomllib.loads(text)


@pytest.mark.parametrize(
    "text", ["a = 1", "[a.b]", "[[a]]", "[a]\nb.c = 1", "[a]\nb = 'x'", '[a]\nb = """x"""', "[a]\nb = [1]", "[a]\nb = 1979-05-27",
             "[a]\nb = 01", "[a]\nb = 1\nb = 2", "[a]\n[a]", "[a]\nb", "[a] b", "[a", "[]", '[a]\nb = "\\n"', "\ufeff", "[a]\r\n"]
)  # fmt: skip
def test_what_is_left_to_the_parser(text):
    assert plain_toml.read(text) is None


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
@example('[a]\nb = ""\n')
@example('[a]\nb = """"\n')
@example("[a]\nb = #\n")
@example("[a]\n= 1\n")
def test_whatever_is_read_is_what_the_parser_reads(text):
    found = plain_toml.read(text)
    if found is not None:
        assert found == tomllib.loads(text)
        for table, keys in tomllib.loads(text).items():
            assert {key: type(value) for key, value in keys.items()} == {
                key: type(value) for key, value in found[table].items()
            }
