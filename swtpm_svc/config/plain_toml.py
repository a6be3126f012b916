"""Reads the plain part of TOML, in which configurations are mostly written, without the parser, whose import takes long
(decisions/0024).

Plain are tables with one header each, bare keys, strings in simple quotes without escapes, integers without signs and
separators, booleans, comments. A test compares with the parser (TOML 1.0, toml.io).
"""

from swtpm_svc.wire.hints import Optional, Union

Tables = dict[str, dict[str, Union[str, int, bool]]]

_WORDS: "dict[str, bool]" = {"true": True, "false": False}
_DIGITS_MAX = 9


def read(text: str) -> Optional[Tables]:
    """The document; None if something in it is not plain, or not TOML."""
    if not text.replace("\n", "").isprintable():  # a tab is not plain
        return None
    tables: Tables = {}
    table = None
    for line in text.split("\n"):
        line = line.strip(" ")
        if not line or line[0] == "#":
            continue
        if line[0] == "[":
            name, bracket, rest = line[1:].partition("]")
            if not bracket or not _is_bare(name) or name in tables or not _is_comment(rest):
                return None
            table = tables[name] = {}
            continue
        key, equals, found = line.partition("=")
        key = key.rstrip(" ")
        if table is None or not equals or not _is_bare(key) or key in table:
            return None
        value = _value(found.lstrip(" "))
        if value is None:
            return None
        table[key] = value
    return tables


def _is_bare(name: str) -> bool:
    return name.isascii() and name.replace("-", "").replace("_", "").isalnum()


def _is_comment(rest: str) -> bool:
    rest = rest.lstrip(" ")
    return not rest or rest[0] == "#"


def _value(found: str) -> "Union[str, int, bool, None]":
    if found.startswith('"'):
        text, quote, rest = found[1:].partition('"')
        return text if quote and "\\" not in text and _is_comment(rest) else None
    word = found.partition("#")[0].rstrip(" ")
    if word in _WORDS:
        return _WORDS[word]
    is_number = word.isascii() and word.isdecimal() and len(word) <= _DIGITS_MAX and (word == "0" or word[0] != "0")
    return int(word) if is_number else None
